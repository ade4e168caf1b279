"""The laws of a clip and the packed sequence of MiniMax-H3, for whole clips and for any subset of their rows.

Order: text, audio (left channel, then right), video (frame-major, then rows). Positions are those of diffusers'
`MiniMaxH3PrepareLayoutStep`, computed in f64. A subset keeps the true positions, which is what lets a training step use
a part of a long clip. Called by `latents`, `training` and `sampling`.
"""
from dataclasses import dataclass

import numpy as np
import torch

VIDEO, TEXT, AUDIO = 0, 1, 2
LATENT_PIXELS, ROW_PIXELS = 16, 32


@dataclass(frozen=True)
class Clip:
    """A canvas (width, height in pixels) and a length in whole seconds."""
    width: int
    height: int
    seconds: int

    @property
    def canvas(self):
        return self.width, self.height

    @property
    def frames(self):
        """The asked frames rounded up to 17 n + 5."""
        asked = self.seconds * 24
        return asked + (5 - asked) % 17

    @property
    def latent_frames(self):
        return (self.frames - 5) // 17 * 5 + 2

    @property
    def audio_latents(self):
        return round(self.frames / 24 * 40)

    @property
    def rows(self):
        return self.height // ROW_PIXELS

    @property
    def columns(self):
        return self.width // ROW_PIXELS


def frames_of(latent):
    """The four frames (…, 4) that each latent frame covers; the first of every five covers one frame, four times."""
    latent = np.asarray(latent)[..., None]
    chunk, place = latent // 5, latent % 5
    return 17 * chunk + np.where(place == 0, 0, 1 + 4 * (place - 1) + np.arange(4))


def video_positions(clip, latent, row, column):
    """(n, 3) positions of video rows, without the text's length."""
    area = (clip.width // LATENT_PIXELS * (clip.height // LATENT_PIXELS)) ** 0.5
    axes = []
    for size in (clip.height, clip.width):
        ratio = size // LATENT_PIXELS / area
        axes.append(np.linspace((1 - ratio) / 2, (1 + ratio) / 2, size // ROW_PIXELS, endpoint=False) * 32)
    time = 5 / 3 * frames_of(latent)[..., 0]
    return np.stack([time, axes[0][row], axes[1][column]], -1)


def audio_positions(clip, latent, channel):
    """(n, 3) positions of audio rows, without the text's length."""
    ends = video_positions(clip, np.zeros(2, int), np.zeros(2, int), np.array([0, clip.columns - 1]))[:, 2]
    return np.stack([np.asarray(latent, float), np.zeros(len(latent)), ends[channel]], -1)


@dataclass
class Packed:
    """What the transformer takes besides the rows themselves."""
    token_tags: torch.Tensor
    position_ids: torch.Tensor
    text_indices: torch.Tensor
    audio_indices: torch.Tensor
    video_indices: torch.Tensor

    def arguments(self, video_time, audio_time):
        """Keyword arguments of one forward; text rows take the video's timestep."""
        times = torch.tensor([video_time, audio_time], dtype=torch.float32)
        indices = (self.token_tags == AUDIO).long()
        return dict(timestep=times, timestep_indices=indices, token_tags=self.token_tags,
                    position_ids=self.position_ids, text_indices=self.text_indices,
                    audio_indices=self.audio_indices, video_indices=self.video_indices, return_dict=False)


def pack(num_text, audio, video):
    """`audio` and `video` are (n, 3) positions without the text's length."""
    text = np.zeros((num_text, 3))
    text[:, 0] = np.arange(num_text)
    media = np.concatenate([audio, video])
    media[:, 0] += num_text
    counts = (num_text, len(audio), len(video))
    tags = torch.repeat_interleave(torch.tensor([TEXT, AUDIO, VIDEO]), torch.tensor(counts))
    starts = np.cumsum((0, *counts))
    indices = [torch.arange(starts[n], starts[n + 1]) for n in range(3)]
    return Packed(tags, torch.from_numpy(np.concatenate([text, media])).float(), *indices)


def whole(clip):
    """Every audio row `(latent, channel)` and every video row `(latent, row, column)` of a clip, in packed order."""
    audio = np.tile(np.arange(clip.audio_latents), 2), np.repeat([0, 1], clip.audio_latents)
    grid = np.meshgrid(np.arange(clip.latent_frames), np.arange(clip.rows), np.arange(clip.columns), indexing="ij")
    return audio, tuple(axis.reshape(-1) for axis in grid)
