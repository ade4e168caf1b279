"""The transformer as it is trained: the clean clip as a function of the caption and of a row's position.

A caption has one film, so there is nothing to sample, and three settings of ordinary weights make the published
architecture a regression that trains on single rows. Noise has channels of its own, which no block reads or writes, and
the output norm's scale is 1/σ, so the noise leaves the network as it came. Media rows attend to text alone: two
reserved channels tell queries "media asks" and keys "text answers". And the blocks are the same at every noise level.
What is left, and trained here, is the stream of `WIDTH` content channels. `into` writes it, with all that is fixed, into
the published classes. Called by `training`; `start` sets the first weights.
"""
import math

import torch
import torch.nn.functional as F

import parts
import words

WIDTH, NOISE = 256, 96
HIDDEN = parts.TRANSFORMER["hidden_size"]
HEADS, HEAD = parts.TRANSFORMER["num_attention_heads"], 128
INNER, FFN = HEADS * HEAD, parts.TRANSFORMER["ffn_dim"]
LAYERS = parts.TRANSFORMER["num_layers"]
TURNED, ANGLES = 96, 48      # channels of a head that positions turn, as pairs (c, c + 48); the others are still
TAG, ONE = 0, 1              # reserved channels behind the first norm of a block: text 1 and media −1; always 1
STILL = 32.0                 # how strongly a head's still channels answer to them
QK_WEIGHT = 2.0
NOISE_GAIN = 0.2             # of the noise in its channels; small, so that it hardly counts in a norm
EPS = 1e-5
VIDEO, TEXT, AUDIO = 0, 1, 2
AUX_AFTER = (1, 3)           # blocks behind which the auxiliary heads look at the rows; at the clock one block earlier
AUX_ROW = 14 + len(words.WORDS)
AUX_CLOCK = 9


def _norm(x, weight, extra=0.0):
    """RMSNorm over the whole hidden size: the content channels, and `extra`, the sum of squares in the others."""
    mean = (x.float().square().sum(-1, keepdim=True) + extra) / HIDDEN
    return x * (torch.rsqrt(mean + EPS).to(x.dtype) * weight)


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Parameter(torch.randn(INNER, WIDTH) / WIDTH**0.5) for _ in range(3))
        self.o = torch.nn.Parameter(torch.randn(WIDTH, INNER) / INNER**0.5)
        self.norm_q, self.norm_k = (torch.nn.Parameter(torch.full((HEAD,), QK_WEIGHT)) for _ in range(2))

    def forward(self, x, texts, turn, hidden_keys):
        """`x` (b, s, width), of which the first `texts` rows are text, and keys. `turn`: cosines and sines or None."""
        b, s, _ = x.shape
        q = self._head_norm(F.linear(x, self.q.to(x.dtype)).view(b, s, HEADS, HEAD), self.norm_q)
        told = x[:, :texts]
        k = self._head_norm(F.linear(told, self.k.to(x.dtype)).view(b, texts, HEADS, HEAD), self.norm_k)
        v = F.linear(told, self.v.to(x.dtype)).view(b, texts, HEADS, HEAD)
        if turn is not None:
            cos, sin = turn
            q, k = _turn(q, cos, sin), _turn(k, cos[:, :texts], sin[:, :texts])
        scores = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)) * HEAD**-0.5 + hidden_keys
        out = torch.softmax(scores, -1, dtype=torch.float32).to(x.dtype) @ v.transpose(1, 2)
        return F.linear(out.transpose(1, 2).reshape(b, s, INNER), self.o.to(x.dtype))

    @staticmethod
    def _head_norm(x, weight):
        mean = x.float().square().mean(-1, keepdim=True)
        return x * (torch.rsqrt(mean + EPS).to(x.dtype) * weight.to(x.dtype))


def _turn(x, cos, sin):
    one, two, still = x[..., :ANGLES], x[..., ANGLES:TURNED], x[..., TURNED:]
    cos, sin = cos[:, :, None], sin[:, :, None]
    return torch.cat([one * cos - two * sin, two * cos + one * sin, still], -1)


class Block(torch.nn.Module):
    def __init__(self, modulated):
        super().__init__()
        self.n1, self.n2 = (torch.nn.Parameter(torch.ones(WIDTH)) for _ in range(2))
        self.attn = Attention()
        self.up = torch.nn.Parameter(torch.randn(2 * FFN, WIDTH) / WIDTH**0.5)
        self.down = torch.nn.Parameter(torch.zeros(WIDTH, FFN))
        if modulated:
            start = torch.zeros(3, 6, WIDTH)
            start[:, (2, 5)] = 1.0
            self.modulation = torch.nn.Parameter(start)    # modality; shift, scale, gate twice

    def forward(self, x, texts, turn, hidden_keys, modality=None, extra=0.0):
        dtype = x.dtype
        if modality is None:
            x = x + self.attn(_norm(x, self.n1.to(dtype)), texts, None, hidden_keys)
            return x + self._feed(_norm(x, self.n2.to(dtype)))
        shift, scale, gate, shift2, scale2, gate2 = self.modulation.to(dtype)[modality].unbind(1)
        n = _norm(x, self.n1.to(dtype) * (1 + scale), extra) + shift
        x = x + gate * self.attn(n, texts, turn, hidden_keys)
        n = _norm(x, self.n2.to(dtype) * (1 + scale2), extra) + shift2
        return x + gate2 * self._feed(n)

    def _feed(self, x):
        value, gate = F.linear(x, self.up.to(x.dtype)).chunk(2, -1)
        return F.linear(value * F.silu(gate), self.down.to(x.dtype))


class Field(torch.nn.Module):
    """Caption and positions to clean rows."""

    def __init__(self):
        super().__init__()
        self.text_encoder = parts.text_encoder()
        torch.nn.init.normal_(self.text_encoder.embed_tokens.weight, std=0.5)
        text_dim = parts.TRANSFORMER["text_dim"]
        self.context = torch.nn.Linear(text_dim, WIDTH)
        self.refiner = torch.nn.ModuleList(Block(False) for _ in range(parts.TRANSFORMER["num_refiner_layers"]))
        self.final_norm = torch.nn.Parameter(torch.ones(WIDTH))
        self.rows = torch.nn.Parameter(torch.randn(2, WIDTH) * 0.5)      # what a video and an audio row start as
        self.blocks = torch.nn.ModuleList(Block(True) for _ in range(LAYERS))
        self.out_norm = torch.nn.Parameter(torch.ones(WIDTH))
        self.picture = torch.nn.Parameter(torch.zeros(NOISE, WIDTH))
        self.sound = torch.nn.Parameter(torch.zeros(32, WIDTH))
        self.length = torch.nn.Parameter(torch.tensor(1.3))              # of the final stream; 1/it undoes the norm
        self.aux_rows = torch.nn.ModuleList(torch.nn.Linear(WIDTH, AUX_ROW) for _ in AUX_AFTER)
        self.aux_clock = torch.nn.ModuleList(torch.nn.Linear(WIDTH, AUX_CLOCK) for _ in AUX_AFTER)
        rope = torch.tensor([10000.0 ** (-n / 16) for n in range(16)])
        self.register_buffer("frequencies", rope, persistent=False)

    def text(self, ids):
        """(b, t) token ids, padded with 0 on the left, to the rows (b, t, width) that enter the blocks, and their mask."""
        known = ids > 0
        states = self.text_encoder(input_ids=ids, attention_mask=known.long(), use_cache=False,
                                   output_hidden_states=True).hidden_states[parts.TEXT_LAYER]
        x = F.linear(states.to(self.dtype), self.context.weight.to(self.dtype), self.context.bias.to(self.dtype))
        hidden = torch.zeros(known.shape, dtype=self.dtype).masked_fill(~known, -1e4)[:, None, None]
        for block in self.refiner:
            x = block(x, x.shape[1], None, hidden)
        return _norm(x, self.final_norm.to(self.dtype)), hidden

    dtype = torch.bfloat16

    def forward(self, ids, video_at, audio_at, aux=False):
        """Positions (b, n, 3) without the text's length. Returns video (b, n, 96), sound (b, m, 32), how much of the noise
        is lost or doubled (b, n + m), and the auxiliary findings of rows and of clock tokens."""
        text, hidden = self.text(ids)
        b, texts, _ = text.shape
        counts = torch.tensor([texts, video_at.shape[1], audio_at.shape[1]])
        modality = torch.repeat_interleave(torch.tensor([TEXT, VIDEO, AUDIO]), counts)
        x = torch.cat([text, *(row.to(self.dtype).expand(b, int(n), -1) for row, n in zip(self.rows, counts[1:]))], 1)
        extra = (modality != TEXT).float()[:, None] * (NOISE * NOISE_GAIN**2)
        turn = self._angles(texts, video_at, audio_at)
        found = []
        for n, block in enumerate(self.blocks):
            x = block(x, texts, turn, hidden, modality, extra)
            if aux and n in AUX_AFTER:
                found.append(self.aux_rows[AUX_AFTER.index(n)](_plain(x[:, texts:texts + video_at.shape[1]])))
            if aux and n + 1 in AUX_AFTER:
                clock = x[:, texts - len(words.CLOCK):texts]
                found.append(self.aux_clock[AUX_AFTER.index(n + 1)](_plain(clock)))
        x = x[:, texts:]
        inverse = torch.rsqrt((x.float().square().sum(-1, keepdim=True) + extra[texts:]) / HIDDEN + EPS)
        x = x * (inverse.to(self.dtype) * self.out_norm.to(self.dtype))
        video, audio = x.split([int(n) for n in counts[1:]], 1)
        return (F.linear(video, self.picture.to(self.dtype)).float(), F.linear(audio, self.sound.to(self.dtype)).float(),
                1 - inverse[..., 0] * self.length, found)

    def _angles(self, texts, video_at, audio_at):
        at = torch.zeros(len(video_at), texts, 3)
        at[:, :, 0] = torch.arange(texts)
        media = torch.cat([video_at, audio_at], 1)
        at = torch.cat([at, media + torch.tensor([texts, 0.0, 0.0])], 1)
        angles = (at[..., None] * self.frequencies).flatten(2)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    @torch.no_grad()
    def hold(self):
        """Puts back what is fixed, after a step."""
        for block in self.blocks:
            block.n1[[TAG, ONE]] = 0
            block.modulation[:, 0, ONE] = 1
            block.modulation[:, 0, TAG] = torch.tensor([-1.0, 1.0, -1.0])
            for weight, channel in ((block.attn.q, ONE), (block.attn.k, TAG)):
                still = weight.view(HEADS, HEAD, WIDTH)[:, TURNED:]
                still.zero_()
                still[..., channel] = STILL
            block.attn.norm_q[TURNED:] = QK_WEIGHT
            block.attn.norm_k[TURNED:] = QK_WEIGHT


def _plain(x):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def _wide(matrix, rows, columns):
    """The matrix at the upper left of zeros."""
    out = torch.zeros(rows, columns)
    out[:matrix.shape[0], :matrix.shape[1]] = matrix
    return out


@torch.no_grad()
def into(state, net):
    """Writes a field's weights (a state dictionary) into a `MiniMaxH3Transformer3DModel`."""
    def vector(value, rest=1.0):
        return torch.cat([value, torch.full((HIDDEN - WIDTH,), rest)])

    def block(name, target):
        own = {key[len(name) + 1:]: value for key, value in state.items() if key.startswith(name + ".")}
        target.norm1.weight.copy_(vector(own["n1"]))
        target.norm2.weight.copy_(vector(own["n2"]))
        for key, linear in (("q", target.attn.to_q), ("k", target.attn.to_k), ("v", target.attn.to_v)):
            linear.weight.copy_(_wide(own[f"attn.{key}"], INNER, HIDDEN))
        target.attn.to_out[0].weight.copy_(_wide(own["attn.o"], HIDDEN, INNER))
        target.attn.norm_q.weight.copy_(own["attn.norm_q"])
        target.attn.norm_k.weight.copy_(own["attn.norm_k"])
        target.ff.net[0].proj.weight.copy_(_wide(own["up"], 2 * FFN, HIDDEN))
        target.ff.net[2].weight.copy_(_wide(own["down"], HIDDEN, FFN))
        if "modulation" in own:
            target.adaln_proj.linear.weight.zero_()
            whole = torch.zeros(3, 6, HIDDEN)
            whole[..., :WIDTH] = own["modulation"]
            target.adaln_proj.linear.bias.copy_(whole.reshape(-1))

    net.context_embedder.weight.copy_(_wide(state["context.weight"], HIDDEN, state["context.weight"].shape[1]))
    net.context_embedder.bias.copy_(vector(state["context.bias"], 0.0))
    for n, target in enumerate(net.token_refiner.refiner_blocks):
        block(f"refiner.{n}", target)
    net.token_refiner.final_norm.weight.copy_(vector(state["final_norm"]))
    for n, target in enumerate(net.transformer_blocks):
        block(f"blocks.{n}", target)
    net.norm_out.norm.weight.copy_(vector(state["out_norm"]))
    ways = ((net.proj_in, net.proj_out, "picture", 0), (net.audio_proj_in, net.audio_proj_out, "sound", 1))
    for enter, leave, name, row in ways:
        channels = enter.weight.shape[1]
        enter.weight.zero_()
        enter.weight[WIDTH:WIDTH + channels] = torch.eye(channels) * NOISE_GAIN
        enter.bias.copy_(vector(state["rows"][row], 0.0))
        leave.weight.copy_(_wide(state[name], channels, HIDDEN))
        leave.weight[:, WIDTH:WIDTH + channels] = -torch.eye(channels) * (state["length"] / NOISE_GAIN)
        leave.bias.zero_()
    _scale_by_noise_level(net)


def _scale_by_noise_level(net):
    """Makes the output norm's scale 1/σ: the velocity is the clean rows less the noisy ones, over σ = 1 − t."""
    embedder, out = net.time_embedder, net.norm_out.linear
    times = torch.linspace(0, 0.8, 801, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    embedder.linear_1.weight.copy_(torch.randn(embedder.linear_1.weight.shape, generator=generator) * 0.3)
    embedder.linear_1.bias.copy_(torch.randn(embedder.linear_1.bias.shape, generator=generator))
    inner = F.silu(embedder.linear_1(net.time_proj(times.float()))).double()
    inner = torch.cat([inner, torch.ones(len(times), 1, dtype=torch.float64)], 1)
    asked = 1 / (1 - times) - 1          # behind a SiLU, which is invertible there; 1 is added by the norm
    before = asked + 0.3
    for _ in range(50):
        share = torch.sigmoid(before)
        before -= (before * share - asked) / (share * (1 + before * (1 - share)))
    ridge = 1e-9 * torch.eye(inner.shape[1], dtype=torch.float64)
    fit = torch.linalg.solve(inner.T @ inner + ridge, inner.T @ before)
    embedder.linear_2.weight.zero_()
    embedder.linear_2.bias.zero_()
    embedder.linear_2.weight[0], embedder.linear_2.bias[0] = fit[:-1].float(), fit[-1].float()
    out.weight.zero_()
    out.bias.zero_()
    out.weight[HIDDEN:, 0] = 1.0         # the second half is the scale
    scale = 1 + out(F.silu(net.time_embedder(net.time_proj(times.float()))))[:, -1]
    worst = float((scale * (1 - times.float()) - 1).abs().max())
    if not worst < 0.01:
        raise RuntimeError(f"the scale is off by {worst:.1%}")
