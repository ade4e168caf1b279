"""Times the reference: `python scripts/parity/bench.py FOLDER WIDTHxHEIGHT FRAMES STEPS THREADS [f32]`.

One denoising step, the sound and the decode of a clip with diffusers, on the weights of a model folder, in bf16 as
published (autoencoders as their `_keep_in_fp32_modules` say), with noise for latents. Prints the seconds as JSON, with
the names of `worker/src/bare.rs`; `scripts/bench` holds both side by side. Loading is not part of any figure. Threads wait
as OpenMP lets them by default, which is to spin for long: faster than to sleep at once, as nobody else wants the cores.
"""
import json
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLMiniMaxH3, MiniMaxH3Transformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_minimax_h3_audio import AutoencoderKLMiniMaxH3Audio
from diffusers.modular_pipelines.minimax_h3 import before_denoise

TEXT_ROWS = 28
# Of the pixels that the decoder makes.
PIXEL_MEAN, PIXEL_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def seconds(work, times=1):
    """On the clock, and of all cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return (time.perf_counter() - wall) / times, (time.process_time() - cpu) / times


def step(folder, width, height, latent_frames, audio_latents, dtype):
    """One forward of a whole sequence."""
    net = MiniMaxH3Transformer3DModel.from_pretrained(folder, torch_dtype=dtype).eval()
    config = net.config
    names = ("position_ids", "token_tags", "video_indices", "audio_indices", "text_indices")
    layout = dict(zip(names, before_denoise.MiniMaxH3PrepareLayoutStep.build_packed_sequence(
        torch.ones(TEXT_ROWS, dtype=torch.long), latent_frames, height // 16, width // 16, audio_latents, (1, 2, 2), 2,
        audio_tag=2, video_tag=0)))
    times, indices = before_denoise.MiniMaxH3SetTimestepsStep.build_row_timesteps(
        layout["video_indices"], layout["audio_indices"], 0, 0, TEXT_ROWS, 0.25, 0.5, 0.999, 1.0)
    return lambda: net(
        hidden_states=torch.randn(1, len(layout["video_indices"]), config.in_channels * 4),
        audio_hidden_states=torch.randn(1, len(layout["audio_indices"]), config.audio_in_channels),
        encoder_hidden_states=torch.randn(1, TEXT_ROWS, config.text_dim, dtype=dtype),
        timestep=times, timestep_indices=indices, return_dict=False, **layout)


def pictures(vae, latents):
    """As ours: from latents of the transformer to bytes of RGB. The pipeline's decode block, up to its `clamp`."""
    channels = lambda values: torch.tensor(values).view(1, -1, 1, 1, 1)
    video = vae.decode(latents * channels(vae.config.latents_std) + channels(vae.config.latents_mean), return_dict=False)[0]
    video = (video.float() * channels(PIXEL_DEVIATION) + channels(PIXEL_MEAN)).clamp(0, 1)
    return (video * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


@torch.no_grad()
def main(folder, canvas, frames, steps, threads, dtype="bf16"):
    torch.set_num_threads(int(threads))
    dtype = torch.float32 if dtype == "f32" else torch.bfloat16
    folder, steps = Path(folder), int(steps)
    width, height = map(int, canvas.split("x"))
    chunks = max(1, -(-(int(frames) - 5) // 17))
    latent_frames, audio_latents = 5 * chunks + 2, round((17 * chunks + 5) / 24 * 40)
    forward = step(folder / "transformer", width, height, latent_frames, audio_latents, dtype)
    forward()
    step_s, step_cpu_s = seconds(forward, max(1, steps - 1))
    audio_vae = AutoencoderKLMiniMaxH3Audio.from_pretrained(folder / "audio_vae").eval()
    sound = torch.randn(2, audio_vae.config.latent_channels, audio_latents)
    audio_vae.decode(sound)
    sound_s, sound_cpu_s = seconds(lambda: audio_vae.decode(sound))
    vae = AutoencoderKLMiniMaxH3.from_pretrained(folder / "vae", torch_dtype=dtype).eval()
    latents = torch.randn(1, vae.config.latent_channels, latent_frames, height // 16, width // 16)
    pictures(vae, latents)
    decode_s, decode_cpu_s = seconds(lambda: pictures(vae, latents))
    print(json.dumps(dict(
        step_s=step_s, step_cpu_s=step_cpu_s, denoise_s=steps * step_s, sound_s=sound_s, sound_cpu_s=sound_cpu_s,
        decode_s=decode_s, decode_cpu_s=decode_cpu_s), indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
