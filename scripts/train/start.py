"""How the transformer starts: rows know when and where they are before anything is learned.

The clock tokens at the end of every caption make it so. A row's first head looks at the few clock tokens that are near
its own time, as a sum of waves with a common peak: what those tokens learn is a table along time. Two more heads look at
all clock tokens, and each of them answers to one wave along time, height or width, so what a row reads is a set of waves
at its own time and place. The fourth head is free. All of it is an ordinary setting of ordinary weights, and is trained on.
Called by `training`.
"""
import math

import numpy as np
import torch

import field
import words
import world
from field import ANGLES, HEAD, HEADS, ONE, STILL, TEXT, WIDTH

KNOT = 15.0             # 1/40 s from one clock token's time to the next: 0.375 s, so 32 of them span 11.6 s
# (index, weight): inv_freq is 10000^(-index / 16). Their sum falls by 4.6 over one knot, and has no second peak in 12 s.
PEAK = ((3, 10.0), (4, 20.0), (5, 30.0), (6, 40.0), (7, 40.0), (8, 40.0))
# (axis, index); axis 0 is time (40 a second), 1 height, 2 width
WAVES = ([(axis, index) for index in range(8) for axis in (1, 2)],
         [(0, index) for index in range(8)] + [(axis, index) for index in (1, 2, 3, 4) for axis in (1, 2)])
WAVE = 2.0              # how far a wave moves a clock token's score
UNIT = 10.0             # of queries and keys before their norm, so that the still channels keep their part
OUT_GAIN = (1.5, 0.5)   # of what the first block's attention writes, and the others'


@torch.no_grad()
def start(nets):
    nets.hold()
    rows, known, clock = _text_rows(nets)
    for number, block in enumerate(nets.blocks):
        text = torch.nn.functional.rms_norm(rows, (WIDTH,)) * (WIDTH / field.HIDDEN) ** -0.5 * block.n1
        text = text + block.modulation[TEXT, 0]
        flat, target = text[known], clock[known]
        ridge = 0.02 * len(flat) * torch.eye(WIDTH)
        inverse = torch.linalg.solve(flat.T @ flat + ridge, flat.T)
        for head in range(HEADS):
            own = slice(head * HEAD, (head + 1) * HEAD)
            queries = UNIT * (0.5 if head == HEADS - 1 else 0.2) * torch.randn(HEAD, WIDTH) / WIDTH**0.5
            keys = queries.new_zeros(HEAD, WIDTH)
            if head == HEADS - 1:
                keys = UNIT * 0.5 * torch.randn(HEAD, WIDTH) / WIDTH**0.5
            else:
                query, answers = _peak() if head == 0 else _waves(WAVES[head - 1])
                queries[:, ONE] = UNIT * query
                keys = (inverse @ (UNIT * target @ answers)).T
            block.attn.q[own], block.attn.k[own] = queries, keys
        block.attn.o *= OUT_GAIN[min(number, 1)]
    nets.hold()


def _text_rows(nets):
    """The text rows (captions, t, width) of some captions, which of them are no padding, and which clock token each is."""
    rng, tokenizer = np.random.default_rng(0), words.tokenizer()
    longest = len(words.ATTRIBUTES) + 2 + len(words.CLOCK)
    ids = torch.zeros(48, longest, dtype=torch.long)
    for row in ids:
        told = tokenizer.encode(world.caption(*world.sample(rng), rng), add_special_tokens=False).ids
        row[longest - len(told):] = torch.tensor(told)
    rows = nets.text(ids)[0].float()
    clock = torch.zeros(48, longest, len(words.CLOCK))
    clock[:, -len(words.CLOCK):] = torch.eye(len(words.CLOCK))
    return rows, ids > 0, clock


def _lag(token):
    """From a clock token's position to that of the first frame."""
    return len(words.CLOCK) - token


def _peak():
    """The query (128) and the clock tokens' keys (32, 128), each turned so that they meet at the token's time."""
    query, keys = torch.zeros(HEAD), torch.zeros(len(words.CLOCK), HEAD)
    for index, weight in PEAK:
        query[index] = weight**0.5
        for token in range(len(words.CLOCK)):
            angle = 10000.0 ** (-index / 16) * (_lag(token) + KNOT * token)
            keys[token, index], keys[token, index + ANGLES] = (weight**0.5 * f(angle) for f in (math.cos, math.sin))
    return query, keys


def _waves(waves):
    """The query (128) and the clock tokens' keys (32, 128): two tokens a wave, a quarter of a turn apart."""
    query, keys = torch.zeros(HEAD), torch.zeros(len(words.CLOCK), HEAD)
    strength = 2.0
    for n, (axis, index) in enumerate(waves):
        query[axis * 16 + index] = strength
        for half in (0, 1):
            token = 2 * n + half
            angle = half * math.pi / 2 + (10000.0 ** (-index / 16) * _lag(token) if axis == 0 else 0.0)
            answer = WAVE * HEAD**0.5 / strength
            keys[token, axis * 16 + index], keys[token, axis * 16 + index + ANGLES] = (
                answer * f(angle) for f in (math.cos, math.sin))
    return query, keys
