"""The toy world: what a scene is, how it moves, how it is told. Pure functions of the scene and of time.

One object, one setting, one camera. Coordinates are centred and in units of the square root of the canvas area (x to
the right, y down), the same units as the H3 rotary positions, so one scene looks alike on every canvas. Time starts at
the first frame. Nothing is random once the scene is chosen: a caption that says everything has exactly one film.
Draws and sounds nothing; `picture` and `sound` do.
"""
from dataclasses import dataclass, replace

import numpy as np

from words import ATTRIBUTES

FPS, SAMPLE_RATE = 24, 32_000
HORIZON, GROUND = 0.10, 0.27          # y of the horizon, and of the spot where the object touches the ground
RADIUS = {"large": 0.125, "small": 0.085}
PLACE = {"center": 0.0, "atleft": -0.19, "atright": 0.19}
GRAVITY = 0.8 / 0.36                  # a fall over BOUNCE_HEIGHT takes 0.6 s
BOUNCE_HEIGHT, DROP_HEIGHT = 0.40, 0.62
REST_SPEED = 0.06                     # slower impacts end the motion
RESTITUTION = {"rubber": 0.94, "glass": 0.80, "metal": 0.70, "wood": 0.60}
DROP_RESTITUTION = 0.30
ROLL_FROM, ROLL_SECONDS = 0.24, 8.0
PAN_SPEED, PAN_START, ZOOM_SPEED, ZOOM_Y = 0.02, -0.10, 0.04, 0.10


@dataclass(frozen=True)
class Scene:
    """One value for each attribute of `words.ATTRIBUTES`."""
    size: str
    colour: str
    material: str
    shape: str
    motion: str
    place: str
    setting: str
    camera: str

    @property
    def radius(self):
        return RADIUS[self.size]

    @property
    def rolls(self):
        return self.motion.startswith("rolls")


DEFAULT = Scene(**{name: values[0] for name, values in ATTRIBUTES.items()})
_ODDS = {"motion": (0.4, 0.2, 0.2, 0.2), "camera": (0.4, 0.2, 0.2, 0.2), "place": (0.5, 0.25, 0.25)}
NEAR_DEFAULT = 0.35
_UNSAID = 0.12  # share of attributes that a caption leaves to the default


def held_out(scene):
    """Whether this combination is kept for the evaluation (one in eight); never the default scene."""
    primes = (1, 3, 5, 7, 11, 13, 17, 19)
    index = [values.index(getattr(scene, name)) for name, values in ATTRIBUTES.items()]
    return sum(a * b for a, b in zip(primes, index)) % 8 == 3


def sample(rng, unsaid=_UNSAID):
    """A random scene, and the names of the attributes that its caption leaves out."""
    values, silent = {}, set()
    for name, words in ATTRIBUTES.items():
        if rng.random() < unsaid:
            values[name] = words[0]
            silent.add(name)
        else:
            values[name] = str(rng.choice(words, p=_ODDS.get(name)))
    if values["motion"].startswith("rolls"):
        values["place"] = "center"
        silent.add("place")
    return Scene(**values), silent


def training_scene(rng):
    """A scene that is not held out, with its silent attributes.

    One in 25 says nothing at all. Of the rest, a third differ from the default scene in at most three attributes: what most
    people ask first is near it, and a small training does better where it has seen more.
    """
    if rng.random() < 0.04:
        return DEFAULT, set(ATTRIBUTES)
    while True:
        scene, silent = sample(rng)
        if rng.random() < NEAR_DEFAULT:
            kept = rng.permutation(list(ATTRIBUTES))[int(rng.integers(0, 4)):]
            scene = replace(scene, **{str(name): getattr(DEFAULT, name) for name in kept})
            silent = silent - {"place"} | ({"place"} if scene.rolls else set())
        if not held_out(scene):
            return scene, silent


_PHRASES = {
    "size": {"large": ("large", "large", "big", "huge"), "small": ("small", "small", "tiny", "little")},
    "material": {"wood": ("wood", "wooden"), "metal": ("metal", "steel"), "glass": ("glass",), "rubber": ("rubber",)},
    "shape": {"ball": ("ball", "ball", "sphere"), "cube": ("cube", "cube", "box")},
    "motion": {
        "bounces": ("bounces", "bouncing", "is bouncing"), "drops": ("drops", "falls", "is dropped"),
        "rollsleft": ("rolls left", "rolls to the left", "rolling from right to left"),
        "rollsright": ("rolls right", "rolls to the right", "rolling from left to right"),
    },
    "place": {"center": ("in the middle", "in the center"), "atleft": ("on the left", "at the left side"),
              "atright": ("on the right", "at the right side")},
    "setting": {"daylight": ("on grass in daylight", "on a sunny day", "in daylight"),
                "night": ("at night", "on grass at night", "under the moon"),
                "sunset": ("at sunset", "at dusk"), "studio": ("in a studio", "in the studio")},
    "camera": {"static": ("static camera", "the camera is still"),
               "panleft": ("camera pans left", "the camera slowly pans to the left"),
               "panright": ("camera pans right", "the camera slowly pans to the right"),
               "zoomin": ("camera zooms in", "zooming in slowly")},
}


def caption(scene, silent, rng):
    """English for the scene: order, synonyms and punctuation vary; `silent` attributes are left out."""
    def phrase(name):
        value = getattr(scene, name)
        return "" if name in silent else str(rng.choice(_PHRASES.get(name, {}).get(value, (value,))))

    thing = [phrase(name) for name in ("size", "colour", "material", "shape")]
    if rng.random() < 0.15:
        rng.shuffle(thing)
    subject = " ".join([str(rng.choice(("a", "the", "one"))), *thing, phrase("motion"), phrase("place")])
    parts = [subject, phrase("setting"), phrase("camera")]
    order = rng.choice((0, 0, 0, 1, 2, 3))
    parts = [parts[n] for n in ((0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1))[order]]
    joint = str(rng.choice((", ", " ", ". ")))
    return joint.join(" ".join(part.split()) for part in parts if part.strip())


def falls(scene):
    """The free flights of the object: arrays `start`, `speed` (upwards at the start) and `impacts` (time, speed).

    The first flight starts at rest at its highest point. After the last flight the object lies still.
    """
    if scene.rolls:
        return np.zeros(0), np.zeros(0), []
    drop = scene.motion == "drops"
    height = DROP_HEIGHT if drop else BOUNCE_HEIGHT
    back = DROP_RESTITUTION if drop else RESTITUTION[scene.material]
    speed = (2 * GRAVITY * height) ** 0.5
    start, speeds, impacts = [-speed / GRAVITY], [speed], []
    while start[-1] < 14.0:
        hit = start[-1] + 2 * speeds[-1] / GRAVITY
        impacts.append((hit, speeds[-1]))
        if speeds[-1] * back < REST_SPEED:
            break
        start.append(hit)
        speeds.append(speeds[-1] * back)
    return np.array(start), np.array(speeds), impacts


def height(scene, seconds):
    """Height of the object's lowest point above the ground, for an array of times."""
    start, speeds, _ = falls(scene)
    if len(start) == 0:
        return np.zeros_like(seconds)
    flight = np.searchsorted(start, seconds, side="right") - 1
    since = seconds - start[flight]
    return np.maximum(speeds[flight] * since - 0.5 * GRAVITY * since**2, 0.0)


def place(scene, seconds):
    """x of the object's centre in the world, for an array of times."""
    if not scene.rolls:
        return np.full_like(seconds, PLACE[scene.place])
    left = 1 - np.clip(seconds / ROLL_SECONDS, 0, 1)
    x = ROLL_FROM * (2 * left**2 - 1)
    return x if scene.motion == "rollsleft" else -x


def camera(scene, seconds):
    """`(zoom, shift)`: canvas x = zoom · world x + shift, canvas y = zoom · (world y − ZOOM_Y) + ZOOM_Y."""
    zoom, shift = np.ones_like(seconds), np.zeros_like(seconds)
    if scene.camera == "zoomin":
        zoom = 1 + ZOOM_SPEED * seconds
    elif scene.camera == "panleft":   # the camera turns left, so things move right
        shift = PAN_START + PAN_SPEED * seconds
    elif scene.camera == "panright":
        shift = -PAN_START - PAN_SPEED * seconds
    return zoom, shift


def on_canvas(scene, seconds):
    """Centre `(x, y)` and radius of the object on the canvas, for an array of times."""
    zoom, shift = camera(scene, seconds)
    x = zoom * place(scene, seconds) + shift
    y = zoom * (GROUND - scene.radius - height(scene, seconds) - ZOOM_Y) + ZOOM_Y
    return x, y, zoom * scene.radius
