"""The video VAE: its decoder written down in closed form, then tuned for sharpness; its encoder trained to agree.

The decoder starts as the exact inverse of the principal components: `proj_in` spreads each latent over a pair of opposite
channels of a stream that is otherwise constant, the blocks are the identity, and the last LayerNorm is then affine to
within a thousandth, so `proj_out` can hold the components. Called by the command `vae` and by `export`.
"""
import math
import time
from pathlib import Path

import numpy as np
import torch

import latents
import parts
import picture
import samples
import world
from layout import Clip, frames_of
from training import Muon

SPREAD = 0.05           # of a normalised latent in the stream, whose other channels are ±1
LATENT_NOISE = 0.05     # the transformer's latents are not exact, so the decoder is tuned on inexact ones
NEAR_WEIGHT = 4.0       # of blocks that the object touches: what moves is what the closed form blurs
CHUNK = 7               # latent frames that are decoded together


def closed_form(basis):
    """A VAE whose decoder inverts `basis`."""
    vae = parts.video_vae(latents_mean=basis.latents_mean.tolist(), latents_std=basis.latents_std.tolist())
    decoder, channels = vae.decoder, latents.VIDEO_CHANNELS
    width = decoder.proj_in.out_features
    constant = width - 2 * channels
    with torch.no_grad():
        vae.post_quant_conv.weight.copy_(torch.eye(channels).view(channels, channels, 1, 1, 1))
        vae.post_quant_conv.bias.zero_()
        enter = torch.diag(SPREAD / basis.latents_std)
        decoder.proj_in.weight.copy_(torch.cat([enter, -enter, torch.zeros(constant, channels)]))
        decoder.proj_in.bias.zero_()
        decoder.proj_in.bias[2 * channels:] = torch.tensor([1.0, -1.0]).repeat(constant // 2)
        for block in decoder.transformer_blocks:        # lets them see the latents as large as what is constant
            for norm in (block.norm1, block.norm2):
                norm.weight[:2 * channels] = 1 / SPREAD
        decoder.norm_out.weight.fill_((constant / width) ** 0.5)
        decoder.norm_out.bias.zero_()
        leave = basis.components * (basis.latents_std / (2 * SPREAD))
        decoder.proj_out.weight.copy_(torch.cat([leave, -leave, torch.zeros(3072, constant)], 1))
        decoder.proj_out.bias.copy_(basis.mean)
    return vae


def _tile(draw, rng, basis):
    """A tile as the renderer decodes it: raw latents (1, 24, 7, h, w), pixels (1, 3, 28, H, W), normalised, and weights."""
    canvas = latents.CANVASES[rng.integers(4)]
    clip = Clip(*canvas, 12)
    scene, _ = world.sample(rng, unsaid=0.0)
    while scene.rolls and rng.random() < 0.7:       # what falls is fast, and what is fast needs the tuning
        scene, _ = world.sample(rng, unsaid=0.0)
    chunk = int(min(rng.exponential(5.0), clip.latent_frames // 5 - 1))
    sizes = [min(8, size // 32) for size in (clip.height, clip.width)]
    ends = [size // 32 - tile for size, tile in zip((clip.height, clip.width), sizes)]
    top, left = (rng.integers(0, end + 1) for end in ends)
    grid = np.meshgrid(np.arange(CHUNK) + 5 * chunk, np.arange(sizes[0]) + top, np.arange(sizes[1]) + left,
                       indexing="ij")
    latent, row, column = (axis.reshape(-1) for axis in grid)
    near = picture.touches(scene, frames_of(latent), row * 32, column * 32, canvas)
    pixels = torch.empty(len(near), 3, 4, 32, 32)
    for own, image in samples.images(draw, scene, clip, (latent, row, column), near):
        pixels[own] = image
    raw = (latents.patches(pixels) - basis.mean) @ basis.components
    pixels = ((pixels - latents.PIXEL_MEAN) / latents.PIXEL_STD).view(CHUNK, *sizes, 3, 4, 32, 32)
    pixels = pixels.permute(3, 0, 4, 1, 5, 2, 6).reshape(1, 3, CHUNK * 4, sizes[0] * 32, sizes[1] * 32)
    raw = raw.view(CHUNK, *sizes, 2, 2, -1).permute(5, 0, 1, 3, 2, 4)
    weights = 1 + (NEAR_WEIGHT - 1) * torch.from_numpy(near).float().view(1, 1, CHUNK, *sizes)
    weights = weights.repeat_interleave(4, 2).repeat_interleave(32, 3).repeat_interleave(32, 4)
    return raw.reshape(1, -1, CHUNK, sizes[0] * 2, sizes[1] * 2), pixels, weights / weights.mean()


def psnr(decoded, pixels, where=None):
    """In dB of 0..1 pixels, from normalised ones; `where` picks pixels."""
    error = (decoded - pixels) * latents.PIXEL_STD
    return -10 * torch.log10((error if where is None else error[where]).pow(2).mean()).item()


def train(work, seed, steps):
    """Tunes the decoder for `steps` tiles; goes on from `work`/video_vae.pt."""
    basis, path = latents.load(work)[0], Path(work) / "video_vae.pt"
    torch.manual_seed(seed)
    vae, step = closed_form(basis), 0
    # `proj_in` stays as it is: its weights are so small that a step of AdamW would undo the closed form.
    blocks = list(vae.decoder.transformer_blocks.parameters())
    matrices, rest = ([w for w in blocks if (w.ndim == 2) == wide] for wide in (True, False))
    leave = [*vae.decoder.norm_out.parameters(), *vae.decoder.proj_out.parameters()]
    optims = (Muon(matrices, lr=0.02), torch.optim.AdamW([vae.decoder.register_tokens, *rest], lr=2e-3, weight_decay=0.0),
              torch.optim.AdamW(leave, lr=3e-4, weight_decay=0.0))
    rates = [optim.param_groups[0]["lr"] for optim in optims]
    if path.exists():
        state = torch.load(path)
        vae.load_state_dict(state["vae"])
        for optim, saved in zip(optims, state["optims"]):
            optim.load_state_dict(saved)
        step = state["step"]
    draw = samples.drawer()
    spread, began, seen = basis.latents_std.view(1, -1, 1, 1, 1), time.time(), []
    while step < steps:
        rng = np.random.default_rng((seed, 7, step))
        raw, pixels, weights = _tile(draw, rng, basis)
        noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(step)) * LATENT_NOISE
        for optim, lr in zip(optims, rates):
            optim.param_groups[0]["lr"] = lr * min(1, (step + 1) / 50) * max(0.02, min(1, 2 * (1 - step / steps)))
            optim.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decoder(raw + noise * spread)
        error = decoded.float() - pixels
        loss = ((error.abs() + 2 * error.square()) * weights).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        for optim in optims:
            optim.step()
        step += 1
        made, near = decoded.detach(), (weights > 1).expand_as(pixels)
        seen.append((psnr(made, pixels), psnr(made, pixels, near) if near.any() else math.nan))
        if step % 50 == 0 or step == steps:
            whole, near = np.nanmean(seen[-50:], 0)
            print(f"step {step} psnr {whole:.2f} dB near {near:.2f} dB {(time.time() - began) / 60:.1f} min", flush=True)
            torch.save(dict(vae=vae.state_dict(), optims=[o.state_dict() for o in optims], step=step), path)
