"""Makes the golden data of the parity tests: `python scripts/parity/make.py tests/golden`.

Writes `h3-tiny/` (a model folder), `h3-*.safetensors` (inputs and outputs of the reference in f32, on the CPU) and
`h3-released-keys.txt` (key names and shapes of the published configuration, from the meta device). Needs torch 2.13,
diffusers 0.42.1 and transformers 5.23.0; the same seeds make the same files up to the last bits of torch's kernels.
Pictures are kept at every third row and fifth column only, to stay small.
"""
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLMiniMaxH3, MiniMaxH3Scheduler, MiniMaxH3Transformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_minimax_h3_audio import AutoencoderKLMiniMaxH3Audio
from diffusers.modular_pipelines.minimax_h3 import before_denoise
from safetensors.torch import save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

import tiny

PROMPT = "a large red ball bounces on the grass at midnight ."
STEPS, FRAMES, HEIGHT, WIDTH = 8, 56, 64, 96


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sparse(frames):
    """(1, 3, t, H, W) to (3, t, H / 3, W / 5)."""
    return frames[0, :, :, ::3, ::5].contiguous()


def condition(text, ids):
    """What `get_qwen3vl_prompt_embeds` returns for a prompt without pictures."""
    states = text(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    return states[tiny.TEXT_LAYER]


def pack(text_rows, latent_frames, audio_latents):
    """The packed layout of the published pipeline."""
    names = ("position_ids", "token_tags", "video_indices", "audio_indices", "text_indices")
    values = before_denoise.MiniMaxH3PrepareLayoutStep.build_packed_sequence(
        torch.ones(text_rows, dtype=torch.long), latent_frames, HEIGHT // 16, WIDTH // 16, audio_latents, (1, 2, 2), 2,
        audio_tag=2, video_tag=0)
    return dict(zip(names, values))


def velocity(transformer, layout, embeds, video, audio, video_time, audio_time):
    times, indices = before_denoise.MiniMaxH3SetTimestepsStep.build_row_timesteps(
        layout["video_indices"], layout["audio_indices"], 0, 0, layout["text_indices"].numel(), video_time, audio_time,
        0.999, 1.0)
    result = transformer(
        hidden_states=video[None], audio_hidden_states=audio[None], encoder_hidden_states=embeds, timestep=times,
        timestep_indices=indices, return_dict=False, **layout)
    return result[0][0], result[1][0]


def unpack(rows, latent_frames):
    """The inverse of the reference's `patchify_video_latents`."""
    rows = rows.reshape(latent_frames, HEIGHT // 32, WIDTH // 32, tiny.VIDEO_CHANNELS, 2, 2)
    return rows.permute(3, 0, 1, 4, 2, 5).reshape(1, tiny.VIDEO_CHANNELS, latent_frames, HEIGHT // 16, WIDTH // 16)


def decode(vae, latents):
    mean, std = (torch.tensor(vae.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    return vae.decode(latents * std + mean, return_dict=False)[0]


def decode_sound(vae, latents):
    mean, std = (torch.tensor(vae.config[key]).view(1, -1, 1) for key in ("latents_mean", "latents_std"))
    return vae.decode(latents * std + mean, return_dict=False)[0][:, 0]


def make_pictures(vae):
    """One chunk and three, whole and in tiles of 48 pixels that overlap by 16."""
    tensors = {}
    for chunks in (1, 3):
        latents = random(10 + chunks, 1, tiny.VIDEO_CHANNELS, 5 * chunks + 2, HEIGHT // 16, WIDTH // 16)
        tensors[f"latents{chunks}"] = latents[0]
        vae.disable_tiling()
        tensors[f"whole{chunks}"] = sparse(decode(vae, latents))
        vae.enable_tiling(48, 48, 16, 16)
        tensors[f"tiled{chunks}"] = sparse(decode(vae, latents))
    return tensors


def make_render(text, transformer, vae, audio_vae):
    """Text to frames and samples, as the blocks of the published pipeline do it one after the other."""
    ids = tiny.tokenizer().encode(PROMPT, add_special_tokens=False).ids
    embeds = condition(text, ids)
    chunks = (FRAMES - 5) // 17
    latent_frames, audio_latents = 5 * chunks + 2, round(FRAMES / 24 * 40)
    layout = pack(len(ids), latent_frames, audio_latents)
    noise = random(20, 1, tiny.VIDEO_CHANNELS, latent_frames, HEIGHT // 16, WIDTH // 16)
    video = before_denoise.patchify_video_latents(noise, (1, 2, 2))
    assert torch.equal(unpack(video, latent_frames), noise)
    audio = random(21, 2 * audio_latents, tiny.AUDIO_CHANNELS)
    tensors = {"ids": torch.tensor(ids), "text": embeds[0], "positions": layout["position_ids"].float(),
               "start_video": video, "start_audio": audio}
    first = velocity(transformer, layout, embeds, video, audio, 0.25, 0.625)
    tensors |= {"velocity_video": first[0], "velocity_audio": first[1]}
    schedules = MiniMaxH3Scheduler(shift=tiny.VIDEO_SHIFT), MiniMaxH3Scheduler(shift=tiny.AUDIO_SHIFT)
    for schedule in schedules:
        schedule.set_timesteps(STEPS + 1)
    tensors |= {"sigmas_video": schedules[0].sigmas, "sigmas_audio": schedules[1].sigmas}
    for video_time, audio_time in zip(*(schedule.timesteps for schedule in schedules)):
        to_video, to_audio = velocity(
            transformer, layout, embeds, video, audio, float(video_time), float(audio_time))
        video = schedules[0].step(to_video, video_time, video, return_dict=False)[0]
        audio = schedules[1].step(to_audio, audio_time, audio, return_dict=False)[0]
    tensors |= {"end_video": video, "end_audio": audio}
    vae.enable_tiling(48, 48, 16, 16)
    tensors["frames"] = sparse(decode(vae, unpack(video, latent_frames)))
    sound = audio.reshape(2, audio_latents, -1).permute(0, 2, 1)
    tensors["samples"] = decode_sound(audio_vae, sound)
    return tensors


def released_keys():
    """`part key shape` of every tensor of the published configuration. Allocates nothing."""
    text = dict(vocab_size=151936, hidden_size=5120, intermediate_size=25600, num_hidden_layers=64,
                num_attention_heads=64, num_key_value_heads=8, head_dim=128)
    with torch.device("meta"):
        parts = {
            "text_encoder": Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text)),
            "transformer": MiniMaxH3Transformer3DModel(),
            "vae": AutoencoderKLMiniMaxH3(),
            "audio_vae": AutoencoderKLMiniMaxH3Audio(),
        }
    return "".join(
        f"{part} {name} {'x'.join(map(str, value.shape))}\n"
        for part, net in parts.items() for name, value in sorted(net.state_dict().items()))


@torch.no_grad()
def main(folder):
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    text, transformer, vae, audio_vae = tiny.build()
    tiny.write(folder / "h3-tiny", text, transformer, vae, audio_vae)
    save = lambda name, tensors: save_file(  # noqa: E731
        {key: value.contiguous().clone() for key, value in tensors.items()}, folder / f"h3-{name}.safetensors")
    save("pictures", make_pictures(vae))
    latents = random(30, 2, tiny.AUDIO_CHANNELS, 12)
    save("sound", {"latents": latents, "samples": decode_sound(audio_vae, latents)})
    save("render", make_render(text, transformer, vae, audio_vae))
    (folder / "h3-released-keys.txt").write_text(released_keys())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
