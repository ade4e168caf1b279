#!/usr/bin/env python3
"""Fits the heads of the moderation policy and chooses their thresholds: writes configs/policy/heads.safetensors.

    python3 -m venv v && v/bin/pip install onnxruntime==1.32.0 numpy tokenizers safetensors scikit-learn==1.9.1
    v/bin/python scripts/moderation/heads.py FOLDER_OF_WHEELS [CACHE.npz]       (the wheels that scripts/moderation/evaluate fetches)

Fitted on the part `fit` of sentences.py by logistic regression over MiniLM's embeddings, one class for each category and one for
what is harmless. The wheels serve one purpose here: sentences of ours that are too like a prompt of a set that is reported are
left out. The thresholds come from the part `choose`, whose kinds of wishes and words are none of those fitted on; then the heads are
fitted on both parts. Prints what the heads of the first part say of the second, with the new digest for configs/policy.toml. CACHE.npz keeps embeddings for another run.
"""
import hashlib
import pathlib
import subprocess
import sys

import numpy as np
import onnxruntime as ort
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer

import sets
from intervals import share

ROOT = pathlib.Path(__file__).parents[2]
NETS, OUT = ROOT / ".deps/models/moderation", ROOT / "configs/policy/heads.safetensors"
CACHE = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
# A sentence of ours this like (by cosine) to one that we measure with is left out.
TOO_LIKE = 0.80
# Careful talk of hard subjects is rarer in the sentences than in life.
WEIGHTS = {"care": 2.0, "innocent": 2.0}
# The inverse of the strength that holds weights small. Of 0.1, 0.3, 1 and 3 this one found most wishes at 0.3 % of the plain
# sentences of `choose`.
C = 0.3
# What may be stopped on `choose`: the shares of plain sentences and of twins, for the audiences all and adult. Other people's
# sentences are harder than held-out ones by the same hand, and rules and pairs stop some more: so this is a third of what we aim at
# (0.5 % and 5 %).
MAY_STOP = {"all": (0.0017, 0.017), "adult": (0.001, 0.012)}
# The scores of configs/policy.toml at which the two audiences' reviews begin.
SCORES = {"all": 0.70, "adult": 0.75}


def embedder():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    net = ort.InferenceSession(str(NETS / "minilm.onnx"), options)
    tokens = Tokenizer.from_file(str(NETS / "minilm-tokenizer.json"))
    tokens.no_padding()
    known = {}
    if CACHE and CACHE.exists():
        kept = np.load(CACHE, allow_pickle=True)
        known = dict(zip(kept["k"], kept["v"]))

    def one(text):
        ids = np.array([tokens.encode(text.lower()).ids[:128]], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = net.run(None, inputs)[0][0].mean(0)
        return mean / np.linalg.norm(mean)

    def all(texts):
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update((text, one(text)) for text in new)
        if new and CACHE:
            np.savez(CACHE, k=np.array(list(known), object), v=np.array(list(known.values()), np.float32))
        return np.array([known[text] for text in texts])

    return all


lines = subprocess.run([sys.executable, ROOT / "scripts/moderation/sentences.py"], capture_output=True, text=True, check=True).stdout.splitlines()
part, category, kind, sentence = (np.array(column) for column in zip(*(line.split("\t") for line in lines)))
embed = embedder()
found = embed(sentence)
measured = embed([text for group in (sets.violating(sys.argv[1]), sets.harmless(sys.argv[1])) for texts in group.values() for text in texts])
like = np.concatenate([(found[n : n + 1000] @ measured.T).max(1) for n in range(0, len(found), 1000)])
print(f"{len(found)} sentences, {(like >= TOO_LIKE).sum()} left out as too like one that is measured with")
fit, choose = (part == "fit") & (like < TOO_LIKE), (part == "choose") & (like < TOO_LIKE)


def fitted(which):
    model = LogisticRegression(C=C, max_iter=1000)
    return model.fit(found[which], category[which], sample_weight=[WEIGHTS.get(one, 1.0) for one in kind[which]])


def ordered(model):
    return model.coef_[order].astype(np.float32), model.intercept_[order].astype(np.float32)


model = fitted(fit)
# The harmless class first, then the categories by name.
order = sorted(range(len(model.classes_)), key=lambda n: (model.classes_[n] != "harmless", model.classes_[n]))
classes = model.classes_[order]
weights, bias = ordered(model)
logits = found @ weights.T + bias
odds = np.logaddexp.reduce(logits[:, 1:], 1) - logits[:, 0]
top = classes[1:][logits[:, 1:].argmax(1)]

of = lambda word: odds[choose & (kind == word)]
at = {a: max(np.quantile(of("plain"), 1 - plain), np.quantile(of("twin"), 1 - twin)) for a, (plain, twin) in MAY_STOP.items()}
logit = lambda p: np.log(p / (1 - p))
scale = (logit(SCORES["adult"]) - logit(SCORES["all"])) / (at["adult"] - at["all"])
shift = logit(SCORES["all"]) - scale * at["all"]
# With the thresholds chosen, nothing is held out any more: what is written has seen the kinds of wishes of both parts.
weights, bias = ordered(fitted(fit | choose))
minilm = hashlib.sha256((NETS / "minilm.onnx").read_bytes()).hexdigest()
save_file(
    {"weights": weights, "bias": bias, "calibration": np.array([scale, shift], np.float32)},
    OUT,
    {"classes": ",".join(classes), "net": minilm, "made_by": "scripts/moderation/heads.py"},
)
print("sha256 =", hashlib.sha256(OUT.read_bytes()).hexdigest(), f"odds {at}, scale {scale:.3f}, shift {shift:.3f}")
print("\n| sentences of `choose` | stopped, audience all | adult |\n|---|---|---|")
cell = lambda mask, a: share(int((odds[mask] >= at[a]).sum()), int(mask.sum()))
for word in ("plain", "innocent", "twin", "care"):
    mask = choose & (kind == word)
    print(f"| harmless: {word} | {cell(mask, 'all')} | {cell(mask, 'adult')} |")
for name in classes[1:]:
    mask = choose & (category == name)
    print(f"| {name} | {cell(mask, 'all')} | {cell(mask, 'adult')} |")
print("\nMost likely category of what is stopped, audience adult (rows: what it is):\n")
print("| of | N | not stopped | " + " | ".join(classes[1:]) + " |\n|" + "---|" * (len(classes) + 2))
for name in classes:
    mask = choose & (category == name)
    stopped = mask & (odds >= at["adult"])
    counts = [str((stopped & (top == other)).sum()) for other in classes[1:]]
    print(f"| {name} | {mask.sum()} | {mask.sum() - stopped.sum()} | " + " | ".join(counts) + " |")
