"""The toybox training, one command at a time: `scripts/train/run COMMAND --work DIR`. See README.md for the order."""
import argparse
import warnings
from pathlib import Path

import torch

warnings.filterwarnings("ignore", category=FutureWarning)

MODEL = Path(__file__).resolve().parents[2] / "worker" / "models" / "toybox"


def _canvas(text):
    width, height = text.split("x")
    return int(width), int(height)


def _transformer(args):
    import training

    training.train(args.work, args.seed, args.steps or 1700, args.batch)


def _samples(args):
    import samples

    if args.part == 0:
        samples.make_sounds(args.work)
    samples.make(args.work, args.seed, args.count, args.part, args.parts)


def _data(args):
    import latents

    video, _ = latents.fit_video(args.seed)
    audio, _ = latents.fit_audio(args.seed)
    latents.save(Path(args.work) / "bases.pt", video, audio)


def _vae(args):
    import video_vae

    video_vae.train(args.work, args.seed, args.steps or 1500)


def _audio_vae(args):
    import audio_vae

    audio_vae.train(args.work, args.seed, args.steps or 1500)


def _export(args):
    import folder

    print(f"step {folder.export(args.work, args.model)}")


def _world_sheet(args):
    import numpy as np

    import picture
    import sampling
    import world

    rng, films = np.random.default_rng(args.seed), []
    for scene, silent in [(world.DEFAULT, set())] + [world.sample(rng) for _ in range(5)]:
        print(world.caption(scene, silent, rng))
        films.append(picture.film(scene, range(0, 240, 30), args.canvas).permute(1, 2, 3, 0).numpy())
    _save_sheet(Path(args.work) / "world.png", sampling.sheet(films))


def _save_sheet(path, pixels):
    from PIL import Image

    Image.fromarray((pixels * 255).round().astype("uint8")).save(path)
    print(path)


def _sample(args):
    import numpy as np

    import sampling
    from folder import Model
    from layout import Clip

    model, clip = Model(args.model), Clip(*args.canvas, args.seconds)
    (film, wave), seconds = sampling.timed(model.render, args.prompt, clip, args.seed)
    picked = film[np.linspace(0, len(film) - 1, 16).astype(int)]
    _save_sheet(Path(args.work) / "sample.png", sampling.sheet([picked[:8], picked[8:]]))
    _save_wave(Path(args.work) / "sample.wav", wave)
    print(f"{seconds:.1f} s, loudest {abs(wave).max():.2f}")


def _save_wave(path, wave):
    import wave as container

    with container.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(32_000)
        file.writeframes((wave.T * 32767).astype("<i2").tobytes())
    print(path)


def _evaluate(args):
    import evaluate

    evaluate.evaluate(args.model, args.seed, args.count, args.canvas, args.seconds)


COMMANDS = {"world-sheet": _world_sheet, "data": _data, "samples": _samples, "vae": _vae, "audio-vae": _audio_vae,
            "transformer": _transformer, "export": _export, "sample": _sample, "evaluate": _evaluate}


def main():
    parser = argparse.ArgumentParser(prog="scripts/train/run", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--work", default=".train", help="where data and checkpoints lie (default .train)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="where the training ends; each command has its default")
    parser.add_argument("--batch", type=int, default=64, help="captions of one optimiser step")
    parser.add_argument("--part", type=int, default=0, help="of `samples`: which of --parts this process makes")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--model", default=str(MODEL), help="the model folder that is written, or read")
    parser.add_argument("--canvas", type=_canvas, default=(288, 512), help="WIDTHxHEIGHT of a sample or of the evaluation")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--count", type=int, default=100, help="held-out prompts of the evaluation, or training samples")
    parser.add_argument("--prompt", default="a large red rubber ball bounces on grass in daylight")
    args = parser.parse_args()
    torch.set_num_threads(1)
    Path(args.work).mkdir(parents=True, exist_ok=True)
    COMMANDS[args.command](args)


if __name__ == "__main__":
    main()
