"""Training samples of the transformer, made as they are needed: the film of a random scene, cut to some of its rows.

A sample is a function of `(seed, number)`, so a resumed training sees what an unbroken one would have seen. Three cuts:
`sparse` (scattered latent frames, the rows that the object touches and a few more), `dense` (a run of whole latent
frames) and `whole` (a whole clip: what the renderer runs). Called by `training`.
"""
import os
from dataclasses import dataclass

import numpy as np
import torch

import layout
import picture
import world
from latents import audio_rows, load, video_rows
from layout import Clip, frames_of

CANVASES = ((288, 512), (512, 288), (160, 288), (288, 160))
CANVAS_ODDS = (0.70, 0.08, 0.15, 0.07)
SECONDS, SECONDS_ODDS = (4, 5, 8, 10, 12), (0.05, 0.05, 0.10, 0.60, 0.20)

EARLY = 30      # latent frames, 4 s: most of what moves, moves then


@dataclass
class Cut:
    """How much of a clip a sample holds, and how often this cut is drawn."""
    kind: str
    odds: float
    video: int = 0     # about as many video rows
    audio: int = 0     # audio latents, each in both channels


PHASES = {
    "base": (Cut("sparse", 0.85, 320, 40), Cut("dense", 0.15, 432, 60)),
    "mixed": (Cut("sparse", 0.50, 620, 60), Cut("dense", 0.30, 1000, 100), Cut("sparse", 0.20, 2600, 200)),
    "whole": (Cut("sparse", 0.40, 900, 80), Cut("sparse", 0.30, 4000, 400), Cut("whole", 0.30)),
}


def _sparse(rng, scene, clip, count):
    """Rows of scattered latent frames, early ones more often: all near the object, and as many others again."""
    odds = np.exp(-np.arange(clip.latent_frames) / EARLY) + 0.2
    frames = rng.choice(clip.latent_frames, clip.latent_frames, replace=False, p=odds / odds.sum())
    grid = np.meshgrid(frames, np.arange(clip.rows), np.arange(clip.columns), indexing="ij")
    latent, row, column = (axis.reshape(-1) for axis in grid)
    near = picture.touches(scene, frames_of(latent), row * 32, column * 32, clip.canvas)
    other = ~near & (rng.random(len(near)) < 1.2 * near.mean() / max(1e-6, 1 - near.mean()))
    chosen = np.sort(np.flatnonzero(near | other)[:count])
    order = np.lexsort((column[chosen], row[chosen], latent[chosen]))
    return tuple(axis[chosen][order] for axis in (latent, row, column))


def _dense(rng, clip, count):
    run = min(clip.latent_frames, max(1, count // (clip.rows * clip.columns)))
    first = rng.integers(0, clip.latent_frames - run + 1)
    grid = np.meshgrid(np.arange(first, first + run), np.arange(clip.rows), np.arange(clip.columns), indexing="ij")
    return tuple(axis.reshape(-1) for axis in grid)


def _some_audio(rng, clip, count):
    """A run of latents and as many scattered ones, in both channels, channel-major."""
    count = min(count, clip.audio_latents)
    first = rng.integers(0, clip.audio_latents - count // 2 + 1)
    scattered = rng.permutation(clip.audio_latents)[:count // 2]
    latent = np.union1d(np.arange(first, first + count // 2), scattered)
    return np.tile(latent, 2), np.repeat([0, 1], len(latent))


def _cut(rng, scene, clip, cut):
    if cut.kind == "whole":
        return layout.whole(clip)
    video = _sparse(rng, scene, clip, cut.video) if cut.kind == "sparse" else _dense(rng, clip, cut.video)
    return _some_audio(rng, clip, cut.audio), video


def draw(bases, tokenizer, seed, number, phase):
    """One sample: a dictionary of token ids, clean rows, positions, and the weight of each video row."""
    rng = np.random.default_rng((seed, number))
    cuts = PHASES[phase]
    cut = cuts[rng.choice(len(cuts), p=[c.odds for c in cuts])]
    canvas = CANVASES[rng.choice(4, p=CANVAS_ODDS)]
    seconds = int(rng.choice(SECONDS, p=SECONDS_ODDS))
    if cut.kind == "whole":     # the default clip half of the time; otherwise a small canvas, to be affordable
        canvas = CANVASES[rng.choice(4, p=(0.5, 0.1, 0.25, 0.15))]
    clip = Clip(*canvas, seconds)
    scene, silent = world.training_scene(rng)
    ids = tokenizer.encode(world.caption(scene, silent, rng), add_special_tokens=False).ids
    audio, video = _cut(rng, scene, clip, cut)
    latent, row, column = video
    near = picture.touches(scene, frames_of(latent), row * 32, column * 32, clip.canvas)
    return {
        "ids": torch.tensor([ids]),
        "video": video_rows(bases[0], scene, clip, *video),
        "audio": audio_rows(bases[1], scene, clip, *audio),
        "near": torch.from_numpy(near),
        "packed": layout.pack(len(ids), layout.audio_positions(clip, *audio), layout.video_positions(clip, *video)),
    }


class Stream(torch.utils.data.IterableDataset):
    """Endless samples from number `first` on. Runs in one helper process at low priority."""

    def __init__(self, work, seed, first, phase):
        self.work, self.seed, self.first, self.phase = work, seed, first, phase

    def __iter__(self):
        import words

        if torch.utils.data.get_worker_info() is not None:
            os.setsid()     # a session of its own, so that the kernel's grouping does not take the trainer's share
            os.nice(5)
        torch.set_num_threads(1)
        bases, tokenizer, number = load(self.work), words.tokenizer(), self.first
        while True:
            yield draw(bases, tokenizer, self.seed, number, self.phase)
            number += 1


def stream(work, seed, first, phase):
    loader = torch.utils.data.DataLoader(Stream(work, seed, first, phase), batch_size=None, num_workers=1,
                                         prefetch_factor=12)
    return iter(loader)
