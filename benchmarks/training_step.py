"""Time a training step in bfloat16 against float32, and sparse fan beams against Gather.

    python benchmarks/training_step.py [--size 192] [--repeats 9] [-o results.json]

One thread, the shipped weights, one example of each task through the 4-step sampler and back:
medians in turns, their ratio, and the cosine of the two gradients. Images are generated phantoms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ldmpir_edge.models import ksm
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.physics.normal import gram_rays
from ldmpir_edge.physics.problem import Modality
from ldmpir_edge.scans.phantom import head_phantom, rasterise
from ldmpir_edge.training.acquisitions import CT_FINER
from ldmpir_edge.training.dataset import SimulatedScans, TrainingItem, reconstruct
from ldmpir_edge.training.images import ImageStack
from ldmpir_edge.training.losses import image_loss
from ldmpir_edge.training.mixed_precision import Bf16LdmPir
from ldmpir_edge.training.recipe import Recipe, Stage, TrainingTask

WEIGHTS = Path(__file__).resolve().parents[1] / "models" / "ldmpir-2m" / "weights.safetensors"
N_STEPS = 4
TASKS: tuple[TrainingTask, ...] = ("mri-columns", "mri-2d", "ct", "ct-fan", "denoise")


def phantom(size: int, modality: Modality) -> ImageStack:
    ellipses = head_phantom(np.random.default_rng(0), 0.1)
    image = rasterise(ellipses, (size, size), "mr" if modality == "mr" else "hu")
    return ImageStack("phantom", modality, image[None])


def gradient(model: LdmPir, item: TrainingItem) -> torch.Tensor:
    loss = image_loss(reconstruct(model, item, N_STEPS), item["target"], item["x1"], 0.05)
    parts = torch.autograd.grad(
        loss, list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts])


def in_turns(
    ways: dict[str, Callable[[], torch.Tensor]], repeats: int
) -> tuple[dict[str, float], float]:
    """Return the median seconds of each way, and the cosine of what the first two give."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    last: dict[str, torch.Tensor] = {}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            last[name] = way()
            seconds[name].append(time.perf_counter() - started)
    # The first of each warms up.
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    one, two = last.values()
    return medians, float(torch.nn.functional.cosine_similarity(one, two, dim=0))


def by_gather(way: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Do it with the operator that engines have."""
    kept = dict(ksm.TRAINING_OPERATORS)
    ksm.TRAINING_OPERATORS["rays"] = gram_rays
    try:
        return way()
    finally:
        ksm.TRAINING_OPERATORS.update(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    full = load_weights(WEIGHTS).train()
    half = Bf16LdmPir(full.config).train()
    half.load_state_dict(full.state_dict())
    stacks = [phantom(args.size, "mr"), phantom(CT_FINER * args.size, "ct")]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {args.size} x {args.size}")
    table = {}
    for task in TASKS:
        stage = Stage(n_updates=1, learning_rate=1e-3, size=(args.size,))
        recipe = Recipe(seed=1, tasks={task: 1.0}, stages=(stage,))
        item = SimulatedScans(stacks, recipe, (args.size,), 0, 1)[0]
        ways = {
            "float32": lambda item=item: gradient(full, item),
            "bfloat16": lambda item=item: gradient(half, item),
        }
        if task == "ct-fan":
            gathered, _ = in_turns(
                {
                    "gather": lambda item=item: by_gather(lambda: gradient(full, item)),
                    "sparse": ways["float32"],
                },
                max(1, args.repeats // 3),
            )
            table["ct-fan, operator"] = gathered
            ratio = gathered["gather"] / gathered["sparse"]
            print(f"{task:12s} gather {gathered['gather']:.3f} s, sparse products {ratio:.1f} x")
        medians, cosine = in_turns(ways, args.repeats)
        table[task] = {**medians, "cosine": cosine}
        ratio = medians["float32"] / medians["bfloat16"]
        print(
            f"{task:12s} float32 {medians['float32']:.3f} s, bfloat16 {ratio:.2f} x as fast, "
            f"cosine of the gradients {cosine:.4f}",
            flush=True,
        )
    if args.output:
        document = {"torch": torch.__version__, "size": args.size, "results": table}
        args.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
