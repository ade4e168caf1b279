"""The sounds of the toy world, in stereo: impacts, the rumble of rolling, and what the setting adds.

Every tone is a multiple of 40 Hz and keeps the phase of the clip's clock, not that of its impact. One audio latent is 25 ms, one
fortieth of a second, so such a tone looks the same in every latent but for its loudness: the latents of a clip are
envelopes, which a small model can learn, and not phases, which it cannot. Called by `latents` and `evaluate`.
"""
import numpy as np

from world import GRAVITY, BOUNCE_HEIGHT, ROLL_SECONDS, SAMPLE_RATE, camera, falls, place

HOP = 800
# (frequency in Hz, loudness) of the partials, seconds to 1/e
TONES = {
    "rubber": (((120, 0.9), (200, 0.6), (320, 0.25)), 0.11),
    "wood": (((440, 0.8), (720, 0.45), (1160, 0.2)), 0.06),
    "metal": (((880, 0.6), (1480, 0.45), (2320, 0.3)), 0.40),
    "glass": (((1960, 0.6), (3120, 0.4), (4840, 0.2)), 0.25),
}
ATTACK = 0.003
_FULL_SPEED = (2 * GRAVITY * BOUNCE_HEIGHT) ** 0.5


def _pan(x):
    """Equal-power gains `(left, right)` for a place on the canvas."""
    side = np.clip(0.5 + 1.25 * x, 0.04, 0.96)
    return np.sqrt(1 - side), np.sqrt(side)


def _wave(partials, seconds):
    hop = np.arange(HOP) / SAMPLE_RATE      # every hop is like the first, because each tone is a multiple of 40 Hz
    return np.tile(sum(loud * np.sin(2 * np.pi * pitch * hop) for pitch, loud in partials), len(seconds) // HOP)


def stereo(scene, num_latents):
    """The first `num_latents` · 800 samples of the clip's sound, (2, samples), f32."""
    samples = num_latents * HOP
    seconds = np.arange(samples) / SAMPLE_RATE
    out = np.zeros((2, samples))
    _impacts(scene, seconds, out)
    if scene.rolls:
        _rumble(scene, seconds, out)
    _ambience(scene.setting, seconds, out)
    return np.clip(out, -1, 1).astype(np.float32)


def _impacts(scene, seconds, out):
    partials, decay = TONES[scene.material]
    envelope = np.zeros((2, len(seconds)))
    for when, speed in falls(scene)[2]:
        first = int(np.ceil(when * SAMPLE_RATE))
        if first >= len(seconds):
            break
        since = seconds[first:first + int(6 * decay * SAMPLE_RATE)] - when
        shape = np.minimum(since / ATTACK, 1) * np.exp(-since / decay)
        moment = np.array([when])
        zoom, shift = camera(scene, moment)
        gains = _pan((zoom * place(scene, moment) + shift)[0])
        loud = 0.50 * min(speed / _FULL_SPEED, 1.2) * (1.0 if scene.size == "large" else 0.75)
        for channel in (0, 1):
            envelope[channel, first:first + len(since)] += loud * gains[channel] * shape
    out += envelope * _wave(partials, seconds)


def _rumble(scene, seconds, out):
    speed = np.clip(1 - seconds / ROLL_SECONDS, 0, 1)
    _, shift = camera(scene, seconds)
    gains = np.stack(_pan(place(scene, seconds) + shift))
    beat = 0.75 + 0.25 * np.cos(2 * np.pi * 2.5 * seconds)
    out += 0.22 * speed * beat * gains * _wave(((80, 0.7), (160, 0.4), (280, 0.2)), seconds)


def _ambience(setting, seconds, out):
    if setting == "daylight":       # a bird, every 2.5 s, on the right
        call = sum(np.exp(-(((seconds - 1.2 - d) % 2.5 - 0.1) / 0.045) ** 2) for d in (0.0, 0.25))
        out += np.array([[0.35], [0.75]]) * 0.05 * call * _wave(((2760, 1.0), (3400, 0.4)), seconds)
    elif setting == "night":        # crickets
        for channel, lag in ((0, 0.0), (1, 0.2)):
            out[channel] += 0.03 * np.sin(np.pi * 2.5 * (seconds - lag)) ** 4 * _wave(((4200, 1.0),), seconds)
    elif setting == "sunset":       # a slower, lower insect
        out += 0.03 * np.sin(np.pi * 0.8 * seconds) ** 6 * _wave(((3600, 1.0),), seconds)
