"""A MiniMax-H3 of a few hundred thousand random numbers, in the published classes and the published layout.

Owns the small configurations and how they are filled and written. Called by `make`.
"""
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLMiniMaxH3, MiniMaxH3Transformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_minimax_h3_audio import AutoencoderKLMiniMaxH3Audio
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

TEXT_LAYER = 2
VIDEO_CHANNELS, AUDIO_CHANNELS = 4, 8
WORDS = ["<unk>", *"a the small large red blue ball cube bounces rolls left right on grass at night .".split()]
TEXT = dict(
    vocab_size=len(WORDS), hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, rms_norm_eps=1e-6,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
                     "mrope_interleaved": True},
    tie_word_embeddings=False,
)
TRANSFORMER = dict(
    num_attention_heads=2, attention_head_dim=32, hidden_size=48, num_layers=3, num_refiner_layers=2, ffn_dim=56,
    in_channels=VIDEO_CHANNELS, audio_in_channels=AUDIO_CHANNELS, text_dim=24, freq_dim=32, time_embed_hidden_dim=28,
    time_embed_dim=20, rope_freq_dim=4,
)
VIDEO_VAE = dict(
    latent_channels=VIDEO_CHANNELS, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
    spatial_downsample_factors=(2, 2, 2, 2), temporal_downsample_factors=(1, 2, 2, 1), norm_num_groups=2,
    decoder_num_layers=2, decoder_num_attention_heads=2, decoder_attention_head_dim=16, decoder_num_register_tokens=3,
    decoder_ffn_mult=2, latents_mean=(0.1, -0.2, 0.3, 0.0), latents_std=(1.5, 0.5, 1.0, 2.0),
)
AUDIO_VAE = dict(
    encoder_dim=1, encoder_rates=(2, 4, 4, 5, 5), latent_dim=32, latent_channels=AUDIO_CHANNELS,
    num_attention_heads=2, decoder_dim=32, decoder_rates=(5, 5, 4, 4, 2), decoder_kernel_sizes=(9, 9, 8, 8, 4),
    resblock_kernel_sizes=(3, 7), resblock_dilation_sizes=((1, 3), (1, 3)),
    latents_mean=[0.1 * n for n in range(8)], latents_std=[0.5 + 0.1 * n for n in range(8)],
)
VIDEO_SHIFT, AUDIO_SHIFT = 12.0, 3.0


def fill(net, seed):
    """Random numbers of a size that keeps every part of the network alive: no zero gate, no zero bias."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in sorted(net.state_dict().items()):
        if name.endswith((".filter", "zero_k_bias")):
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("weight_g") or (value.ndim == 1 and name.endswith("weight")):
            value.copy_(1 + 0.2 * noise)
        elif value.ndim >= 2 and not name.endswith("register_tokens"):
            value.copy_(noise / value[0].numel() ** 0.5)
        else:
            value.copy_(0.3 * noise)
    return net.eval().requires_grad_(False)


def build():
    """Text encoder, transformer, video and sound autoencoder."""
    return (
        fill(Qwen3VLTextModel(Qwen3VLTextConfig(**TEXT)), 1),
        fill(MiniMaxH3Transformer3DModel(**TRANSFORMER), 2),
        fill(AutoencoderKLMiniMaxH3(**VIDEO_VAE), 3),
        fill(AutoencoderKLMiniMaxH3Audio(**AUDIO_VAE), 4),
    )


def tokenizer():
    """One token a word."""
    result = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    result.pre_tokenizer = pre_tokenizers.Whitespace()
    return result


def _json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def _sharded(folder, state):
    """Two shards and an index, as large checkpoints come."""
    names = sorted(state)
    half = len(names) // 2
    files = {}
    for number, part in enumerate((names[:half], names[half:]), 1):
        file = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({name: state[name].contiguous().clone() for name in part}, folder / file)
        files |= {name: file for name in part}
    _json(folder / "diffusion_pytorch_model.safetensors.index.json", {"metadata": {}, "weight_map": files})


def write(folder, text, transformer, video_vae, audio_vae):
    """The folder that the engine opens."""
    folder = Path(folder)
    for name, net in (("transformer", transformer), ("vae", video_vae), ("audio_vae", audio_vae)):
        config = {key: value for key, value in net.config.items() if not key.startswith("_")}
        _json(folder / name / "config.json", config)
        if name == "transformer":
            _sharded(folder / name, net.state_dict())
        else:
            save_file(net.state_dict(), folder / name / "diffusion_pytorch_model.safetensors")
    config = {"text_encoder_layer": TEXT_LAYER, "text_config": TEXT}
    _json(folder / "text_encoder/config.json", config)
    state = {f"model.language_model.{name}": value for name, value in text.state_dict().items()}
    save_file(state, folder / "text_encoder/model.safetensors")
    _json(folder / "scheduler/scheduler_config.json", {"shift": VIDEO_SHIFT})
    _json(folder / "audio_scheduler/scheduler_config.json", {"shift": AUDIO_SHIFT})
    (folder / "tokenizer").mkdir(exist_ok=True)
    tokenizer().save(str(folder / "tokenizer/tokenizer.json"))
