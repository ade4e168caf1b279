"""Tables of text moderation on packaged sets. Called by scripts/moderation/evaluate, which fetches them.

Rules, pairs and heads as they run. Leave-source-out: heads and thresholds come from sentences of our own (heads.py); no set that
is reported here took part. What is scored is kept, for a run that goes on, as long as policy, lists, program and texts are the same.
"""
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tomllib

import sets
from intervals import share

FOLDER = pathlib.Path(sys.argv[1])
ROOT = pathlib.Path(__file__).parents[2]
SCORE = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug/examples/score"
TEXT = (ROOT / "configs/policy.toml").read_text()
POLICY = tomllib.loads(TEXT)
AUDIENCES = ("all", "teen", "adult")
CATEGORIES = (
    "sexual sexual/minors hate hate/threatening harassment harassment/threatening violence violence/graphic self-harm self-harm/intent "
    "self-harm/instructions illicit illicit/violent"
).split()
# All that scores come of, but the nets, whose digests the policy names.
OF = (SCORE, *(ROOT / "configs" / POLICY["text"][part] for part in ("rules", "pairs")))
VERSION = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in (TEXT.encode(), *(f.read_bytes() for f in OF)))).hexdigest()[:16]
KEPT = FOLDER / f"scores-{VERSION}.json"
known = json.loads(KEPT.read_text()) if KEPT.exists() else {}


def score(name, texts):
    lines = "\n".join(" ".join(text.split()) for text in texts) + "\n"
    name = f"{name} {hashlib.sha256(lines.encode()).hexdigest()[:16]}"
    if name not in known:
        run = subprocess.run([SCORE, "texts"], input=lines, capture_output=True, text=True, check=True, cwd=ROOT)
        known[name] = [json.loads(line) for line in run.stdout.splitlines()]
        KEPT.write_text(json.dumps(known))
        print(name, file=sys.stderr, flush=True)
    return known[name]


def flagged(scores, audience):
    """The categories that stop a text, the highest score first: without a reviewer, review is a block."""
    text = POLICY["text"]
    own = text.get("category", {})
    stop = lambda c: own.get(c, text["default"])[audience]["review"] * 10_000
    return sorted((c for c, s in scores.items() if s >= stop(c)), key=lambda c: (-scores[c], CATEGORIES.index(c)))


def within(word, sign):
    """A sign in the middle of a word of four letters or more."""
    return word[: len(word) // 2] + sign + word[len(word) // 2 :] if len(word) > 3 and word.isalpha() else word


def inside(text):
    """In the middle of a harmless description three times as long as most prompts are."""
    before = "a calm sea at dawn with gulls over the water and a small boat that drifts as the light slowly turns gold, then "
    return before + " ".join(text.split()).rstrip(".!?") + ", while an old man mends his nets and the wind moves the grass on the dunes"


def disguised(text):
    leet = str.maketrans("aeios", "43105")
    looks = str.maketrans("aeopcxy", "аеорсху")
    return {
        "leet": text.translate(leet),
        "look-alikes": text.translate(looks),
        "zero width": "\u200b".join(text),
        "full width": "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
        "accents": "".join(c + "\u0301" if c in "aeiou" else c for c in text),
        "spaced letters": " ".join(text.replace(" ", "")),
        "dotted letters": " ".join(".".join(word) for word in text.split()),
        "hyphens inside words": " ".join(within(word, "-") for word in text.split()),
        "percent": "".join(f"%{ord(c):02x}" if c == " " or c in "aeiou" else c for c in text),
        "inside a harmless description": inside(text),
    }


def main(report):
    violating, harmless = sets.violating(FOLDER), sets.harmless(FOLDER)
    groups = {**violating, **{f"**harmless**: {name}": texts for name, texts in harmless.items()}}
    scored = {name: score(name, texts) for name, texts in groups.items()}
    report.append("| set | stopped, audience all | teen | adult |\n|---|---|---|---|")
    for name, lines in scored.items():
        cells = [share(sum(bool(flagged(line["scores"], a)) for line in lines), len(lines)) for a in AUDIENCES]
        report.append(f"| {name} | {' | '.join(cells)} |")
    took = sorted(line["ms"] for lines in scored.values() for line in lines)
    report.append(f"\nTime a text, one thread, debug build with optimised nets, machine not idle: median {took[len(took) // 2]:.0f} ms, 99 % {took[int(len(took) * 0.99)]:.0f} ms.\n")
    report.append("By the category with the highest score among those that stop, audience adult:\n")
    report.append("| set | N | passed | " + " | ".join(CATEGORIES) + " |\n|" + "---|" * (len(CATEGORIES) + 3))
    for name, lines in scored.items():
        tops = [(flagged(line["scores"], "adult") or [""])[0] for line in lines]
        report.append(f"| {name} | {len(tops)} | {tops.count('')} | " + " | ".join(str(tops.count(c) or "") for c in CATEGORIES) + " |")
    report.append("\nDisguises of the StrongREJECT prompts about sexual content, audience adult:\n\n| disguise | stopped |\n|---|---|")
    for word in disguised("x"):
        lines = score(f"disguise: {word}", [disguised(" ".join(text.split()))[word] for text in violating["StrongREJECT: Sexual content"]])
        report.append(f"| {word} | {share(sum(bool(flagged(line['scores'], 'adult')) for line in lines), len(lines))} |")
    report.append("\nThe prompts of StrongREJECT inside a harmless description, by their category:\n\n| set | stopped, audience all | teen | adult |\n|---|---|---|---|")
    for name in (name for name in violating if name.startswith("StrongREJECT")):
        lines = score(f"inside: {name}", [inside(text) for text in violating[name]])
        report.append(f"| {name} | {' | '.join(share(sum(bool(flagged(line['scores'], a)) for line in lines), len(lines)) for a in AUDIENCES)} |")


report = []
main(report)
print("\n".join(report))
