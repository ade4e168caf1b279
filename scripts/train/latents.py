"""Pictures and sound to latents and back, in closed form: principal components of patches.

Both autoencoders are linear by construction. A video latent holds 24 components of a 4×16×16 patch of ImageNet-normalised pixels (the
first latent of every five repeats one frame four times); an audio latent holds 32 components of 800 samples. The
decoders in `vae_training` start from, or are trained towards, these bases, so the transformer can be trained before they are.
Called by `vae_training`, `training` and `sampling`.
"""
from pathlib import Path

import numpy as np
import torch

import picture
import sound
import world
from layout import Clip, frames_of

PIXEL_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1, 1)
PIXEL_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1, 1)
VIDEO_CHANNELS, AUDIO_CHANNELS = 24, 32
# Normalised latents of weak components would be mostly noise to learn: none is scaled up to more than this share.
VIDEO_STD_FLOOR, AUDIO_STD_FLOOR = 0.10, 0.15
CANVASES = ((288, 512), (512, 288), (160, 288), (288, 160))


def patches(image):
    """(n, 3, 4, 32, 32) pixels in 0..1 to (n, 4, 3072) normalised patches: the four latents of a row, in row order."""
    image = (image - PIXEL_MEAN) / PIXEL_STD
    n = len(image)
    image = image.view(n, 3, 4, 2, 16, 2, 16).permute(0, 3, 5, 1, 2, 4, 6)
    return image.reshape(n, 4, 3072)


class Basis:
    """Mean, components (columns) and the statistics of the projected latents."""

    def __init__(self, mean, components, latents_mean, latents_std):
        self.mean, self.components = mean, components
        self.latents_mean, self.latents_std = latents_mean, latents_std

    @classmethod
    def fit(cls, samples, weights, channels, floor):
        """`samples` (n, d) f32, `weights` (n): the largest components of the weighted covariance."""
        weights = (weights / weights.sum())[:, None]
        mean = (samples * weights).sum(0)
        centred = samples - mean
        _, vectors = torch.linalg.eigh((centred * weights).T @ centred)
        components = vectors[:, -channels:].flip(1).contiguous()
        latents = centred @ components
        std = ((latents**2) * weights).sum(0).sqrt()
        return cls(mean, components, torch.zeros(channels), std.clamp(min=floor * float(std.max())))

    def encode(self, samples):
        """Normalised latents."""
        return ((samples - self.mean) @ self.components - self.latents_mean) / self.latents_std

    def decode(self, latents):
        return (latents * self.latents_std + self.latents_mean) @ self.components.T + self.mean

    def state(self):
        return {name: getattr(self, name) for name in ("mean", "components", "latents_mean", "latents_std")}


def _random_rows(rng, count):
    """Blocks of random scenes, half of them touched by the object, with weights that undo that choice in part."""
    canvas = CANVASES[rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))]
    clip = Clip(*canvas, 12)
    scene, _ = world.sample(rng, unsaid=0.0)
    latent = rng.integers(0, clip.latent_frames, count * 8)
    tops, lefts = (rng.integers(0, size // 32, count * 8) * 32 for size in (canvas[1], canvas[0]))
    near = picture.touches(scene, frames_of(latent), tops, lefts, canvas)
    chosen = np.concatenate([np.flatnonzero(near)[:count // 2], np.flatnonzero(~near)[:count // 2]])
    return picture.blocks(scene, frames_of(latent)[chosen], tops[chosen], lefts[chosen], canvas)


def fit_video(seed, scenes=400, rows=48):
    rng = np.random.default_rng(seed)
    samples = torch.cat([patches(_random_rows(rng, rows)).view(-1, 3072) for _ in range(scenes)])
    return Basis.fit(samples, torch.ones(len(samples)), VIDEO_CHANNELS, VIDEO_STD_FLOOR), samples


def fit_audio(seed, scenes=300):
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(scenes):
        wave = torch.from_numpy(sound.stereo(world.sample(rng, unsaid=0.0)[0], 480)).view(-1, 800)
        samples.append(wave[torch.from_numpy(rng.permutation(len(wave))[:200])])
    samples = torch.cat(samples)
    # Silence needs no component of its own: the mean stays zero.
    basis = Basis.fit(torch.cat([samples, -samples]), torch.ones(2 * len(samples)), AUDIO_CHANNELS, AUDIO_STD_FLOOR)
    return basis, samples


def save(path, video, audio):
    torch.save({"video": video.state(), "audio": audio.state()}, path)


def load(work):
    """`(video, audio)` bases, as the command `data` left them in the work folder."""
    state = torch.load(Path(work) / "bases.pt")
    return Basis(**state["video"]), Basis(**state["audio"])


def video_rows(basis, scene, clip, latent, row, column):
    """Normalised rows (n, 96) of a scene's film, channel-major inside a row."""
    pixels = picture.blocks(scene, frames_of(latent), row * 32, column * 32, clip.canvas)
    return basis.encode(patches(pixels)).transpose(1, 2).reshape(len(latent), -1)


def audio_rows(basis, scene, clip, latent, channel):
    """Normalised rows (n, 32) of a scene's sound."""
    wave = torch.from_numpy(sound.stereo(scene, clip.audio_latents)).view(2, -1, 800)
    return basis.encode(wave[torch.from_numpy(channel), torch.from_numpy(latent)])
