"""Let the data of some tasks count more or less, in trained weights, and show what that does.

    python benchmarks/data_weight.py WEIGHTS mri=0.3 denoise/ct=0.7 -o weights.safetensors

λ, which weighs the network's answer against the data, is (noise level / error)² and a least value,
and the error is learned by what serves the mean error best. Where the data leave open whether
something faint is there, that answer is "less of it": small lesions come back dimmer. A smaller λ
gives back a part. What is changed here is the noise's part.

The layer that states the error is shared by all tasks. Its change is the least-squares one that
moves the logarithm by what is wanted for these tasks, and by nothing for every other, over all
bridge times and noise levels; what came of it is printed. Nothing else of the weights changes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.sampler import STEP_PRESETS, schedule
from ldmpir_edge.models.weights import load_weights, save_weights
from ldmpir_edge.physics.problem import MODALITIES, TASKS, Modality, Task, condition_vector

NOISE_LEVELS = np.geomspace(1e-4, 0.3, 40)
RIDGE = 1e-6


def served() -> list[tuple[Task, Modality]]:
    """Return what the model can be asked for: each task with its modalities."""
    own: dict[Task, Modality] = {"mri": "mr", "ct": "ct"}
    return [(t, m) for t in TASKS for m in MODALITIES if own.get(t, m) == m]


@torch.no_grad()
def embeddings(model: LdmPir, task: Task, modality: Modality) -> torch.Tensor:
    """Return those of all times and noise levels, and a column of 1: `(n, embedding + 1)`."""
    times = sorted({t for n in STEP_PRESETS for t in schedule(n, model.config.t_last)[:-1]})
    level = torch.tensor(NOISE_LEVELS, dtype=torch.float32)
    condition = torch.from_numpy(condition_vector(task, modality)).expand(len(level), -1)
    rows = torch.cat([model.embed(t, level, condition) for t in times])
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1).double()


@torch.no_grad()
def change(
    model: LdmPir, factors: Mapping[tuple[Task, Modality], float]
) -> dict[str, tuple[float, float]]:
    """Multiply (noise level / error)² of tasks and modalities by `factors`, in place.

    Returns the least and the largest factor that came out, by task and modality.
    """
    seen = {pair: embeddings(model, *pair) for pair in served()}
    wanted = {pair: -0.5 * math.log(factors.get(pair, 1.0)) for pair in seen}
    rows = torch.cat(list(seen.values()))
    goals = torch.cat([torch.full((len(e),), wanted[p]).double() for p, e in seen.items()])
    normal = rows.T @ rows + RIDGE * len(rows) * torch.eye(rows.shape[1]).double()
    step = torch.linalg.solve(normal, rows.T @ goals)
    model.log_error.weight += step[None, :-1].float()
    model.log_error.bias += step[-1:].float()
    reached = {" ".join(p): torch.exp(-2 * (e @ step)) for p, e in seen.items()}
    return {name: (float(f.min()), float(f.max())) for name, f in reached.items()}


def parse_factor(text: str) -> dict[tuple[Task, Modality], float]:
    """Read TASK=FACTOR or TASK/MODALITY=FACTOR; without a modality it is for all of the task."""
    name, _, factor = text.partition("=")
    task, _, modality = name.partition("/")
    chosen = [pair for pair in served() if pair[0] == task and modality in ("", pair[1])]
    if not chosen or not float(factor) > 0:
        raise ValueError(text)
    return dict.fromkeys(chosen, float(factor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument(
        "factors",
        type=parse_factor,
        nargs="+",
        metavar="TASK[/MODALITY]=FACTOR",
        help=f"of (noise level / error)²; tasks: {', '.join(TASKS)}",
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    model = load_weights(args.weights)
    factors = {pair: factor for one in args.factors for pair, factor in one.items()}
    for name, (least, most) in change(model, factors).items():
        print(f"{name:20s} (noise level / error)² times {least:.3f} to {most:.3f}")
    save_weights(model, args.output)


if __name__ == "__main__":
    main()
