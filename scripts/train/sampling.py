"""Renders a prompt as the farm does: text, noise, the two sigma schedules, latents; then pictures and sound.

Decoding is by the closed form (`latents.Basis`) for quick looks, or by a model folder's own autoencoders. Called by the
commands `sample` and `evaluate`.
"""
import time

import numpy as np
import torch

import latents
import layout
import parts
from training import shifted


def sigmas(points, shift):
    return [shifted(float(base), shift) for base in torch.linspace(1, 0, points)]


@torch.no_grad()
def render(nets, ids, clip, seed, points=parts.POINTS):
    """Denoised rows `(video (n, 96), audio (n, 32))` of a whole clip."""
    audio_at, video_at = layout.whole(clip)
    packed = layout.pack(len(ids), layout.audio_positions(clip, *audio_at), layout.video_positions(clip, *video_at))
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(len(video_at[0]), 96, generator=generator)
    audio = torch.randn(len(audio_at[0]), 32, generator=generator)
    text = nets.encode(torch.tensor([ids]))
    grid, audio_grid = sigmas(points, parts.VIDEO_SHIFT), sigmas(points, parts.AUDIO_SHIFT)
    for n in range(points - 1):
        velocity, audio_velocity = nets.predict(text, video, audio, packed, 1 - grid[n], 1 - audio_grid[n])
        video = _step(video, velocity, grid[n], grid[n + 1])
        audio = _step(audio, audio_velocity, audio_grid[n], audio_grid[n + 1])
    return video, audio


def _step(rows, velocity, sigma, following):
    ratio = following / sigma
    return ratio * rows + (1 - ratio) * (rows + sigma * velocity)


def unpack(rows, clip):
    """(n, 96) video rows to normalised latents (24, t, h, w)."""
    rows = rows.view(clip.latent_frames, clip.rows, clip.columns, latents.VIDEO_CHANNELS, 2, 2)
    return rows.permute(3, 0, 1, 4, 2, 5).reshape(latents.VIDEO_CHANNELS, clip.latent_frames, clip.rows * 2, -1)


def pictures(basis, rows, clip, every=1):
    """(frames, height, width, 3) u8 by the closed form; `every` skips latent frames for quick looks."""
    grid = unpack(rows, clip)[:, ::every]
    t, h, w = grid.shape[1:]
    image = basis.decode(grid.permute(1, 2, 3, 0)).view(t, h, w, 3, 4, 16, 16)
    image = image.permute(0, 4, 1, 5, 2, 6, 3).reshape(t, 4, h * 16, w * 16, 3)
    image = image * latents.PIXEL_STD.view(3) + latents.PIXEL_MEAN.view(3)
    image = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    if every > 1:
        return image[:, 3]
    # The first latent of every five covers one frame; its other three copies are dropped.
    keep = np.concatenate([np.array([3]) + 4 * n if n % 5 == 0 else np.arange(4) + 4 * n for n in range(t)])
    return image.reshape(-1, h * 16, w * 16, 3)[keep]


def waves(basis, rows, clip):
    """(2, samples) f32 by the closed form."""
    return basis.decode(rows.view(2, clip.audio_latents, -1)).reshape(2, -1).clamp(-1, 1).numpy()


def sheet(films):
    """One row of frames for each film."""
    return np.concatenate([np.concatenate(list(film), 1) for film in films], 0)


def timed(function, *arguments, **options):
    began = time.time()
    result = function(*arguments, **options)
    return result, time.time() - began
