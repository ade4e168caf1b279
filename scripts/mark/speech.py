#!/usr/bin/env python3
"""Makes the speech that the watermark's table is measured on: 40 files of 8 to 12 s.

    python3 -m venv v && v/bin/pip install hibari-tts==0.2.1 numpy
    v/bin/python scripts/mark/speech.py [FOLDER, default target/mark]

Harmless sentences of our own (scripts/moderation/hard_benign.txt), one synthetic voice (hibari, Apache-2.0); no person
speaks. `scripts/mark/run` measures what it finds in its folder.
"""
import pathlib
import random
import sys
import wave

import numpy as np
from hibari import Hibari

ROOT = pathlib.Path(__file__).parents[2]
RATE, COUNT, LEAST, MOST = 24_000, 40, 8, 12

folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/mark")
folder.mkdir(parents=True, exist_ok=True)
lines = (ROOT / "scripts/moderation/hard_benign.txt").read_text().splitlines()
lines = [line.strip() for line in lines if not line.startswith("#") and 6 <= len(line.split()) <= 18]
random.Random(5).shuffle(lines)
voice, rest, pause = Hibari(), iter(lines), np.zeros(RATE * 3 // 10)
for number in range(COUNT):
    parts = []
    # Whole sentences until there are 10 s.
    while sum(map(len, parts)) < RATE * 10:
        parts += [np.asarray(voice(next(rest)), np.float64), pause]
    sound = np.concatenate(parts)[: RATE * MOST]
    assert len(sound) >= RATE * LEAST
    with wave.open(str(folder / f"speech-{number}.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((sound * 0.6 / np.abs(sound).max() * 32_767).astype("<i2").tobytes())
