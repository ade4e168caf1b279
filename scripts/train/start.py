"""How the transformer starts: chosen so that the first step already trains what is hard.

Three things are given instead of learned. Noise passes: pure noise x comes out as −x, half of the velocity. Rows look at
the text more than at one another. And rows know where they are: in the first layers each clock token answers to one wave
along one axis of position, so what a row reads from the clock is a set of waves at its own time and place. All of it is
an ordinary setting of ordinary weights, and is trained on. Called by `training`.
"""
import math

import torch

import words
import world

NOISE_SHARE = 0.35      # of the stream's length; the rest is constant, so what a row asks hardly depends on its noise
TEXT_HEADS = (8.0, 4.0)  # how strongly each head looks at the text, in the layers without waves
# (axis, wave number index): inv_freq is 10000^(-index / 16); axis 0 is time (40 a second), 1 height, 2 width.
_SPACE = [(axis, index) for index in (1, 2, 3, 4) for axis in (1, 2)]
WAVES = (
    (_SPACE, [(0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (0, 7), (0, 8), (1, 5)]),
    ([(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (0, 8), (0, 9)], _SPACE[:6] + [(1, 0), (2, 0)]),
)
_HEAD, _ANGLES = 128, 48    # channels of a head; turned pairs (c, c + 48); channels 96.. are not turned


def start(nets):
    """Sets the weights of fresh networks in place."""
    net = nets.transformer
    for enter, leave in ((net.proj_in, net.proj_out), (net.audio_proj_in, net.audio_proj_out)):
        _pass_noise(enter, leave)
    for number, block in enumerate(net.transformer_blocks):
        torch.nn.init.zeros_(block.attn.to_out[0].weight)
        torch.nn.init.zeros_(block.ff.net[2].weight)
        asks = _open(block)
        if number < len(WAVES):
            _read_clock(block, asks, _clock_rows(nets), WAVES[number])
            noise = torch.linalg.qr(torch.cat([net.proj_in.weight.data, net.audio_proj_in.weight.data], 1))[0]
            block.attn.to_out[0].weight.data -= noise @ (noise.T @ block.attn.to_out[0].weight.data)


def _pass_noise(enter, leave):
    wide, narrow = enter.weight.shape
    directions = torch.linalg.qr(torch.randn(wide, narrow))[0]
    gain = NOISE_SHARE * (wide / narrow) ** 0.5
    enter.weight.data = directions * gain
    constant = torch.randn(wide)
    constant -= directions @ (directions.T @ constant)
    enter.bias.data = constant * (wide ** 0.5 / constant.norm())
    leave.weight.data = -directions.T * ((1 + NOISE_SHARE**2) ** 0.5 / gain)


def _open(block):
    """Opens the gates, and aligns media queries with text keys in the channels that no position turns."""
    modulation = block.adaln_proj.linear.bias.data.view(3, 6, -1)      # video, text, audio; shift, scale, gate twice
    modulation[:, (2, 5)] = 1.0
    width = modulation.shape[-1]
    asks, answers = torch.randn(2, width) * 0.5
    modulation[(0, 2), 0] = asks
    modulation[1, 0] = answers
    for head, strength in enumerate(TEXT_HEADS):
        still = slice(head * _HEAD + 2 * _ANGLES, (head + 1) * _HEAD)
        block.attn.to_q.weight.data[still] += strength / 32**0.5 * asks / asks.pow(2).sum()
        block.attn.to_k.weight.data[still] += strength / 32**0.5 * answers / answers.pow(2).sum()
    return asks


@torch.no_grad()
def _clock_rows(nets):
    """(captions, 16, d): the clock tokens' rows as they reach the first blocks, for some captions."""
    import numpy as np

    rng, tokenizer, rows = np.random.default_rng(0), words.tokenizer(), []
    for _ in range(48):
        scene, silent = world.sample(rng)
        ids = tokenizer.encode(world.caption(scene, silent, rng), add_special_tokens=False).ids
        text = nets.transformer.token_refiner(nets.transformer.context_embedder(nets.encode(torch.tensor([ids]))))
        rows.append(text[0, -len(words.CLOCK):])
    return torch.stack(rows)


def _read_clock(block, asks, rows, heads):
    """Gives each head eight waves, each asked for by two clock tokens a quarter of a turn apart."""
    answers = block.adaln_proj.linear.bias.data.view(3, 6, -1)[1, 0]
    rows = torch.nn.functional.rms_norm(rows, rows.shape[-1:]) + answers
    flat = rows.reshape(-1, rows.shape[-1])
    inverse = torch.linalg.solve(flat.T @ flat + 0.02 * len(flat) * torch.eye(flat.shape[1]), flat.T)
    for head, waves in enumerate(heads):
        own = slice(head * _HEAD, (head + 1) * _HEAD)
        query, keys = torch.zeros(_HEAD), torch.zeros(len(words.CLOCK), _HEAD)
        query[2 * _ANGLES:], keys[:, 2 * _ANGLES:] = 8 / 32**0.5, 8 / 32**0.5
        for n, (axis, index) in enumerate(waves):
            channel = axis * 16 + index
            query[channel] = 2.0
            for half in (0, 1):
                keys[2 * n + half, channel + half * _ANGLES] = 8.0
        block.attn.to_q.weight.data[own] = query[:, None] * asks / asks.pow(2).sum()
        block.attn.to_q.weight.data[own] += 0.01 * torch.randn(_HEAD, len(asks))
        block.attn.to_k.weight.data[own] = (inverse @ keys.repeat(len(rows), 1)).T
    block.attn.norm_q.weight.data[:2 * _ANGLES] = 2.0
    width, inner = block.attn.to_out[0].weight.shape
    block.attn.to_out[0].weight.data = torch.randn(width, inner) * (1.2 / math.sqrt(inner))
