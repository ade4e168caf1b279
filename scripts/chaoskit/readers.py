"""What strangers read in a clip: two C2PA readers that share no code, neither of which wrote the manifest.

    readers.py ROOT.pem < FILES        one path a line in, one line of JSON out; runs in .deps/venv-c2pa

`c2pa-python` wraps c2pa-rs in another version than ours; `encypher-c2pa` is an implementation of its own. Both are
given the farm's root and nothing else, and neither may use the network. `c2patool`, the command of the standard's
makers, reads too where it is installed; scripts/setup does not install it, so no check of the project depends on it
(`cargo install c2patool --version 0.27.22 --locked`, a quarter of an hour). Called by the chaos runs and by the tests.
"""
import json
import shutil
import subprocess
import sys

import c2pa
import encypher_c2pa

ROOT = open(sys.argv[1], encoding="utf-8").read()
SETTINGS = {"trust": {"trust_anchors": ROOT}, "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}


def public(clip):
    """What c2pa-rs says."""
    with c2pa.Reader(clip, context=c2pa.Context.from_json(json.dumps(SETTINGS))) as reader:
        manifest = json.loads(reader.json())
        active = manifest["manifests"][manifest["active_manifest"]]
        assertions = [(assertion["label"], assertion["data"]) for assertion in active["assertions"]]
        return {"state": reader.get_validation_state(), "issuer": active["signature_info"]["issuer"],
                "bindings": {data["alg"]: data["blocks"][0]["value"] for label, data in assertions
                             if label.startswith("c2pa.soft-binding")},
                "said": [data for label, data in assertions if label.startswith("org.zoetrope")],
                "actions": [(action["action"], action.get("digitalSourceType")) for label, data in assertions
                            if label.startswith("c2pa.actions") for action in data["actions"]]}


def other(clip):
    """What an implementation says that shares no code with it. Not strict: that asks for a time stamp and OCSP."""
    return encypher_c2pa.verify(clip, "video/mp4", trust_pem=ROOT, no_default_trust=True, strict_conformance=False,
                                telemetry=False, online=False)


def tool(clip):
    """What the command of the standard's makers says; nothing where it is not installed."""
    if not (program := shutil.which("c2patool")):
        return None
    done = subprocess.run([program, clip, "trust", "--trust_anchors", sys.argv[1]], capture_output=True, text=True, check=True, timeout=60)
    manifest = json.loads(done.stdout)
    return {"state": manifest["validation_state"], "active": manifest["active_manifest"]}


def read(reader, clip):
    try:
        return reader(clip)
    except Exception as error:  # whatever it is, it is no proof
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    for line in sys.stdin:
        name = line.rstrip("\n")
        print(json.dumps({"file": name, "public": read(public, name), "other": read(other, name), "tool": read(tool, name)}), flush=True)
