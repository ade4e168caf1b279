"""The audio VAE: a BigVGAN decoder trained to sound the closed-form latents, and a DAC encoder trained to find them.

The latents are fixed beforehand (`latents.fit_audio`), so the decoder learns a plain regression from envelopes to samples:
multi-resolution STFT and L1, no adversary. Called by the command `audio-vae` and by `export`.
"""
import time
from pathlib import Path

import numpy as np
import torch

import latents
import parts
import sound
import world

WINDOW = 32             # latents of one training window, 0.8 s
MARGIN = 4              # latents at each end that are decoded but not judged
BATCH = 8
ENCODER_EVERY = 4       # the encoder is needed for references only: it takes part in every fourth batch
_WINDOWS = {size: torch.hann_window(size) for size in (128, 512, 2048)}


def fresh(basis):
    """A VAE whose decoder starts as a chain of linear upsamplers, because the latents are linear in the samples."""
    vae = parts.audio_vae(latents_mean=basis.latents_mean.tolist(), latents_std=basis.latents_std.tolist())
    for block in vae.decoder.resblocks:
        for conv in block.convs2:
            torch.nn.init.constant_(conv.weight_g, 1e-3)
            torch.nn.init.zeros_(conv.bias)
    torch.nn.init.constant_(vae.decoder.activation_post.act.beta, 4.0)
    torch.nn.init.normal_(vae.dec_in_proj.weight, std=0.3)
    return vae


def stft_loss(made, wanted):
    """Spectral convergence and log magnitude at three resolutions; (b, samples) each."""
    total = 0.0
    for size, window in _WINDOWS.items():
        a, b = (torch.stft(x, size, size // 4, window=window, return_complex=True).abs() for x in (made, wanted))
        total = total + (a - b).norm() / (b.norm() + 1e-2)
        total = total + 0.3 * (torch.log(a + 1e-2) - torch.log(b + 1e-2)).abs().mean()
    return total / len(_WINDOWS)


def _batch(rng):
    """(b, 1, samples): windows of random scenes, three in four with something to hear."""
    waves = []
    while len(waves) < BATCH:
        wave = sound.stereo(world.sample(rng, unsaid=0.0)[0], 480)
        for _ in range(2):
            first = int(rng.integers(0, 480 - WINDOW)) * 800
            window = wave[rng.integers(2), first:first + WINDOW * 800]
            if np.abs(window).max() > 0.1 or rng.random() < 0.15:
                waves.append(window)
    return torch.from_numpy(np.stack(waves[:BATCH]))[:, None]


def train(work, seed, steps):
    """Trains decoder and encoder for `steps` batches; goes on from `work`/audio_vae.pt."""
    basis, path = latents.load(work)[1], Path(work) / "audio_vae.pt"
    torch.manual_seed(seed)
    vae, step = fresh(basis), 0
    optim = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.8, 0.99), weight_decay=0.0)
    if path.exists():
        state = torch.load(path)
        vae.load_state_dict(state["vae"])
        optim.load_state_dict(state["optim"])
        step = state["step"]
    began, seen = time.time(), []
    while step < steps:
        for group in optim.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 50) * max(0.02, min(1, 2 * (1 - step / steps)))
        wave = _batch(np.random.default_rng((seed, 8, step)))
        raw = (wave.view(BATCH, WINDOW, 800) - basis.mean) @ basis.components
        noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(step)) * 0.03 * basis.latents_std
        made = vae.decode((raw + noise).transpose(1, 2)).sample
        judged = slice(MARGIN * 800, (WINDOW - MARGIN) * 800)
        error = (made - wave)[..., judged]
        loss = stft_loss(made[:, 0, judged], wave[:, 0, judged]) + 20 * error.abs().mean()
        if step % ENCODER_EVERY == 0:
            found = vae.encode(wave).latent_dist.mode() - raw.transpose(1, 2)
            loss = loss + (found / basis.latents_std[:, None])[..., MARGIN:-MARGIN].pow(2).mean()
        optim.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 5.0)
        optim.step()
        step += 1
        ratio = wave[..., judged].pow(2).sum() / error.detach().pow(2).sum()
        seen.append((10 * torch.log10(ratio).item(), float(loss.detach())))
        if step % 25 == 0 or step == steps:
            snr, level = np.mean(seen[-25:], 0)
            print(f"step {step} snr {snr:.1f} dB loss {level:.3f} {(time.time() - began) / 60:.1f} min", flush=True)
            torch.save(dict(vae=vae.state_dict(), optim=optim.state_dict(), step=step), path)
