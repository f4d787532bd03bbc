"""What the convolution costs in place of the exact projector pair, end to end.

    python benchmarks/toeplitz.py [--slices 2] [-o results.json]

Parallel-beam CT of held-out patients, simulated on a finer grid: the same sampler in PyTorch, once
with the `toeplitz` normal operator that engines run, once with Joseph's exact pair in its place
(b then comes from the exact adjoint, too). PSNR of both against the truth.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from unittest import mock

import numpy as np
import quality
import torch

from ldmpir_edge.models import ksm
from ldmpir_edge.models.sampler import sample
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.physics import ct_problem
from ldmpir_edge.physics.fbp import convolve_detectors
from ldmpir_edge.physics.padding import to_planes
from ldmpir_edge.physics.power_iteration import largest_eigenvalue
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.report.metrics import psnr
from ldmpir_edge.training.acquisitions import Example
from ldmpir_edge.training.dataset import to_tensors

WEIGHTS = Path(__file__).resolve().parents[1] / "models" / "ldmpir-2m" / "weights.safetensors"
N_STEPS = 4
N_POWER_ITERATIONS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--views", type=int, nargs="+", default=[60, 120, 360])
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    model = load_weights(WEIGHTS)
    results = {}
    for views in args.views:
        marks = []
        for k, image in enumerate(quality.images("ct", args.slices)):
            scan, task, reference = quality.ct(views, 1e6)(image, "ct", np.random.default_rng(k))
            prepared = prepare_slice(scan, 0, task)
            made = prepared.problem
            item = to_tensors(Example(made, np.zeros_like(made.b)))
            fast = psnr(prepared.to_scan(walk(model, item)), reference, "ct")
            gram, b = exact_pair(scan)
            with (
                mock.patch.dict(ksm.SOLVER_OPERATORS, {"toeplitz": gram}),
                mock.patch.dict(ksm.NORMAL_OPERATORS, {"toeplitz": gram}),
            ):
                image_exact = walk(model, item | {"b": torch.from_numpy(b)[None]})
            marks.append((fast, psnr(prepared.to_scan(image_exact), reference, "ct")))
        toeplitz, exact = (float(np.mean(column)) for column in zip(*marks, strict=True))
        results[views] = {"toeplitz_db": toeplitz, "exact_db": exact}
        print(
            f"{views:4d} views: convolution {toeplitz:.3f} dB, exact pair {exact:.3f} dB, "
            f"difference {toeplitz - exact:+.3f} dB",
            flush=True,
        )
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n")


@torch.no_grad()
def walk(model, item) -> np.ndarray:
    """Return the sampler's image planes, `(2, H, W)`."""
    names = ("x1", "b", "noise_level", "condition", "family", "tables")
    return sample(model, *(item[name] for name in names), N_STEPS)[0].numpy()


def exact_pair(scan):
    """Return x → Aᵀ r F r A x / λ by the exact pair, and b of the scan's sinogram."""
    parts = ct_problem._prepare(scan.geometry, scan.recon_matrix, scan.pixel_spacing_mm)
    op, scale, taps = parts.op, parts.row_scale, parts.taps

    def apply(image: np.ndarray) -> np.ndarray:
        filtered = convolve_detectors(scale * op.forward(image.astype(np.float32)), taps)
        return op.adjoint(scale * filtered)

    norm = largest_eigenvalue(
        lambda x: apply(x).astype(np.float64), op.domain_shape, N_POWER_ITERATIONS
    )

    def gram(x, tables):
        real = apply(x[0, 0].numpy()) / norm
        return torch.from_numpy(np.stack([real, np.zeros_like(real)])[None].astype(np.float32))

    attenuation = scan.sinogram(0) / np.float32(2 * scan.mu_water_per_mm)
    b = op.adjoint(scale * convolve_detectors(scale * attenuation, taps)) / np.float32(norm)
    return gram, to_planes(b)


if __name__ == "__main__":
    main()
