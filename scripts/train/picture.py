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


def _rgb(colour):
    return torch.tensor(colour, dtype=torch.float32).div(255).view(3, 1, 1, 1)


def _mix(image, colour, weight):
    return image + (colour - image) * weight


def blocks(scene, frames, tops, lefts, canvas, empty=False):
    """Draws blocks.

    # Shapes
    `frames` (n, f) frame numbers; `tops`, `lefts` (n) pixel corners; `canvas` (width, height) in pixels. The result is
    (n, 3, f, 32, 32), f32. `empty` leaves the object out.
    """
    frames = np.asarray(frames)
    parts = [slice(n, n + _CHUNK) for n in range(0, len(frames), _CHUNK)]
    return torch.cat([_blocks(scene, frames[part], tops[part], lefts[part], canvas, empty) for part in parts])


def _blocks(scene, frames, tops, lefts, canvas, empty):
    width, height_px = canvas
    unit = (width * height_px) ** 0.5
    zoom, shift = (torch.from_numpy(a).float()[..., None] for a in camera(scene, frames / FPS))
    pixels = torch.arange(BLOCK) + 0.5
    x = (torch.as_tensor(lefts)[:, None] + pixels - width / 2)[:, None, :] / unit
    y = (torch.as_tensor(tops)[:, None] + pixels - height_px / 2)[:, None, :] / unit
    x, y = (x - shift) / zoom, (y - ZOOM_Y) / zoom + ZOOM_Y     # (n, f, 32) in the world
    edge = zoom[..., None] * unit / 2                            # one over two pixels, (n, f, 1, 1)
    image = _background(scene, x[..., None, :], y[..., :, None], edge)
    near = torch.from_numpy(touches(scene, frames, tops, lefts, canvas))
    if near.any() and not empty:
        image[near] = _object(scene, frames[near.numpy()], x[near][..., None, :], y[near][..., :, None], edge[near],
                              image[near])
    return image.clamp_(0, 1)


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


def _background(scene, x, y, edge):
    """(n, 3, f, 32, 32) from x (n, f, 1, 32) and y (n, f, 32, 1)."""
    sky, low, hills, far, front = (_rgb(colour) for colour in SETTINGS[scene.setting])
    x, y, edge = x[:, None], y[:, None], edge[:, None]
    up = ((y - HORIZON) / 0.75 + 1).clamp(0, 1)
    image = _mix(sky, low, up * up).expand(-1, -1, -1, -1, x.shape[-1]).contiguous()
    image = _light(scene, image, x, y, edge)
    if scene.setting != "studio":
        skyline = HORIZON - 0.045 - 0.022 * torch.sin(8 * x + 1.0) - 0.012 * torch.sin(19 * x)
        image = _mix(image, hills, ((y - skyline) * edge + 0.5).clamp(0, 1))
    depth = (y - HORIZON).clamp(min=0)
    ground = _mix(far, front, (depth / 0.4).clamp(max=1))
    stripes = 1 + 0.045 * torch.sin(10 * x / (depth + 0.16))
    return _mix(image, ground * stripes, ((y - HORIZON) * edge + 0.5).clamp(0, 1))


def _light(scene, image, x, y, edge):
    at_x, at_y, radius, colour, glow = LIGHTS[scene.setting]
    distance = torch.sqrt((x - at_x) ** 2 + (y - at_y) ** 2)
    image = _mix(image, _rgb(colour), glow * torch.exp(-((distance / 0.16) ** 2)))
    if scene.setting == "studio":
        return image * (1 + 0.02 * torch.sin(24 * x))
    return _mix(image, _rgb(colour), ((radius - distance) * edge + 0.5).clamp(0, 1))


def _object(scene, frames, x, y, edge, image):
    seconds = frames / FPS
    lift = torch.from_numpy(height(scene, seconds)).float()[:, None, :, None, None]
    at_x = torch.from_numpy(place(scene, seconds)).float()[:, None, :, None, None]
    x, y, edge, radius = x[:, None], y[:, None], edge[:, None], scene.radius
    wide = radius * (1.0 + 0.6 * lift)
    far = torch.sqrt(((x - at_x) / wide) ** 2 + ((y - GROUND) / (0.26 * wide)) ** 2)
    image = image * (1 - (1.25 - far).clamp(0, 1) * (0.55 - 0.75 * lift).clamp(min=0.12))
    u, v = (x - at_x) / radius, (y - (GROUND - radius - lift)) / radius
    turn = at_x / radius if scene.rolls else None
    tint, cover = (_ball if scene.shape == "ball" else _cube)(scene, u, v, turn)
    cover = (cover * radius * edge + 0.5).clamp(0, 1)
    if scene.material == "glass":
        cover = cover * 0.78
    return _mix(image, tint.clamp(0, 1), cover)


def _paint(scene):
    colour = _rgb(COLOURS[scene.colour])
    if scene.material == "metal":
        return 0.85 * colour + 0.10
    if scene.material == "wood":
        return 0.80 * colour + 0.20 * _rgb((120, 80, 45))
    return colour


def _ball(scene, u, v, turn):
    """Colour and signed distance (in radii, positive inside) of a ball."""
    across = torch.sqrt(u * u + v * v)
    front = torch.sqrt((1 - across * across).clamp(min=0))
    light = (-0.45 * u - 0.62 * v + 0.64 * front).clamp(0, 1)
    tint = _paint(scene) * (0.38 + 0.72 * light)
    if scene.material == "wood":
        tint = tint * (1 + 0.10 * torch.sin(9 * v + 1.5 * u))
    if scene.material == "metal":
        tint = tint * (0.75 + 0.35 * torch.cos(4.2 * v + 0.6))
    if turn is not None:
        stripe = -u * torch.sin(turn) + v * torch.cos(turn)
        tint = tint * (1 - 0.40 * (1.6 - 8 * stripe.abs()).clamp(0, 1))
    spot = torch.exp(-((u + 0.38) ** 2 + (v + 0.42) ** 2) / 0.045)
    return tint + SHINE[scene.material] * spot, 1 - across


def _cube(scene, u, v, turn):
    """Colour and signed distance of a cube seen from the front. Cubes slide, they do not turn."""
    inside = 0.88 - torch.maximum(u.abs(), (v - 0.06).abs())
    tint = _paint(scene) * (0.92 - 0.22 * v - 0.12 * u)
    tint = tint * (1 - 0.30 * (1 - 6 * (inside - 0.09).abs()).clamp(0, 1))
    if scene.material == "wood":
        tint = tint * (1 + 0.12 * torch.sin(11 * v))
    if scene.material == "metal":
        tint = tint * (0.85 + 0.28 * torch.cos(2.6 * (u + v) + 0.8))
    spot = torch.exp(-((u + 0.42) ** 2 + (v + 0.40) ** 2) / 0.05)
    return tint + 0.7 * SHINE[scene.material] * spot, inside


def film(scene, frames, canvas, empty=False):
    """Whole frames, (3, f, height, width), for sheets and for judging; `empty` leaves the object out."""
    width, height_px = canvas
    rows, columns = height_px // BLOCK, width // BLOCK
    tops = np.repeat(np.arange(rows) * BLOCK, columns)
    lefts = np.tile(np.arange(columns) * BLOCK, rows)
    image = blocks(scene, np.tile(np.asarray(frames), (len(tops), 1)), tops, lefts, canvas, empty)
    image = image.view(rows, columns, 3, -1, BLOCK, BLOCK).permute(2, 3, 0, 4, 1, 5)
    return image.reshape(3, -1, height_px, width)
