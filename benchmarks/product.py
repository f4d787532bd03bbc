"""Simulated scans through a bundle as the appliance would take them, for the robustness pages."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import quality

from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Modality
from ldmpir_edge.reconstruct.checks import check_slice
from ldmpir_edge.reconstruct.reconstructor import load
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.report.metrics import score

RESULTS = Path(__file__).resolve().parent / "results"
N_STEPS = 4
METHODS = ("classical", "ours")


@dataclass(frozen=True)
class Outcome:
    """Images on the scan's scale, `(H, W)`, and why the checks would withhold ours, if they do."""

    reference: np.ndarray
    classical: np.ndarray
    ours: np.ndarray
    refused: str | None


class Product:
    """A bundle at its default steps in fp32, on the cores that this process may use."""

    def __init__(self, bundle: str, backend: str) -> None:
        threads = len(os.sched_getaffinity(0))
        self.reconstructor = load(
            bundle, backend=backend, precision="fp32", n_steps=N_STEPS, threads=threads
        )

    def __call__(self, case: quality.Case) -> Outcome:
        """Reconstruct one slice; ours is the network's image even where the checks refuse it."""
        scan, task, reference = case
        prepared = prepare_slice(scan, 0, task)
        engine = self.reconstructor.engine(prepared.problem.family)
        planes = engine.run(engine_arrays(prepared.problem, N_STEPS))["image"][0]
        return Outcome(
            reference,
            prepared.to_scan(prepared.problem.x1),
            prepared.to_scan(planes),
            check_slice(prepared.problem, planes)["fallback"],
        )


def marks(outcomes: list[Outcome], modality: Modality) -> dict[str, Any]:
    """Score what came of the slices of one setting, slice by slice."""
    table: dict[str, Any] = {"refused": sum(one.refused is not None for one in outcomes)}
    for method in METHODS:
        scores = [score(getattr(one, method), one.reference, modality) for one in outcomes]
        table[method] = {
            "psnr_db": [round(s.psnr, 2) for s in scores],
            "ssim": [round(s.ssim, 4) for s in scores],
        }
    return table


def arguments(description: str, n_slices: int) -> argparse.Namespace:
    """Read the command line that the scripts of the robustness pages share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--bundle", default="ldmpir-2m")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--slices", type=int, default=n_slices, help="of each setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="default: results/NAME-VERSION.json")
    return parser.parse_args()


def write(name: str, args: argparse.Namespace, product: Product, content: dict[str, Any]) -> None:
    """Keep what was measured under the name and version of the bundle."""
    model = product.reconstructor.bundle.manifest.model
    document = {
        "bundle": model.id,
        "version": model.version,
        "backend": args.backend,
        "steps": N_STEPS,
        "data": "data/test" if quality.DATA.exists() else "phantom",
        "slices_per_setting": args.slices,
        "seed": args.seed,
        **content,
    }
    path = args.output or RESULTS / f"{name}-{model.version}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(path)
