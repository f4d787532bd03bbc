"""Train each candidate architecture for the same minutes, and plot quality against latency.

    python benchmarks/architecture.py IMAGES... --minutes 10 [--only NAME...] [-o results.json]
    python benchmarks/architecture.py --latency --plot docs/images/architecture.png -o results.json

A trial spends a third of its minutes on single steps and the rest on the unrolled sampler, at a
constant learning rate, on all volumes but those held out. What counts is the gain in PSNR over
the classical image on the same held-out examples, in 4 steps. Train with as many threads as
`OMP_NUM_THREADS` says; time the engines (`--latency`) when the machine is idle.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path

from processes import restart_clean

CANDIDATES: dict[str, dict] = {
    "wide, 4 CG, 2 Krylov": {"widths": (48, 80, 120, 160), "n_cg": 4, "n_krylov": 2},
    "wide, 3 CG, 1 Krylov": {"widths": (48, 80, 120, 160), "n_cg": 3, "n_krylov": 1},
    "deep, 4 CG, 2 Krylov": {"widths": (32, 64, 120, 176), "n_cg": 4, "n_krylov": 2},
    "deep, 3 CG, 1 Krylov": {"widths": (32, 64, 120, 176), "n_cg": 3, "n_krylov": 1},
    "deep, 2 CG, 1 Krylov": {"widths": (32, 64, 120, 176), "n_cg": 2, "n_krylov": 1},
    "deepest, 3 CG, 1 Krylov": {"widths": (32, 48, 104, 192), "n_cg": 3, "n_krylov": 1},
}
HELD_OUT = ("btp09", "colin27-s", "lidc0314", "nysbu-A048383")
SINGLE_STEP_SHARE = 1 / 3
N_EXAMPLES = 40
N_STEPS = 4


def train(config, recipe, stacks, minutes: float, seed: int):
    """Train for `minutes`; return the averaged model and the updates done."""
    import tempfile

    from torch.utils.data import DataLoader

    from ldmpir_edge.training.dataset import SimulatedScans
    from ldmpir_edge.training.loop import Trainer

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, recipe, stacks, Path(folder))
        updates = []
        for number, share in enumerate((SINGLE_STEP_SHARE, 1 - SINGLE_STEP_SHARE)):
            stage = recipe.stages[number]
            data = SimulatedScans(stacks, recipe, stage.size, seed + number * 10**6, 10**6)
            loader = iter(DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4))
            end, count = time.monotonic() + 60 * minutes * share, 0
            while time.monotonic() < end:
                trainer.set_rate(stage.learning_rate * min(1, (count + 1) / stage.warmup))
                trainer._step(stage, [next(loader)])
                trainer.update += 1
                count += 1
            updates.append(count)
        return trainer.average, updates


def gains(model, recipe, stacks) -> dict[str, float]:
    """Mean gain in dB over x1 on the held-out examples, by task and over all of them."""
    import torch

    from ldmpir_edge.training.dataset import SimulatedScans, reconstruct

    data = SimulatedScans(stacks, recipe, (256,), 9 * 10**7, N_EXAMPLES)
    by_task: dict[str, list[float]] = {}
    for i in range(N_EXAMPLES):
        item = data[i]
        with torch.no_grad():
            image = reconstruct(model, item, N_STEPS)
        before, after = (
            float(((x - item["target"]) ** 2).mean()) + 1e-12 for x in (item["x1"], image)
        )
        by_task.setdefault(item["task"], []).append(10 * math.log10(before / after))
    means = {task: statistics.mean(values) for task, values in by_task.items()}
    return {**means, "all": statistics.mean(v for values in by_task.values() for v in values)}


def latency(config) -> float:
    """Median seconds of the 4-step engine in OpenVINO: 256 x 256, 8 coils, R = 4."""
    import tempfile

    import onnx
    from engines import median_seconds, runner
    from problems import mri_problem

    from ldmpir_edge.export.trace import trace
    from ldmpir_edge.models.ldmpir import LdmPir
    from ldmpir_edge.physics.engine_input import engine_arrays

    inputs = engine_arrays(mri_problem(256), N_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        onnx.save(trace(LdmPir(config).eval(), mri_problem(64), N_STEPS), path)
        return median_seconds(runner("openvino", path, inputs, os.cpu_count()), 20)


def plot(results: dict[str, dict], path: Path) -> None:
    """Draw gain against latency, one point a candidate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for name, row in results.items():
        if "gain_db" in row and "latency_s" in row:
            x, y = 1000 * row["latency_s"], row["gain_db"]["all"]
            axes.plot(x, y, "o", color="C0")
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, 4), fontsize=8)
    axes.set(
        xlabel="latency of 4 steps, 256 × 256 × 8 coils, OpenVINO (ms)",
        ylabel="gain over the classical image (dB)",
    )
    axes.margins(x=0.25, y=0.2)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path, help="folders of training images")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--latency", action="store_true", help="time the engines")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    restart_clean()

    from ldmpir_edge.models.config import ModelConfig
    from ldmpir_edge.models.ldmpir import LdmPir, n_parameters

    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    for name in args.only:
        config = ModelConfig(**CANDIDATES[name])
        row = results.setdefault(name, {"parameters": n_parameters(LdmPir(config))})
        if args.images:
            from ldmpir_edge.training.images import load_folder
            from ldmpir_edge.training.recipe import Recipe

            stacks = load_folder(*args.images)
            held = [s for s in stacks if any(part in s.name for part in HELD_OUT)]
            kept = [s for s in stacks if not any(part in s.name for part in HELD_OUT)]
            recipe = Recipe(
                seed=5,
                ema_decay=0.99,
                stages=(
                    {"n_updates": 1, "learning_rate": 6e-4, "warmup": 50, "size": (192,)},
                    {
                        "n_updates": 1,
                        "learning_rate": 3e-4,
                        "warmup": 20,
                        "size": (192,),
                        "n_steps": (N_STEPS,),
                    },
                ),
            )
            model, updates = train(config, recipe, kept, args.minutes, 0)
            row["updates"], row["gain_db"] = updates, gains(model, recipe, held)
            row["minutes"] = args.minutes
        if args.latency:
            row["latency_s"] = latency(config)
        print(name, json.dumps(row), flush=True)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(results, indent=1) + "\n")
    if args.plot:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
