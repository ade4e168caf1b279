"""The toybox training, one command at a time: `scripts/train/run COMMAND --work DIR`. See README.md for the order."""
import argparse
import warnings
from pathlib import Path

import torch

warnings.filterwarnings("ignore", category=FutureWarning)


def _transformer(args):
    import training

    training.train(args.work, args.seed, args.steps or 2600, args.batch, args.phase)


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


COMMANDS = {"data": _data, "vae": _vae, "audio-vae": _audio_vae, "transformer": _transformer}


def main():
    parser = argparse.ArgumentParser(prog="scripts/train/run", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--work", default=".train", help="where data and checkpoints lie (default .train)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="where the training ends; each command has its default")
    parser.add_argument("--batch", type=int, default=4, help="samples of one optimiser step")
    parser.add_argument("--phase", default="base", choices=("base", "mixed", "whole"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    Path(args.work).mkdir(parents=True, exist_ok=True)
    COMMANDS[args.command](args)


if __name__ == "__main__":
    main()
