"""Draws the toy world: any set of 32×32 pixel blocks at any frames, or whole frames, by the same code.

Everything is an analytic function of the position, so a training step draws only the rows that it trains on. Edges are
smoothed over about two pixels and nothing is finer than that, because the video VAE keeps 24 numbers per 16×16×4 patch.
Colours are RGB in 0..1. Called by `latents` and by `world-sheet`.
"""
import numpy as np
import torch

from world import FPS, GROUND, HORIZON, ZOOM_Y, camera, height, on_canvas, place

BLOCK = 32
_CHUNK = 8  # blocks drawn together: their planes then stay in the processor's cache, which is six times faster
COLOURS = {"red": (222, 45, 42), "blue": (42, 92, 224), "green": (40, 170, 72), "yellow": (244, 208, 40),
           "purple": (150, 62, 196), "orange": (246, 132, 34), "white": (242, 242, 242), "pink": (248, 132, 182)}
# sky at the top, sky at the horizon, hills, ground at the horizon, ground in front
SETTINGS = {
    "daylight": ((84, 160, 238), (206, 232, 250), (92, 158, 108), (128, 196, 92), (70, 142, 56)),
    "night": ((8, 12, 36), (44, 54, 106), (20, 27, 52), (36, 58, 62), (18, 32, 38)),
    "sunset": ((92, 62, 132), (255, 166, 96), (104, 58, 78), (140, 92, 72), (74, 46, 48)),
    "studio": ((226, 226, 232), (206, 207, 214), (206, 207, 214), (180, 174, 170), (146, 142, 140)),
}
# x, y, radius, colour, glow
LIGHTS = {"daylight": (0.23, -0.27, 0.055, (255, 246, 196), 0.25), "night": (0.23, -0.27, 0.045, (240, 240, 222), 0.22),
          "sunset": (0.20, 0.00, 0.075, (255, 232, 160), 0.45), "studio": (-0.05, -0.15, 0.0, (255, 255, 255), 0.35)}
SHINE = {"rubber": 0.16, "wood": 0.10, "glass": 0.85, "metal": 0.70}


def blocks(scene, frames, tops, lefts, canvas, empty=False):
    """Draws blocks of one scene.

    # Shapes
    `frames` (n, f) frame numbers; `tops`, `lefts` (n) pixel corners; `canvas` (width, height) in pixels. The result is
    (n, 3, f, 32, 32), f32. `empty` leaves the object out.
    """
    frames, tops, lefts = np.asarray(frames), np.asarray(tops), np.asarray(lefts)
    image = torch.empty(len(frames), 3, frames.shape[1], BLOCK, BLOCK)
    near = np.zeros(len(frames), bool) if empty else touches(scene, frames, tops, lefts, canvas)
    table, where = look(scene)[None], geometry(scene, frames, tops, lefts, canvas)
    for part in (np.flatnonzero(near), np.flatnonzero(~near)):
        for chunk in (part[n:n + _CHUNK] for n in range(0, len(part), _CHUNK)):
            looks = table.expand(len(chunk), -1)
            image[chunk] = torch.stack(draw(looks, *(value[chunk] for value in where), bool(near[chunk[0]])), 1)
    return image


def geometry(scene, frames, tops, lefts, canvas):
    """What `draw` needs besides the look: x (n, f, 1, 32), y (n, f, 32, 1) in the world; edge, lift, at_x (n, f, 1, 1)."""
    width, height_px = canvas
    unit = (width * height_px) ** 0.5
    seconds = np.asarray(frames) / FPS
    zoom, shift = (torch.from_numpy(a).float()[..., None] for a in camera(scene, seconds))
    pixels = torch.arange(BLOCK) + 0.5
    tops, lefts = (torch.as_tensor(np.asarray(corner, np.float32)) for corner in (tops, lefts))
    x = (lefts[:, None] + pixels - width / 2)[:, None, :] / unit
    y = (tops[:, None] + pixels - height_px / 2)[:, None, :] / unit
    x, y = (x - shift) / zoom, (y - ZOOM_Y) / zoom + ZOOM_Y     # (n, f, 32)
    lift, at_x = (torch.from_numpy(a).float()[..., None, None] for a in (height(scene, seconds), place(scene, seconds)))
    return x[..., None, :], y[..., :, None], zoom[..., None] * unit / 2, lift, at_x   # the edge is one over two pixels


def touches(scene, frames, tops, lefts, canvas, margin=0.02):
    """Which blocks (n) the object or its shadow may reach in one of their frames."""
    width, height_px = canvas
    unit = (width * height_px) ** 0.5
    x, y, radius = on_canvas(scene, np.asarray(frames) / FPS)
    zoom, _ = camera(scene, np.asarray(frames) / FPS)
    left, top = ((np.asarray(lefts) - width / 2) / unit)[:, None], ((np.asarray(tops) - height_px / 2) / unit)[:, None]
    size = BLOCK / unit
    across = (left < x + 1.6 * radius + margin) & (left + size > x - 1.6 * radius - margin)
    ground = zoom * (GROUND - ZOOM_Y) + ZOOM_Y
    body = (top < y + radius + margin) & (top + size > y - radius - margin)
    shadow = (top < ground + 0.4 * radius + margin) & (top + size > ground - 0.4 * radius - margin)
    slim = (left < x + radius + margin) & (left + size > x - radius - margin)
    return ((body & slim) | (shadow & across)).any(1)


def look(scene):
    """All that a scene's appearance is made of, as one row of numbers, so that blocks of many scenes are drawn at once."""
    numbers = [channel / 255 for colour in SETTINGS[scene.setting] for channel in colour]
    at_x, at_y, radius, colour, glow = LIGHTS[scene.setting]
    numbers += [at_x, at_y, radius, glow, *(channel / 255 for channel in colour)]
    numbers += [float(scene.setting == "studio"), scene.radius, float(scene.shape == "cube"), float(scene.rolls)]
    numbers += [*_paint(scene), SHINE[scene.material]]
    numbers += [float(scene.material == name) for name in ("wood", "metal", "glass")]
    return torch.tensor(numbers, dtype=torch.float32)


def _paint(scene):
    colour = np.array(COLOURS[scene.colour]) / 255
    if scene.material == "metal":
        return 0.85 * colour + 0.10
    if scene.material == "wood":
        return 0.80 * colour + 0.20 * np.array((120, 80, 45)) / 255
    return colour


def draw(looks, x, y, edge, lift, at_x, near):
    """Red, green and blue, each (n, f, 32, 32) in 0..1. `looks` (n, 33); the others from `geometry`."""
    values = iter(looks[:, :, None, None, None].unbind(1))
    scenery = [[next(values) for _ in range(3)] for _ in range(5)]
    light = [next(values) for _ in range(7)]
    studio, radius, cube, rolls = (next(values) for _ in range(4))
    surface = [next(values) for _ in range(7)]
    image = _background(scenery, light, studio, x, y, edge)
    if near:
        image = _object(image, radius, cube, rolls, surface, x, y, edge, lift, at_x)
    return tuple(channel.clamp(0, 1) for channel in image)


def _mix(image, colour, weight):
    return [old + (new - old) * weight for old, new in zip(image, colour)]


def _background(scenery, light, studio, x, y, edge):
    sky, low, hills, far, front = scenery
    at_x, at_y, radius, glow, *bright = light
    up = ((y - HORIZON) / 0.75 + 1).clamp(0, 1)
    distance = torch.sqrt((x - at_x) ** 2 + (y - at_y) ** 2)
    image = _mix(_mix(sky, low, up * up), bright, glow * torch.exp(-((distance / 0.16) ** 2)))
    walls = 1 + studio * 0.02 * torch.sin(24 * x)
    image = [channel * walls for channel in image]
    image = _mix(image, bright, (1 - studio) * ((radius - distance) * edge + 0.5).clamp(0, 1))
    skyline = HORIZON - 0.045 - 0.022 * torch.sin(8 * x + 1.0) - 0.012 * torch.sin(19 * x)
    image = _mix(image, hills, (1 - studio) * ((y - skyline) * edge + 0.5).clamp(0, 1))
    depth = (y - HORIZON).clamp(min=0)
    stripes = 1 + 0.045 * torch.sin(10 * x / (depth + 0.16))
    ground = [channel * stripes for channel in _mix(far, front, (depth / 0.4).clamp(max=1))]
    return _mix(image, ground, ((y - HORIZON) * edge + 0.5).clamp(0, 1))


def _object(image, radius, cube, rolls, surface, x, y, edge, lift, at_x):
    wide = radius * (1.0 + 0.6 * lift)
    far = torch.sqrt(((x - at_x) / wide) ** 2 + ((y - GROUND) / (0.26 * wide)) ** 2)
    shade = 1 - (1.25 - far).clamp(0, 1) * (0.55 - 0.75 * lift).clamp(min=0.12)
    u, v = (x - at_x) / radius, (y - (GROUND - radius - lift)) / radius
    ball, ball_inside, box, box_inside = *_ball(surface, u, v, rolls, at_x / radius), *_cube(surface, u, v)
    tint = [one + cube * (other - one) for one, other in zip(ball, box)]
    cover = ((ball_inside + cube * (box_inside - ball_inside)) * radius * edge + 0.5).clamp(0, 1)
    cover = cover * (1 - 0.22 * surface[6])     # glass lets the stage through
    return _mix([channel * shade for channel in image], [channel.clamp(0, 1) for channel in tint], cover)


def _ball(surface, u, v, rolls, turn):
    """Colour and signed distance (in radii, positive inside) of a ball."""
    *paint, shine, wood, metal, _ = surface
    across = torch.sqrt(u * u + v * v)
    front = torch.sqrt((1 - across * across).clamp(min=0))
    light = 0.38 + 0.72 * (-0.45 * u - 0.62 * v + 0.64 * front).clamp(0, 1)
    light = light * (1 + wood * 0.10 * torch.sin(9 * v + 1.5 * u))
    light = light * (1 + metal * (0.35 * torch.cos(4.2 * v + 0.6) - 0.25))
    stripe = -u * torch.sin(turn) + v * torch.cos(turn)
    light = light * (1 - rolls * 0.40 * (1.6 - 8 * stripe.abs()).clamp(0, 1))
    spot = shine * torch.exp(-((u + 0.38) ** 2 + (v + 0.42) ** 2) / 0.045)
    return [channel * light + spot for channel in paint], 1 - across


def _cube(surface, u, v):
    """Colour and signed distance of a cube seen from the front. Cubes slide, they do not turn."""
    *paint, shine, wood, metal, _ = surface
    inside = 0.88 - torch.maximum(u.abs(), (v - 0.06).abs())
    light = (0.92 - 0.22 * v - 0.12 * u) * (1 - 0.30 * (1 - 6 * (inside - 0.09).abs()).clamp(0, 1))
    light = light * (1 + wood * 0.12 * torch.sin(11 * v))
    light = light * (1 + metal * (0.28 * torch.cos(2.6 * (u + v) + 0.8) - 0.15))
    spot = 0.7 * shine * torch.exp(-((u + 0.42) ** 2 + (v + 0.40) ** 2) / 0.05)
    return [channel * light + spot for channel in paint], inside


def film(scene, frames, canvas, empty=False):
    """Whole frames, (3, f, height, width), for sheets and for judging; `empty` leaves the object out."""
    width, height_px = canvas
    rows, columns = height_px // BLOCK, width // BLOCK
    tops = np.repeat(np.arange(rows) * BLOCK, columns)
    lefts = np.tile(np.arange(columns) * BLOCK, rows)
    image = blocks(scene, np.tile(np.asarray(frames), (len(tops), 1)), tops, lefts, canvas, empty)
    image = image.view(rows, columns, 3, -1, BLOCK, BLOCK).permute(2, 3, 0, 4, 1, 5)
    return image.reshape(3, -1, height_px, width)
