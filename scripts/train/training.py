"""Trains the field (`field`): squared error of clean rows, many captions a step, Muon and AdamW, an average of the weights.

While training only, linear heads look at the rows and at the clock tokens behind early blocks and must tell where the object
is, there and then: the path is the hard part, and this tells the first blocks directly. Checkpoints hold the weights,
their average, the optimiser and the step. Called by the commands `transformer` and, for `Networks`, by `sampling`.
"""
import math
import time
from pathlib import Path

import numpy as np
import torch

import field
import latents
import parts
import samples
import words
from field import Field
from start import start

SAVE_EVERY = 100         # steps
NEAR_WEIGHT = 1.5       # of rows that the object touches
AUDIO_WEIGHT = 0.5
AUX_WEIGHT, AUX_UNTIL = 1.0, 0.6       # the auxiliary losses fade out over this share of the training
ROWS, SOUNDS = 128, 32  # rows of a caption in a step
MUON_RATE, ADAM_RATE = 0.02, 0.002


class Networks(torch.nn.Module):
    """The two networks of the model folder, as published classes."""

    def __init__(self, state=None):
        super().__init__()
        self.transformer, self.text_encoder = parts.transformer(), parts.text_encoder()
        if state is not None:
            field.into(state, self.transformer)
            prefix = "text_encoder."
            self.text_encoder.load_state_dict(
                {name[len(prefix):]: value for name, value in state.items() if name.startswith(prefix)})

    def narrow(self):
        """Everything in bf16 but the ends and the noise level, as the product runs it."""
        net = self.transformer
        for part in (self.text_encoder, net.context_embedder, net.token_refiner, net.transformer_blocks, net.norm_out):
            part.bfloat16()
        return self

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
        block = name.startswith(("blocks.", "refiner.", "text_encoder.layers."))
        (inner if block and weight.ndim == 2 else rest).append(weight)
    return Muon(inner, lr=MUON_RATE), torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)


def shifted(share, shift):
    return shift * share / (1 + (shift - 1) * share)


class Pool:
    """All samples that the work folder holds, in memory; looks for new files now and then."""

    def __init__(self, work, seed):
        self.folder, self.seen, self.parts, self.seed = Path(work) / "samples", set(), [], seed
        sounds = torch.load(Path(work) / "sounds.pt")
        self.table, self.impacts, self.kinds = sounds["table"], sounds["impacts"].long(), sounds["kinds"]
        self.look()

    def look(self):
        for path in sorted(self.folder.glob("*.pt")):
            if path.name not in self.seen:
                shard = torch.load(path)
                kinds = [samples.sound_kind(self.kinds, scene) for scene in shard["scene"].tolist()]
                self.parts.append(shard | {"kind": torch.tensor(kinds)})
                self.seen.add(path.name)

    def batch(self, step, count):
        """`count` captions with some of their rows; a function of the seed, the step and the files."""
        rng = np.random.default_rng((self.seed, 1, step))
        picked = []
        for shard in rng.integers(0, len(self.parts), count):
            part, n = self.parts[shard], int(rng.integers(0, samples.SHARD))
            rows = torch.from_numpy(rng.integers(0, samples.ROWS, ROWS))
            picked.append({
                "ids": part["ids"][n, int(rng.integers(0, 2))].long(), "scene": part["scene"][n].long(),
                "path": part["path"][n], **self._hear(rng, part["kind"][n], part["ends"][n]),
                **{name: part[name][n][rows] for name in ("rows", "at", "near", "truth")}})
        return {name: torch.stack([one[name] for one in picked]) for name in picked[0]}

    def _hear(self, rng, kind, ends):
        """Hops of the clip's sound: half anywhere, half just before and after an impact."""
        hops = torch.from_numpy(rng.integers(0, self.table.shape[1], SOUNDS))
        impacts = self.impacts[kind]
        impacts = impacts[impacts >= 0]
        if len(impacts):
            near = impacts[torch.from_numpy(rng.integers(0, len(impacts), SOUNDS // 2))]
            hops[:SOUNDS // 2] = (near + torch.from_numpy(rng.integers(-2, 8, SOUNDS // 2))).clamp(0, self.table.shape[1] - 1)
        channel = torch.from_numpy(rng.integers(0, 2, SOUNDS))
        at = torch.stack([hops.float(), torch.zeros(SOUNDS), ends[channel]], -1)
        return {"sound": self.table[kind, hops, channel], "sound_at": at}


def asked_of_rows(batch):
    """What the auxiliary heads must tell of each video row (b, n, AUX_ROW)."""
    truth = batch["truth"]
    own, centre, radius, rest = truth[..., :2], truth[..., 2:4], truth[..., 4:5], truth[..., 5:]
    zoom, shift, small = rest.unbind(-1)
    away = (own - centre) / radius
    square = away.square().sum(-1, keepdim=True)
    words_said = torch.cat([torch.nn.functional.one_hot(batch["scene"][:, n], len(values))
                            for n, values in enumerate(words.ATTRIBUTES.values())], -1)
    return torch.cat([
        own * 3, centre * 3, (radius - 0.1) * 10, ((zoom - 1) * 3)[..., None], (shift * 6)[..., None], small[..., None],
        away.clamp(-3, 3) / 1.5, torch.tanh(2 * away), torch.exp(-square), torch.exp(-square / 0.3),
        words_said[:, None].expand(-1, own.shape[1], -1)], -1)


def asked_of_clock(batch):
    """The object's path a little before, at and after each clock token's time (b, 32, AUX_CLOCK)."""
    path = batch["path"] * 3
    early = torch.cat([path[:, :1], path[:, :-1]], 1)
    later = torch.cat([path[:, 1:], path[:, -1:]], 1)
    return torch.cat([early, path, later], -1)[:, ::2]


def losses(nets, batch, weights, aux):
    """`(loss, video error, audio error, auxiliary error)`."""
    with torch.autocast("cpu", torch.bfloat16):
        video, sound, lost, found = nets(batch["ids"], batch["at"], batch["sound_at"], aux > 0)
    weight = 1 + (NEAR_WEIGHT - 1) * batch["near"].float()
    error = (video - batch["rows"].float()).square()
    picture = ((error * weights).mean(-1) * weight).sum() / weight.sum()
    heard = (sound - batch["sound"].float()).square().mean()
    loss = picture + AUDIO_WEIGHT * heard + lost.square().mean()
    off = torch.zeros(())
    if aux > 0:
        asked = {field.AUX_ROW: asked_of_rows(batch), field.AUX_CLOCK: asked_of_clock(batch)}
        off = sum((one - asked[one.shape[-1]]).square().mean() for one in found) / len(found)
        loss = loss + aux * off
    return loss, error.mean().detach(), heard.detach(), off.detach()


def rate(step, steps):
    """Warm up, stay, and fall to nothing over the last 45 %."""
    return min(1, (step + 1) / 60) * min(1, max(0.01, (steps - step) / (0.45 * steps)))


def save(path, nets, average, optims, step):
    state = dict(nets=nets.state_dict(), average=average, optims=[o.state_dict() for o in optims], step=step)
    torch.save(state, str(path) + ".part")
    Path(str(path) + ".part").replace(path)


def averaged(path):
    """The networks with the averaged weights of a checkpoint, and its step."""
    state = torch.load(path)
    return Networks(state["average"]).eval(), state["step"]


def train(work, seed, steps, batch):
    """Goes on from `work`/transformer.pt if it is there."""
    path = Path(work) / "transformer.pt"
    torch.manual_seed(seed)
    nets, step = Field(), 0
    start(nets)
    optims = optimisers(nets)
    rates = [o.param_groups[0]["lr"] for o in optims]
    average = {name: value.clone() for name, value in nets.state_dict().items()}
    if path.exists():
        state = torch.load(path)
        nets.load_state_dict(state["nets"])
        average, step = state["average"], state["step"]
        for optim, saved in zip(optims, state["optims"]):
            optim.load_state_dict(saved)
    # Between the flow's own weighting, which minds weak components as much as strong ones, and that of the pixels.
    spread = latents.load(work)[0].latents_std
    weights = (spread / spread.mean()).repeat_interleave(4)
    for block in nets.blocks:
        block.forward = torch.compile(block.forward, dynamic=False)      # a fifth faster
    pool, began, seen = Pool(work, seed), time.time(), None
    while step < steps:
        if step % 50 == 0:
            pool.look()
        for optim, lr in zip(optims, rates):
            optim.param_groups[0]["lr"] = lr * rate(step, steps)
            optim.zero_grad(set_to_none=True)
        aux = AUX_WEIGHT * max(0.0, 1 - step / (AUX_UNTIL * steps))
        loss, *told = losses(nets, pool.batch(step, batch), weights, aux)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        for optim in optims:
            optim.step()
        nets.hold()
        step += 1
        keep = min(0.995, step / (step + 10))
        for name, value in nets.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        told = torch.stack(told)
        seen = told if seen is None else seen.lerp(told, 0.05)
        if step % 20 == 0:
            print(f"step {step} video {seen[0]:.4f} audio {seen[1]:.4f} aux {seen[2]:.4f} "
                  f"{(time.time() - began) / 60:.1f} min", flush=True)
        if step % SAVE_EVERY == 0 or step == steps:
            save(path, nets, average, optims, step)
        if not math.isfinite(float(seen[0])):
            raise RuntimeError("the loss is not finite")
