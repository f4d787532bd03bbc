"""What each part of the model, and sharing it between tasks, is worth: equal training for each.

    python benchmarks/ablations.py parts -o benchmarks/results/ablations-parts.json
    python benchmarks/ablations.py tasks -o benchmarks/results/ablations-tasks.json

Both go on from the shipped weights: `parts` with one part left out or the network used as in
another method, `tasks` with one task alone. Each run, that of the whole model too, gets as much
processor time and as many simulated scans of the training images, all of its tasks; what counts is
the PSNR on the same simulated scans of the test images, in the training's own acquisitions.
`--random` starts from random weights instead; minutes do not suffice then for four steps to
overtake one.
`--only` runs some and keeps the others' results in the file. Pin it to a core (`taskset`): one
thread is what it uses.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from quality import DATA

from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.models.ksm import normal_operator
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.sampler import iterations, schedule
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.training.dataset import SimulatedScans, TrainingItem
from ldmpir_edge.training.images import load_folder
from ldmpir_edge.training.loop import Trainer, decay
from ldmpir_edge.training.losses import psnr
from ldmpir_edge.training.recipe import Recipe, TrainingTask

SIZE = 160
N_TRAINING, N_TEST = 320, 8
"""Simulated scans of all training tasks together, and of the test images for each task."""
N_STEPS = 4
SEED, TEST_SEED = 41, 20_000_021
BATCH = 2
WARMUP = 30
PEAK, RANDOM_PEAK = 4e-4, 1.2e-3
"""Learning rates: from the shipped weights, and from random ones."""
UNKNOWN_NOISE = 0.02
"""The noise level that a network is told which is told nothing."""
WEIGHTS = Path(__file__).parents[1] / "models" / "ldmpir-2m" / "weights.safetensors"


@dataclass(frozen=True)
class Variant:
    """One way to use the network; by default the sampler as it is deployed."""

    n_steps: int = N_STEPS
    from_adjoint: bool = False
    conditioned: bool = True
    """Whether noise level, task and modality are told, to the network and to λ."""
    residual: bool = True
    consistent: bool = True
    walk: bool = True
    """Whether a step keeps a share of the state before it, and knows its time."""
    t_last: float | None = None
    tasks: tuple[TrainingTask, ...] = ()
    """Tasks that it is trained for; none are all."""


PARTS: dict[str, Variant] = {
    "whole": Variant(),
    "times down to 0.03": Variant(t_last=0.03),
    "1 step": Variant(n_steps=1),
    "without the residual (Krylov features)": Variant(residual=False),
    "without noise level, task and modality": Variant(conditioned=False),
    "from the adjoint, not the classical image": Variant(from_adjoint=True),
    "as MoDL": Variant(from_adjoint=True, conditioned=False, residual=False, walk=False),
    "as a one-shot U-Net": Variant(n_steps=1, residual=False, consistent=False),
    "8 steps": Variant(n_steps=8),
}
TASKS: dict[str, Variant] = {
    "all tasks": Variant(),
    "mri-columns alone": Variant(tasks=("mri-columns",)),
    "ct alone": Variant(tasks=("ct",)),
}


def reconstruct(model: LdmPir, item: TrainingItem, variant: Variant) -> torch.Tensor:
    """Return the image `(1, 2, H, W)` that a variant makes of an example."""
    b, family, tables = item["b"], item["family"], item["tables"]
    x1 = b if variant.from_adjoint else item["x1"]
    level, condition = item["noise_level"], item["condition"]
    if not variant.conditioned:
        level, condition = torch.full_like(level, UNKNOWN_NOISE), torch.zeros_like(condition)
    if not variant.consistent:
        nothing = [torch.zeros_like(x1)] * model.config.n_krylov
        seen = torch.cat([x1, x1, *nothing], dim=1)
        return x1 + model.correct(seen, model.embed(1.0, level, condition))[0]
    n_cg = model.config.n_cg
    x, residual = x1, b - normal_operator(family, tables)(x1)
    for k, (t, s) in enumerate(pairwise(schedule(variant.n_steps, model.config.t_last))):
        shown = residual if variant.residual else torch.zeros_like(residual)
        time, n = (t, iterations(k, variant.n_steps, n_cg)) if variant.walk else (1.0, n_cg)
        answer, its = model(x, time, x1, b, level, condition, family, tables, shown, n)
        kept = s / t if variant.walk else 0.0
        x = kept * x + (1 - kept) * answer
        residual = kept * residual + (1 - kept) * its
    return x


class VariantTrainer(Trainer):
    """Trains by what a variant makes of an example."""

    variant: Variant

    def _predict(self, stage, item, draws):  # type: ignore[no-untyped-def]
        return reconstruct(self.model, item, self.variant)


def train(
    variant: Variant,
    recipe: Recipe,
    items: list[TrainingItem],
    minutes: float,
    initial: LdmPir | None,
) -> tuple[LdmPir, int]:
    """Train for so many minutes of processor time; return the average and the updates done."""
    config, peak = (initial.config, PEAK) if initial else (ModelConfig(), RANDOM_PEAK)
    if variant.t_last:
        config = config.model_copy(update={"t_last": variant.t_last})
    order = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        trainer = VariantTrainer(config, recipe, (), Path(folder))
        trainer.variant = variant
        if initial:
            for model in (trainer.model, trainer.average):
                model.load_state_dict(initial.state_dict())
        start, spent = time.process_time(), 0.0
        while spent < 60 * minutes:
            rate = peak * decay(spent / (60 * minutes))
            trainer.set_rate(rate * min(1, (trainer.update + 1) / WARMUP))
            batch = [items[k] for k in order.integers(len(items), size=BATCH)]
            trainer._step(recipe.stages[0], batch)
            trainer.update += 1
            spent = time.process_time() - start
        return trainer.average, trainer.update


def simulate(
    stacks, recipe: Recipe, tasks: dict[TrainingTask, float], seed: int, n: int
) -> list[TrainingItem]:
    """Draw `n` examples of a mix of tasks."""
    alone = recipe.model_copy(update={"seed": seed, "tasks": tasks})
    scans = SimulatedScans(stacks, alone, (SIZE,), 0, n)
    return [scans[k] for k in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("parts", "tasks"))
    parser.add_argument("--minutes", type=float, default=6, help="processor time of each run")
    parser.add_argument("--random", action="store_true", help="start from random weights")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="what to start from")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="variants")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    variants = PARTS if args.what == "parts" else TASKS
    if unknown := set(args.only or ()) - set(variants):
        parser.error(f"no variant {', '.join(sorted(unknown))}; known: {', '.join(variants)}")
    torch.set_num_threads(1)

    stage = {"n_updates": 1, "learning_rate": 1e-3, "warmup": 0, "size": (SIZE,), "n_steps": (4,)}
    recipe = Recipe(seed=SEED, ema_decay=0.99, stages=(stage,))
    kept = load_folder(DATA / "mri" / "train", DATA / "ct" / "train")
    test = [
        stack
        for stack in load_folder(DATA / "mri" / "test", DATA / "ct" / "test")
        if not any(other in stack.name for other in ("head", "thorax"))
    ]
    mix = dict(recipe.tasks)
    scans = {task: simulate(test, recipe, {task: 1.0}, TEST_SEED, N_TEST) for task in mix}
    start = "random" if args.random else hashlib.sha256(args.weights.read_bytes()).hexdigest()
    head = {"minutes": args.minutes, "size": SIZE, "start": start}
    report = json.loads(args.output.read_text()) if args.output.exists() else head | {"results": {}}
    if {key: report.get(key) for key in head} != head:
        parser.error(f"{args.output} holds runs of other minutes or weights: choose a new file")
    report["classical"] = {
        task: [psnr(item["x1"], item["target"]) for item in items] for task, items in scans.items()
    }
    initial = None if args.random else load_weights(args.weights)
    pools: dict[tuple[TrainingTask, ...], list[TrainingItem]] = {}
    for name in args.only or variants:
        variant = variants[name]
        if variant.tasks not in pools:
            chosen = {task: mix[task] for task in variant.tasks or mix}
            pools[variant.tasks] = simulate(kept, recipe, chosen, SEED, N_TRAINING)
        model, n_updates = train(variant, recipe, pools[variant.tasks], args.minutes, initial)
        with torch.no_grad():
            reached = {
                task: [psnr(reconstruct(model, item, variant), item["target"]) for item in items]
                for task, items in scans.items()
            }
        report["results"][name] = {"updates": n_updates, "psnr_db": reached}
        print(name, n_updates, {t: round(fmean(v), 2) for t, v in reached.items()}, flush=True)
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
