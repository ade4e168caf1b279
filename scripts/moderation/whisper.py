"""Converts Whisper from CTranslate2's container to safetensors, under the usual names. Called by scripts/setup.

    python3 scripts/moderation/whisper.py MODEL.BIN OUT.safetensors

The container: version u32, name, revision u32, count u32; for each tensor name, rank u8, dimensions u32, type u8,
bytes u32, data; aliases last. A string is its length as u16, final NUL included, and its bytes. Query, key and value
are one matrix there (key and value, where the encoder is looked at); here each has its own. A key has no bias: the
zeros that stand in its place are left out. The same input gives the same bytes, so that a digest can pin them.
"""
import json
import struct
import sys

F16 = 4


def read(path):
    with open(path, "rb") as file:
        number = lambda form: struct.unpack(form, file.read(struct.calcsize(form)))[0]
        text = lambda: file.read(number("<H"))[:-1].decode()
        version, name, revision = number("<I"), text(), number("<I")
        if (version, name) != (6, "WhisperSpec"):
            sys.exit(f"{path}: {name} in version {version} (revision {revision}) is not known")
        for _ in range(number("<I")):
            name, rank = text(), number("<B")
            shape = [number("<I") for _ in range(rank)]
            kind, size = number("<B"), number("<I")
            data = file.read(size)
            if len(data) != size:
                sys.exit(f"{path} ends within {name}")
            if rank > 0 and kind == F16:
                yield name, shape, data


def names(name):
    """The name or names here, one for each part of a fused tensor."""
    side, *rest = name.split("/")
    if rest[0] == "embeddings":
        return ["decoder.embed_tokens.weight"]
    if rest[0] == "position_encodings":
        return [f"{side}.embed_positions.weight"]
    end = {"gamma": "weight", "beta": "bias"}.get(rest[-1], rest[-1])
    if rest[0] in ("conv1", "conv2", "layer_norm"):
        return [f"{side}.{rest[0]}.{end}"]
    layer = f"{side}.layers.{rest[0].removeprefix('layer_')}"
    if rest[1] == "ffn":
        part = {"layer_norm": "final_layer_norm", "linear_0": "fc1", "linear_1": "fc2"}[rest[2]]
        return [f"{layer}.{part}.{end}"]
    own = rest[1] == "self_attention"
    attention = "self_attn" if own else "encoder_attn"
    if rest[2] == "layer_norm":
        return [f"{layer}.{attention}_layer_norm.{end}"]
    parts = {
        (True, "linear_0"): ["q_proj", "k_proj", "v_proj"],
        (True, "linear_1"): ["out_proj"],
        (False, "linear_0"): ["q_proj"],
        (False, "linear_1"): ["k_proj", "v_proj"],
        (False, "linear_2"): ["out_proj"],
    }[own, rest[2]]
    return [f"{layer}.{attention}.{part}.{end}" for part in parts]


def main(source, target):
    tensors = {}
    for name, shape, data in read(source):
        if name == "decoder/alignment_heads":
            continue
        parts = names(name)
        share = len(data) // len(parts)
        for i, part in enumerate(parts):
            piece = data[i * share : (i + 1) * share]
            if part.endswith("k_proj.bias"):
                if any(piece):
                    sys.exit(f"{name}: a key with a bias is not known")
                continue
            tensors[part] = ([shape[0] // len(parts)] + shape[1:], piece)
    header, at = {}, 0
    for name in sorted(tensors):
        shape, data = tensors[name]
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name in sorted(tensors):
            file.write(tensors[name][1])


main(*sys.argv[1:])
