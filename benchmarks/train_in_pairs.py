"""Train with two workers whose weights are averaged: how the model card's last runs were made.

    python benchmarks/train_in_pairs.py 0 runs/pair --initial weights.safetensors &
    python benchmarks/train_in_pairs.py 1 runs/pair --initial weights.safetensors

Each worker is one process of one thread with examples of its own; every `--every` updates both go
on from the mean of their weights and of their averages (local SGD: Stich, ICLR 2019). Optimisers
keep their own state. They meet in files below OUTPUT. After a stop, empty OUTPUT/meeting and start
both again: they go on from their last checkpoints, which are of the same update.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from quality import DATA

from ldmpir_edge.training.images import load_folder
from ldmpir_edge.training.loop import Trainer
from ldmpir_edge.training.recipe import read_recipe

RECIPE = Path(__file__).resolve().parents[1] / "models" / "ldmpir-2m" / "run-8.toml"
HELD_OUT = ("btp09", "lidc0314")
CHECKPOINT_EVERY = 440
AVERAGED = ("model", "average")
PATIENCE_S = 1800.0
"""Longer than a partner takes to load its images, measure the model and make its updates."""


class PairedTrainer(Trainer):
    """A trainer that takes the mean with its partner every `every` updates."""

    def __init__(self, *args: Any, rank: int, every: int, meeting: Path, **options: Any) -> None:
        super().__init__(*args, **options)
        self.rank, self.every, self.meeting = rank, every, meeting

    def _step(self, *args: Any) -> Any:
        result = super()._step(*args)
        update = self.update + 1
        if update % self.every == 0:
            self._meet(update)
        return result

    def _meet(self, update: int) -> None:
        own = {name: getattr(self, name).state_dict() for name in AVERAGED}
        temporary = self.meeting / f"{self.rank}.tmp"
        torch.save(own, temporary)
        temporary.replace(self.meeting / f"{self.rank}_{update}.pt")
        partner = self.meeting / f"{1 - self.rank}_{update}.pt"
        started = time.monotonic()
        while not partner.exists():
            if time.monotonic() - started > PATIENCE_S:
                sys.exit(
                    f"{partner} has not come in {PATIENCE_S / 60:.0f} minutes; start both again"
                )
            time.sleep(0.2)
        theirs = torch.load(partner, weights_only=True)
        for name in AVERAGED:
            mean = {key: (own[name][key] + theirs[name][key]) / 2 for key in own[name]}
            getattr(self, name).load_state_dict(mean)
        # The partner has read what is older than the last meeting.
        (self.meeting / f"{self.rank}_{update - 2 * self.every}.pt").unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rank", type=int, choices=(0, 1))
    parser.add_argument("output", type=Path)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--initial", type=Path, required=True)
    parser.add_argument("--every", type=int, default=40, help="divides the updates of a checkpoint")
    args = parser.parse_args()
    if CHECKPOINT_EVERY % args.every:
        parser.error(f"{CHECKPOINT_EVERY} updates, a checkpoint, are no multiple of {args.every}")
    torch.set_num_threads(1)
    config, recipe = read_recipe(args.recipe)
    meeting = args.output / "meeting"
    meeting.mkdir(parents=True, exist_ok=True)
    stacks = load_folder(DATA / "mri" / "train", DATA / "ct" / "train")
    held_out = [stack for stack in stacks if stack.name.startswith(HELD_OUT)]
    trainer = PairedTrainer(
        config,
        recipe.model_copy(update={"seed": recipe.seed + args.rank}),
        [stack for stack in stacks if not stack.name.startswith(HELD_OUT)],
        args.output / str(args.rank),
        checkpoint_every=CHECKPOINT_EVERY,
        initial=args.initial,
        # One of the two is enough to measure the mean of both.
        held_out=held_out if args.rank == 0 else (),
        rank=args.rank,
        every=args.every,
        meeting=meeting,
    )
    print(trainer.run(lambda row: print(row["update"], row["task"], row["loss"], flush=True)))


if __name__ == "__main__":
    main()
