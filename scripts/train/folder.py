"""Makes the model folder from the work folder's checkpoints, and reads a model folder back.

`read` takes the networks as any user of the folder would: by the published classes, from the files alone. Called by the
commands `export`, `sample` and `evaluate`.
"""
import json
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKLMiniMaxH3, MiniMaxH3Transformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_minimax_h3_audio import AutoencoderKLMiniMaxH3Audio
from safetensors.torch import load_file
from tokenizers import Tokenizer

import audio_vae
import latents
import parts
import sampling
import video_vae
from training import Networks, averaged


def export(work, folder):
    """Writes every part that the work folder has a checkpoint of; the others as they start. Returns the step.

    Each file is written beside and then renamed, so a reader never sees half of one.
    """
    torch.manual_seed(0)        # of the parts that no training reaches
    work, folder = Path(work), Path(folder)
    video_basis, audio_basis = latents.load(work)
    nets, step = averaged(work / "transformer.pt")
    video, audio = video_vae.closed_form(video_basis), audio_vae.fresh(audio_basis)
    for vae, name in ((video, "video_vae.pt"), (audio, "audio_vae.pt")):
        if (work / name).exists():
            vae.load_state_dict(torch.load(work / name)["vae"])
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        parts.write(beside, nets.transformer, nets.text_encoder, video, audio)
        for path in sorted(Path(beside).rglob("*")):
            target = folder / path.relative_to(beside)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                path.chmod(0o644)
                path.replace(target)
    return step


class Model:
    """A model folder, ready to render in the product's precision: bf16, and f32 at the ends."""

    def __init__(self, folder):
        folder = Path(folder)
        self.nets = Networks()
        self.nets.transformer = MiniMaxH3Transformer3DModel.from_pretrained(folder / "transformer",
                                                                             torch_dtype=torch.float32)
        state = load_file(folder / "text_encoder" / "model.safetensors")
        prefix = "model.language_model."
        self.nets.text_encoder.load_state_dict({name[len(prefix):]: value for name, value in state.items()})
        self.video_vae = AutoencoderKLMiniMaxH3.from_pretrained(folder / "vae")
        self.audio_vae = AutoencoderKLMiniMaxH3Audio.from_pretrained(folder / "audio_vae")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        self.points = json.loads((folder / "manifest.json").read_text())["num_inference_steps"]["default"] + 1
        self.nets.eval().narrow()

    @torch.no_grad()
    def render(self, prompt, clip, seed):
        """`(frames (f, h, w, 3) in 0..1, wave (2, samples))`, trimmed to the asked seconds."""
        ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        video, audio = sampling.render(self.nets, ids, clip, seed, self.points)
        return self.pictures(video, clip), self.sound(audio, clip)

    def pictures(self, rows, clip):
        mean, std = (torch.tensor(self.video_vae.config[name]).view(-1, 1, 1, 1)
                     for name in ("latents_mean", "latents_std"))
        film = self.video_vae.decode((sampling.unpack(rows, clip) * std + mean)[None]).sample[0]
        film = (film * latents.PIXEL_STD + latents.PIXEL_MEAN).clamp(0, 1)
        return film.permute(1, 2, 3, 0).numpy()[:clip.seconds * 24]

    def sound(self, rows, clip):
        mean, std = (torch.tensor(self.audio_vae.config[name])[:, None] for name in ("latents_mean", "latents_std"))
        rows = rows.view(2, clip.audio_latents, -1).transpose(1, 2)
        return self.audio_vae.decode(rows * std + mean).sample[:, 0].numpy()[:, :clip.seconds * 32_000]
