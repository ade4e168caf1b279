"""Judges a clip by rules: what it shows and sounds, found without looking at the prompt's own film.

The setting and the camera are the pair whose empty stage fits best; the object is what differs from that stage. Each
finding is then held against the scene that was asked for. Knows no network. Called by `evaluate`.
"""
from dataclasses import replace

import numpy as np
import torch

import picture
import world
from words import ATTRIBUTES
from world import FPS, GROUND, SAMPLE_RATE, ZOOM_Y

DIFFERENCE = 0.13       # of a pixel from the empty stage, in 0..1, to count as object
LEAST_PIXELS = 0.25     # of the asked object's area, for it to be there at all
CORNERS = 0.5           # share of the upper corners of its box that tells a cube from a ball
REBOUND = 0.10          # height that tells a bounce from a drop
_OPENING = int(1.5 * FPS)   # frames in which the first impact falls


def _stage(scene, frames, canvas):
    return picture.film(scene, frames, canvas, empty=True).permute(1, 2, 3, 0).numpy()


def setting_and_camera(film, canvas):
    """The pair whose empty stage is nearest in the calmest four fifths of the pixels of three frames."""
    at = [0, len(film) // 2, len(film) - 1]
    best = None
    for setting in ATTRIBUTES["setting"]:
        for camera in ATTRIBUTES["camera"]:
            stage = _stage(replace(world.DEFAULT, setting=setting, camera=camera), at, canvas)
            far = np.sort(np.abs(film[at] - stage).mean(-1).reshape(-1))
            score = far[:int(0.8 * len(far))].mean()
            if best is None or score < best[0]:
                best = (score, setting, camera)
    return best[1:]


class Track:
    """Where the object is, frame by frame, in world coordinates; NaN where it is not seen."""

    def __init__(self, film, setting, camera, canvas, frames):
        scene = replace(world.DEFAULT, setting=setting, camera=camera)
        width, height = canvas
        unit = (width * height) ** 0.5
        x = (np.arange(width) + 0.5 - width / 2) / unit
        y = (np.arange(height) + 0.5 - height / 2) / unit
        self.x, self.top, self.pixels, self.fill, self.colour = (np.full(len(frames), np.nan) for _ in range(5))
        self.colour = np.full((len(frames), 3), np.nan)
        for n, frame in enumerate(frames):
            zoom, shift = (value[0] for value in world.camera(scene, np.array([frame / FPS])))
            stage = _stage(scene, [frame], canvas)[0]
            mask = np.abs(film[frame] - stage).max(-1) > DIFFERENCE
            mask[(y - ZOOM_Y) / zoom + ZOOM_Y > GROUND - 0.02] = False     # most of the shadow
            self._measure(n, film[frame], _largest(mask), (x - shift) / zoom, (y - ZOOM_Y) / zoom + ZOOM_Y)
            self.pixels[n] = mask.sum() / unit**2 / zoom**2

    def _measure(self, n, image, mask, x, y):
        if mask.sum() < 12:
            return
        rows, columns = mask.sum(1), mask.sum(0)
        high, wide = _run(rows, 0.2), _run(columns, 0.2)
        self.x[n], self.top[n] = (x[wide[0]] + x[wide[-1]]) / 2, y[high[0]]
        core_rows, core_columns = _run(rows, 0.4), _run(columns, 0.4)
        box = mask[core_rows[0]:core_rows[-1] + 1, core_columns[0]:core_columns[-1] + 1]
        corner_h, corner_w = max(1, box.shape[0] // 6), max(1, box.shape[1] // 6)
        self.fill[n] = np.mean([box[:corner_h, :corner_w].mean(), box[:corner_h, -corner_w:].mean()])
        middle = image[high[len(high) // 4]:high[3 * len(high) // 4] + 1, wide[len(wide) // 4]:wide[3 * len(wide) // 4] + 1]
        self.colour[n] = np.median(middle.reshape(-1, 3), 0)


def _run(counts, share):
    """Where the counts stay above a share of their greatest, around it: a stray pixel elsewhere is no part of the object."""
    low = np.flatnonzero(counts <= share * counts.max())
    peak = int(counts.argmax())
    first, last = low[low < peak].max(initial=-1) + 1, low[low > peak].min(initial=len(counts)) - 1
    return np.arange(first, last + 1)


def _largest(mask):
    """Keeps the pixels near the densest spot: stray ones elsewhere are no object."""
    if not mask.any():
        return mask
    blurred = torch.nn.functional.avg_pool2d(torch.from_numpy(mask).float()[None, None], 15, 1, 7)[0, 0].numpy()
    row, column = np.unravel_index(blurred.argmax(), mask.shape)
    reach = int(0.34 * (mask.shape[0] * mask.shape[1]) ** 0.5 / 2) + 4
    kept = np.zeros_like(mask)
    area = slice(max(0, row - reach), row + reach), slice(max(0, column - reach), column + reach)
    kept[area] = mask[area]
    return kept


def _colour(track, scene):
    """The palette colour of the nearest direction in RGB, given the asked material."""
    seen = np.nanmedian(track.colour, 0)
    best = None
    for name in ATTRIBUTES["colour"]:
        asked = replace(scene, colour=name)
        film = picture.film(asked, [48], (288, 288))
        paint = _middle_of_object(asked, film)
        score = seen @ paint / (np.linalg.norm(seen) * np.linalg.norm(paint) + 1e-6)
        if best is None or score > best[0]:
            best = (score, name)
    return best[1]


def _middle_of_object(scene, film):
    x, y, radius = (float(v[0]) if np.ndim(v) else float(v) for v in world.on_canvas(scene, np.array([48 / FPS])))
    left, top = 144 + 288 * x, 144 + 288 * y
    reach = 0.5 * radius * 288
    box = film[:, 0, int(top - reach):int(top + reach) + 1, int(left - reach):int(left + reach) + 1]
    return np.median(box.reshape(3, -1).numpy(), 1)


def _motion(track, seconds):
    """`(name, time of the first seen impact or None)`."""
    known = ~np.isnan(track.top)
    if known.sum() < 8:
        return "nothing", None
    top, x, when = track.top[known], track.x[known], seconds[known]
    start, rest = np.median(top[:2]), top.max()
    if rest - start < 0.10:
        drift = np.median(x[-4:]) - np.median(x[:4])
        return ("rollsleft" if drift < -0.06 else "rollsright" if drift > 0.06 else "still"), None
    # The first time that it is nearly as low as ever in the opening, then on to the lowest frame there.
    impact = int(np.argmax(top > top[when < _OPENING / FPS].max() - 0.05))
    while impact + 1 < len(top) and top[impact + 1] > top[impact]:
        impact += 1
    # Against the resting level and not the level of that frame: what is fast is smeared over four frames.
    rebound = rest - top[impact:].min()
    return ("bounces" if rebound > REBOUND else "drops"), _meeting(top, when, when[impact])


def _meeting(top, when, about):
    """When the curve of the fall and that of the rebound meet, near `about`: finer than the smear of a fast object."""
    fall = (when > 0.1) & (when < about - 0.04)
    rise = (when > about + 0.04) & (when < about + 0.30)
    if fall.sum() < 4 or rise.sum() < 4:
        return float(about)
    down = np.polyfit(when[fall] ** 2, top[fall], 1)        # it starts at rest, at time 0
    up = np.polyfit(when[rise], top[rise], 2)
    times = np.arange(about - 0.15, about + 0.15, 0.002)
    return float(times[np.argmin(np.abs(np.polyval(down, times**2) - np.polyval(up, times)))])


def first_sound(wave):
    """Seconds at which the sound first reaches a third of the loudest of the opening, or None if it is not audible."""
    loud = np.abs(wave).max(0)[:int(1.6 * SAMPLE_RATE)]
    if loud.max() < 0.08:
        return None
    return float(np.argmax(loud > loud.max() / 3)) / SAMPLE_RATE


def _side(wave, when):
    """Left-to-right balance in dB, just after `when`."""
    first = int(when * SAMPLE_RATE)
    power = (wave[:, first:first + SAMPLE_RATE // 10] ** 2).mean(1) + 1e-9
    return float(10 * np.log10(power[1] / power[0]))


def judge(scene, film, wave, canvas):
    """Findings by name, True or False; only what applies to the scene. `film` (f, h, w, 3) in 0..1, `wave` (2, s)."""
    setting, camera = setting_and_camera(film, canvas)
    frames = np.unique(np.concatenate([np.arange(0, _OPENING), np.arange(_OPENING, len(film), 4)]))
    track = Track(film, setting, camera, canvas, frames)
    found = {"setting": setting == scene.setting, "camera": camera == scene.camera}
    area = 2.0 * scene.radius**2
    found["object"] = bool(np.nanmedian(track.pixels) > LEAST_PIXELS * area)
    motion, seen = _motion(track, frames / FPS)
    found["colour"] = found["object"] and _colour(track, scene) == scene.colour
    found["shape"] = found["object"] and (np.nanmedian(track.fill) > CORNERS) == (scene.shape == "cube")
    found["motion"] = motion == scene.motion
    found["colour and motion"] = found["colour"] and found["motion"]
    if scene.rolls:
        return found
    places = world.PLACE
    nearest = min(places, key=lambda name: abs(places[name] - np.nanmedian(track.x)))
    found["place"] = bool(found["object"] and nearest == scene.place)
    heard = first_sound(wave)
    found["impact audible"] = heard is not None
    found["impact in time"] = heard is not None and seen is not None and abs(heard - seen) <= 1.01 / FPS
    if heard is not None:
        zoom, shift = (float(value[0]) for value in world.camera(scene, np.array([heard])))
        at = zoom * places[scene.place] + shift
        balance = _side(wave, heard)
        found["sound on its side"] = abs(balance) < 4 if abs(at) < 0.05 else np.sign(balance) == np.sign(at)
    else:
        found["sound on its side"] = False
    return found
