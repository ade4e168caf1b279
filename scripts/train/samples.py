"""Training samples of the transformer: rows of films of random scenes, drawn once and kept in files.

A row is 32×32 pixels of one latent frame, at its true position in a twelve-second clip. Each sample holds rows of one
scene on one canvas, most of them near the object, and the scene's caption in two wordings. A sample is a function of
`(seed, number)`. Sounds have far fewer kinds than pictures, so theirs are all kept, in one table. Called by the command
`samples`; `training` reads the files.
"""
import dataclasses
import itertools
import os
import time
from pathlib import Path

import numpy as np
import torch

import latents
import layout
import picture
import sound
import words
import world
from layout import Clip, frames_of

CANVASES = ((288, 512), (160, 288), (512, 288), (288, 160))
CANVAS_ODDS = (0.45, 0.35, 0.10, 0.10)
SECONDS = 12
ROWS, NEAR = 448, 0.62       # rows of a sample, and the share of them that the object or its shadow may touch
FRAMES = 36                  # latent frames that a sample's rows are taken from
EARLY = 30                   # latent frames, 4 s: most of what moves, moves then
SHARD = 128                  # samples of one file
KNOTS = 64                   # times at which the object's path is told to the auxiliary heads
_BLOCKS = 64                 # blocks that are drawn together: their planes stay in the processor's cache
LONGEST = len(words.ATTRIBUTES) + 2 + len(words.CLOCK)     # "a sunny day" is two tokens


def _rows(rng, scene, clip):
    """`(latent, row, column)` of a sample's rows."""
    odds = np.exp(-np.arange(clip.latent_frames) / EARLY) + 0.25
    frames = rng.choice(clip.latent_frames, FRAMES, replace=False, p=odds / odds.sum())
    grid = np.meshgrid(frames, np.arange(clip.rows), np.arange(clip.columns), indexing="ij")
    latent, row, column = (axis.reshape(-1) for axis in grid)
    near = picture.touches(scene, frames_of(latent), row * 32, column * 32, clip.canvas)
    inside, outside = (rng.permutation(np.flatnonzero(mask)) for mask in (near, ~near))
    count = min(len(inside), max(int(NEAR * ROWS), ROWS - len(outside)))
    chosen = np.concatenate([inside[:count], outside[:ROWS - count]])
    return tuple(axis[chosen] for axis in (latent, row, column)), near[chosen]


def images(drawer, scene, clip, rows, near):
    """`(numbers, pixels)` of parts of the rows, drawn by the compiled `picture.draw` in blocks of one fixed size."""
    latent, row, column = rows
    looks = picture.look(scene)[None].expand(_BLOCKS, -1).contiguous()
    for touched in (True, False):
        part = np.flatnonzero(near == touched)
        for own in (part[n:n + _BLOCKS] for n in range(0, len(part), _BLOCKS)):
            full = np.resize(own, _BLOCKS)
            where = picture.geometry(scene, frames_of(latent[full]), row[full] * 32, column[full] * 32, clip.canvas)
            image = torch.stack(drawer(looks, *(value.contiguous() for value in where), touched), 1)
            yield own, image[:len(own)]


def drawer():
    return torch.compile(picture.draw, dynamic=False)


def _encoded(draw, basis, scene, clip, rows, near):
    """The rows' normalised latents (n, 96)."""
    out = torch.empty(len(near), 96)
    for own, image in images(draw, scene, clip, rows, near):
        out[own] = basis.encode(latents.patches(image)).transpose(1, 2).reshape(len(own), -1)
    return out


def sample(draw, basis, tokenizer, seed, number):
    rng = np.random.default_rng((seed, number))
    clip = Clip(*CANVASES[rng.choice(4, p=CANVAS_ODDS)], SECONDS)
    scene, silent = world.training_scene(rng)
    ids = torch.zeros(2, LONGEST, dtype=torch.int16)       # padded on the left
    for wording in ids:
        known = tokenizer.encode(world.caption(scene, silent, rng), add_special_tokens=False).ids
        wording[LONGEST - len(known):] = torch.tensor(known)
    rows, near = _rows(rng, scene, clip)
    path = np.stack(world.on_canvas(scene, np.arange(KNOTS) * SECONDS / KNOTS), -1)
    now = frames_of(rows[0]).mean(-1) / world.FPS
    zoom, shift = world.camera(scene, now)
    unit = (clip.width * clip.height) ** 0.5
    own = np.stack([(rows[2] * 32 + 16 - clip.width / 2) / unit, (rows[1] * 32 + 16 - clip.height / 2) / unit], -1)
    return {
        "ids": ids, "scene": torch.tensor(indices(scene), dtype=torch.int16),
        "rows": _encoded(draw, basis, scene, clip, rows, near).half(),
        "at": torch.from_numpy(layout.video_positions(clip, *rows)).float(),
        "ends": torch.from_numpy(layout.audio_positions(clip, np.zeros(2), np.array([0, 1]))[:, 2]).float(),
        "near": torch.from_numpy(near), "path": torch.from_numpy(path).float(),
        # own place, object's place and radius, zoom, shift, small canvas
        "truth": torch.from_numpy(np.concatenate(
            [own, np.stack(world.on_canvas(scene, now), -1), zoom[:, None], shift[:, None],
             np.full((len(own), 1), float(unit < 300))], 1)).float(),
    }


def indices(scene):
    return [values.index(getattr(scene, name)) for name, values in words.ATTRIBUTES.items()]


def make(work, seed, count, first=0, stride=1):
    """Makes the shards of `count` samples that are not there yet; `first` and `stride` share them among processes."""
    folder = Path(work) / "samples"
    folder.mkdir(exist_ok=True)
    basis, tokenizer, began, made = latents.load(work)[0], words.tokenizer(), time.time(), 0
    draw = drawer()
    for shard in range(first, count // SHARD, stride):
        path = folder / f"{shard:05}.pt"
        if path.exists():
            continue
        drawn = [sample(draw, basis, tokenizer, seed, shard * SHARD + n) for n in range(SHARD)]
        stacked = {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
        torch.save(stacked, f"{path}.part")
        os.replace(f"{path}.part", path)
        made += SHARD
        print(f"shard {shard} {made / (time.time() - began):.1f} samples/s", flush=True)


def _sound_key(scene):
    """What a scene's sound depends on, with everything else at its default."""
    fixed = dict(colour="red", shape="ball")
    if scene.rolls:
        fixed |= dict(material="rubber", size="large", place="center")
    return dataclasses.replace(scene, **fixed)


def make_sounds(work):
    """Every kind of sound, 12 s of it: `table` (kinds, hops, 2, 32) and the `impacts` (kinds, 64) in hops, padded with -1."""
    basis, hops = latents.load(work)[1], Clip(288, 512, SECONDS).audio_latents
    kinds, table, impacts = {}, [], []
    for values in itertools.product(*words.ATTRIBUTES.values()):
        scene = world.Scene(*values)
        if _sound_key(scene) != scene:
            continue
        wave = torch.from_numpy(sound.stereo(scene, hops)).view(2, hops, sound.HOP)
        kinds[scene] = len(table)
        table.append(basis.encode(wave).transpose(0, 1).half())
        times = [int(40 * when) for when, _ in world.falls(scene)[2] if 40 * when < hops - 1][:64]
        impacts.append(times + [-1] * (64 - len(times)))
    path = Path(work) / "sounds.pt"
    torch.save(dict(table=torch.stack(table), impacts=torch.tensor(impacts, dtype=torch.int16),
                    kinds={tuple(indices(scene)): kind for scene, kind in kinds.items()}), path)
    print(f"{len(table)} kinds of sound")


def sound_kind(kinds, scene_indices):
    scene = world.Scene(*(values[n] for values, n in zip(words.ATTRIBUTES.values(), scene_indices)))
    return kinds[tuple(indices(_sound_key(scene)))]
