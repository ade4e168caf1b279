"""Reads a clip with the public C2PA reader of PyPI, and prints what it says: c2pa_reader.py ROOT.pem CLIP.mp4"""

import json
import sys

import c2pa

root, clip = sys.argv[1:]
settings = {
    "trust": {"trust_anchors": open(root, encoding="utf-8").read()},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
context = c2pa.Context.from_json(json.dumps(settings))
with c2pa.Reader(clip, context=context) as reader:
    manifest = json.loads(reader.json())
    active = manifest["manifests"][manifest["active_manifest"]]
    print(json.dumps({
        "sdk": c2pa.sdk_version(),
        "state": reader.get_validation_state(),
        "issuer": active["signature_info"]["issuer"],
        "actions": [
            action["action"]
            for assertion in active["assertions"] if assertion["label"].startswith("c2pa.actions")
            for action in assertion["data"]["actions"]
        ],
    }))
