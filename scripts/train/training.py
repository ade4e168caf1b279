"""Trains the transformer and its text encoder: flow matching on cut clips, Muon and AdamW, an average of the weights.

The noise levels are mostly those of the default sampler, because that is where the weights are used. Checkpoints hold
the weights, their average, the optimiser, the RNG state and the number of the next sample. Called by the commands
`transformer` and, for `encode` and `predict`, by `sampling`.
"""
import math
import time
from pathlib import Path

import torch

import parts
from samples import stream
from start import start

SAVE_EVERY = 50        # steps
NEAR_WEIGHT = 1.5       # of rows that the object touches
AUDIO_WEIGHT = 0.5
FRESH, REPLAYED = 2, 500    # of four samples, how many are new; of how many old ones the others are taken


def _rms_norm(self, x):
    """RMSNorm in f32, as the product runs it. Autocast's own mixture of types has no fused kernel: a third slower."""
    with torch.autocast("cpu", enabled=False):
        return torch.nn.functional.rms_norm(x.float(), self.normalized_shape, self.weight, self.eps).to(x.dtype)


class Networks(torch.nn.Module):
    """The two networks that are trained together."""

    def __init__(self):
        super().__init__()
        self.transformer, self.text_encoder = parts.transformer(), parts.text_encoder()
        torch.nn.init.normal_(self.text_encoder.embed_tokens.weight, std=0.5)

    def encode(self, ids):
        """(1, n) token ids to the conditioning (1, n, 128)."""
        states = self.text_encoder(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        return states[parts.TEXT_LAYER]

    def predict(self, text, video, audio, packed, video_time, audio_time):
        """Velocities of the video rows (n, 96) and the audio rows (n, 32), f32."""
        video, audio = self.transformer(
            hidden_states=video[None], audio_hidden_states=audio[None], encoder_hidden_states=text,
            **packed.arguments(video_time, audio_time))
        return video[0].float(), audio[0].float()


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for the matrices inside of the blocks (Jordan et al., 2024)."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, dict(lr=lr, momentum=0.95))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = _orthogonal(weight.grad.lerp(state["momentum"], group["momentum"]))
                weight.add_(update, alpha=-group["lr"] * max(1, weight.shape[0] / weight.shape[1]) ** 0.5)


def _orthogonal(matrix, steps=5):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.T if flip else x).float()


def optimisers(nets):
    """Muon for the matrices of all blocks, AdamW for the rest."""
    inner, rest = [], []
    for name, weight in nets.named_parameters():
        block = "blocks." in name or "text_encoder.layers." in name
        (inner if block and weight.ndim == 2 and "adaln" not in name else rest).append(weight)
    return Muon(inner, lr=0.01), torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)


def shifted(share, shift):
    return shift * share / (1 + (shift - 1) * share)


class Replay:
    """Gives each drawn sample about twice, with new noise each time: drawing costs as much as training on it.

    Starts empty after a resume, so a resumed run sees the same fresh samples but may repeat others.
    """

    def __init__(self, samples):
        self.samples, self.kept, self.fresh = samples, [], 0

    def next(self, place, generator):
        if place % 4 < FRESH or len(self.kept) < 16:
            sample, self.fresh = next(self.samples), self.fresh + 1
            self.kept = [*self.kept[-REPLAYED:], sample]
            return sample
        return self.kept[int(torch.randint(len(self.kept), (1,), generator=generator))]


def noise_share(generator):
    """The unshifted noise level of a sample: 0.55 pure noise, 0.3 another default level, 0.15 any."""
    draw, level = torch.rand(2, generator=generator).tolist()
    if draw < 0.55:
        return 1.0
    if draw < 0.85:
        return (1 + int(level * (parts.POINTS - 2))) / (parts.POINTS - 1)
    return max(level, 0.05)


def loss_of(nets, sample, generator):
    """`(loss, video part, audio part)` of one sample."""
    share = noise_share(generator)
    sigma, audio_sigma = shifted(share, parts.VIDEO_SHIFT), shifted(share, parts.AUDIO_SHIFT)
    video, audio = sample["video"], sample["audio"]
    noise, audio_noise = (torch.randn(rows.shape, generator=generator) for rows in (video, audio))
    with torch.autocast("cpu", torch.bfloat16):
        text = nets.encode(sample["ids"])
        velocity, audio_velocity = nets.predict(
            text, (1 - sigma) * video + sigma * noise, (1 - audio_sigma) * audio + audio_sigma * audio_noise,
            sample["packed"], 1 - sigma, 1 - audio_sigma)
    weight = 1 + (NEAR_WEIGHT - 1) * sample["near"].float()
    picture = ((velocity - (video - noise)).pow(2).mean(1) * weight).sum() / weight.sum()
    sound = (audio_velocity - (audio - audio_noise)).pow(2).mean()
    return picture + AUDIO_WEIGHT * sound, picture.detach(), sound.detach()


def rate(step, steps):
    """Warm up, stay, and fall to nothing over the last third."""
    return min(1, (step + 1) / 60) * min(1, max(0.02, (steps - step) / (steps / 3)))


def save(path, nets, average, optims, generator, step, number):
    state = dict(nets=nets.state_dict(), average=average, optims=[o.state_dict() for o in optims],
                 rng=generator.get_state(), step=step, number=number)
    torch.save(state, str(path) + ".part")
    Path(str(path) + ".part").replace(path)


def averaged(path):
    """The networks with the averaged weights of a checkpoint, and its step."""
    state = torch.load(path)
    nets = Networks()
    nets.load_state_dict(state["average"])
    return nets.eval(), state["step"]


def train(work, seed, steps, batch, phase):
    """Goes on from `work`/transformer.pt if it is there."""
    path = Path(work) / "transformer.pt"
    torch.nn.RMSNorm.forward = _rms_norm
    torch.manual_seed(seed)
    nets, generator, step, number = Networks(), torch.Generator().manual_seed(seed), 0, 0
    start(nets)
    optims = optimisers(nets)
    rates = [o.param_groups[0]["lr"] for o in optims]
    average = {name: value.clone() for name, value in nets.state_dict().items()}
    if path.exists():
        state = torch.load(path)
        nets.load_state_dict(state["nets"])
        average, step, number = state["average"], state["step"], state["number"]
        generator.set_state(state["rng"])
        for optim, saved in zip(optims, state["optims"]):
            optim.load_state_dict(saved)
    samples, began, seen = Replay(stream(work, seed, number, phase)), time.time(), None
    first = number
    while step < steps:
        for optim, lr in zip(optims, rates):
            optim.param_groups[0]["lr"] = lr * rate(step, steps)
            optim.zero_grad(set_to_none=True)
        total = torch.zeros(2)
        for place in range(batch):
            loss, picture, sound = loss_of(nets, samples.next(place, generator), generator)
            (loss / batch).backward()
            total += torch.stack([picture, sound]) / batch
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        for optim in optims:
            optim.step()
        step, number = step + 1, first + samples.fresh
        keep = min(0.995, step / (step + 10))
        for name, value in nets.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        seen = total if seen is None else seen.lerp(total, 0.05)
        if step % 20 == 0:
            print(f"step {step} video {seen[0]:.4f} audio {seen[1]:.4f} "
                  f"{(time.time() - began) / 60:.1f} min", flush=True)
        if step % SAVE_EVERY == 0 or step == steps:
            save(path, nets, average, optims, generator, step, number)
        if not math.isfinite(float(seen[0])):
            raise RuntimeError("the loss is not finite")
