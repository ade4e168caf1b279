"""Renders held-out prompts with a model folder and judges them by rules; prints a table for the model card.

The prompts are combinations of attributes that no training sample had, said in varied English. Called by the command
`evaluate`.
"""
import collections
import time

import numpy as np

import judge
import world
from folder import Model
from layout import Clip

_ORDER = ("setting", "camera", "object", "colour", "shape", "place", "motion", "colour and motion", "impact audible",
          "impact in time", "sound on its side")


def prompts(seed, count):
    """`count` pairs of a held-out scene and its caption. Every attribute is said."""
    rng = np.random.default_rng((seed, 4242))
    while count:
        scene, silent = world.sample(rng, unsaid=0.0)
        if world.held_out(scene):
            yield scene, world.caption(scene, silent, rng)
            count -= 1


def evaluate(folder, seed, count, canvas, seconds):
    model, clip = Model(folder), Clip(*canvas, seconds)
    findings, began = collections.defaultdict(list), time.time()
    for number, (scene, prompt) in enumerate(prompts(seed, count)):
        film, wave = model.render(prompt, clip, seed=number)
        found = judge.judge(scene, film, wave, canvas)
        for name, value in found.items():
            findings[name].append(bool(value))
        wrong = [name for name, value in found.items() if not value]
        print(f"{number + 1}/{count} {prompt} | wrong: {', '.join(wrong) or 'nothing'}", flush=True)
    print(f"\n{count} held-out prompts, {canvas[0]}x{canvas[1]}, {seconds} s, {model.points - 1} forwards, "
          f"{(time.time() - began) / count:.1f} s a clip with its judging, one thread\n")
    print("| finding | right | of |\n| --- | --- | --- |")
    for name in _ORDER:
        if findings[name]:
            print(f"| {name} | {100 * np.mean(findings[name]):.0f} % | {len(findings[name])} |")
