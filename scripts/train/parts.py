"""The four networks of the toybox model: their configurations, how they start, and how they are written.

Every network is the published diffusers or transformers class of MiniMax-H3 at small widths, so the folder that
`write` makes has the published layout and the published key names. Never trains. Called by every command.
"""
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLMiniMaxH3, MiniMaxH3Transformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_minimax_h3_audio import AutoencoderKLMiniMaxH3Audio
from safetensors.torch import save_file
from transformers import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

import words

TEXT_LAYER = 2  # the conditioning is hidden_states[2]: after the second layer of three, not normalised
TRANSFORMER = dict(
    num_attention_heads=4, attention_head_dim=128, hidden_size=352, num_layers=6, num_refiner_layers=1, ffn_dim=896,
    in_channels=24, audio_in_channels=32, patch_size=(1, 2, 2), text_dim=128, freq_dim=256,
    time_embed_hidden_dim=128, time_embed_dim=2, rope_freq_dim=16, rope_theta=10000.0,
)
VIDEO_VAE = dict(
    latent_channels=24, block_out_channels=(8, 16, 32, 64), layers_per_block=1,
    spatial_downsample_factors=(2, 2, 2, 2), temporal_downsample_factors=(1, 2, 2, 1), norm_num_groups=8,
    decoder_num_layers=1, decoder_num_attention_heads=2, decoder_attention_head_dim=64, decoder_ffn_mult=2,
)
AUDIO_VAE = dict(
    encoder_dim=8, encoder_rates=(2, 4, 4, 5, 5), latent_dim=256, latent_channels=32, num_attention_heads=4,
    decoder_dim=128, decoder_rates=(5, 5, 4, 4, 2), decoder_kernel_sizes=(9, 9, 8, 8, 4),
    resblock_kernel_sizes=(7,), resblock_dilation_sizes=((1,),),
)
TEXT = dict(
    vocab_size=words.VOCABULARY_SIZE, hidden_size=128, intermediate_size=384, num_hidden_layers=3,
    num_attention_heads=2, num_key_value_heads=1, head_dim=64, max_position_embeddings=1024, rms_norm_eps=1e-6,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10],
                     "mrope_interleaved": True},
    tie_word_embeddings=False,
)
VIDEO_SHIFT, AUDIO_SHIFT = 3.0, 3.0
POINTS = 5  # points of the sigma grid, so one forward fewer


def transformer():
    """The published class at the toybox's sizes. `field.into` sets its weights."""
    return MiniMaxH3Transformer3DModel(**TRANSFORMER)


def text_encoder():
    """The text path of Qwen3-VL. Three layers, of which two are read."""
    return Qwen3VLTextModel(Qwen3VLTextConfig(**TEXT))


def video_vae(**latent_statistics):
    """`latents_mean` and `latents_std` (24 numbers each) belong to the configuration."""
    return AutoencoderKLMiniMaxH3(**VIDEO_VAE, **latent_statistics)


def audio_vae(**latent_statistics):
    """`latents_mean` and `latents_std` (32 numbers each) belong to the configuration."""
    return AutoencoderKLMiniMaxH3Audio(**AUDIO_VAE, **latent_statistics)


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write_tensors(path, state, narrow):
    """Matrices whose name `narrow` accepts are stored in bf16, everything else in f32."""
    tensors = {}
    for name, value in state.items():
        dtype = torch.bfloat16 if value.ndim >= 2 and narrow(name) else torch.float32
        tensors[name] = value.detach().to(dtype).contiguous().clone()
    save_file(tensors, path, metadata={"format": "pt"})


def _write_diffusers(folder, net, narrow):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": type(net).__name__, "_diffusers_version": "0.42.1"}
    config |= {key: value for key, value in net.config.items() if not key.startswith("_")}
    _write_json(folder / "config.json", config)
    _write_tensors(folder / "diffusion_pytorch_model.safetensors", net.state_dict(), narrow)


def _write_text_encoder(folder, net):
    folder.mkdir(parents=True, exist_ok=True)
    text = dict(model_type="qwen3_vl_text", hidden_act="silu", attention_bias=False, dtype="bfloat16", **TEXT)
    text["rope_scaling"] = {"rope_type": "default", "mrope_section": [12, 10, 10], "mrope_interleaved": True}
    text["rope_theta"] = text["rope_parameters"]["rope_theta"]
    config = {"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl",
              "text_encoder_layer": TEXT_LAYER, "text_config": text}
    _write_json(folder / "config.json", config)
    state = {f"model.language_model.{name}": value for name, value in net.state_dict().items()}
    _write_tensors(folder / "model.safetensors", state, lambda name: True)


# What the H3 precision table keeps in f32 stays f32 here.
_WIDE = ("proj_in", "proj_out", "time_embedder", "norm")


def write(folder, transformer, text_encoder, video_vae, audio_vae):
    """Writes the model folder in the published layout, except the model card and the manifest."""
    folder = Path(folder)
    _write_diffusers(folder / "transformer", transformer, lambda name: not any(word in name for word in _WIDE))
    _write_diffusers(folder / "vae", video_vae, lambda name: False)
    _write_diffusers(folder / "audio_vae", audio_vae, lambda name: False)
    _write_text_encoder(folder / "text_encoder", text_encoder)
    words.save(folder / "tokenizer")
    for name, shift in (("scheduler", VIDEO_SHIFT), ("audio_scheduler", AUDIO_SHIFT)):
        (folder / name).mkdir(exist_ok=True)
        config = {"_class_name": "MiniMaxH3Scheduler", "_diffusers_version": "0.42.1", "shift": shift}
        if name == "scheduler":
            config["num_inference_steps"] = POINTS
        _write_json(folder / name / "scheduler_config.json", config)
    _write_json(folder / "modular_model_index.json", _index())
    _write_json(folder / "manifest.json", manifest())


def _index():
    def part(library, name, folder):
        spec = {"pretrained_model_name_or_path": None, "subfolder": folder, "type_hint": [library, name]}
        return [library, name, spec]

    return {
        "_class_name": "MiniMaxH3ModularPipeline", "_blocks_class_name": "MiniMaxH3Blocks",
        "_diffusers_version": "0.42.1",
        "transformer": part("diffusers", "MiniMaxH3Transformer3DModel", "transformer"),
        "vae": part("diffusers", "AutoencoderKLMiniMaxH3", "vae"),
        "audio_vae": part("diffusers", "AutoencoderKLMiniMaxH3Audio", "audio_vae"),
        "scheduler": part("diffusers", "MiniMaxH3Scheduler", "scheduler"),
        "audio_scheduler": part("diffusers", "MiniMaxH3Scheduler", "audio_scheduler"),
        "text_encoder": part("transformers", "Qwen3VLForConditionalGeneration", "text_encoder"),
        "tokenizer": part("transformers", "PreTrainedTokenizerFast", "tokenizer"),
        "text_encoder_layer": TEXT_LAYER,
    }


def manifest():
    """What the farm needs to know before it loads a weight."""
    world = {
        "sizes": ["small", "large"],
        "colours": list(words.ATTRIBUTES["colour"]),
        "materials": list(words.ATTRIBUTES["material"]),
        "shapes": ["ball", "cube"],
        "motions": ["bounces", "drops", "rolls left", "rolls right"],
        "places": ["left", "center", "right"],
        "settings": ["grass in daylight", "night", "sunset", "studio"],
        "cameras": ["static", "pans left", "pans right", "zooms in"],
    }
    return {
        "id": "toybox", "family": "h3", "license": "Apache-2.0",
        "sizes": ["160x288", "288x160", "288x512", "512x288"], "default_size": "288x512",
        "seconds": ["4", "5", "8", "10", "12"], "default_seconds": "10", "fps": 24, "generate_audio": True,
        "num_inference_steps": {"default": POINTS - 1, "min": 2, "max": 8},
        "text_encoder_layer": TEXT_LAYER, "world": world,
    }
