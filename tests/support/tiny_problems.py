"""One small problem of every engine family, built the way a scan's is."""

from __future__ import annotations

import numpy as np
import torch
from ellipses import analytic_sinogram
from small_scans import disc

from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.physics.ct_problem import build_ct_problem
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.image_problem import build_inpaint_problem
from ldmpir_edge.physics.mri_problem import build_mri_problem
from ldmpir_edge.physics.normal import TABLES
from ldmpir_edge.physics.problem import Family, Problem

SIZE = 32


def unit_maps(n_coils: int, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Coil maps without any smoothness, with Σ|S|² = 1."""
    maps = rng.standard_normal((n_coils, *shape)) + 1j * rng.standard_normal((n_coils, *shape))
    return (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)


def mri_problem(mask: np.ndarray, csm: np.ndarray, size: int = SIZE) -> Problem:
    x = disc(size).astype(np.complex64)
    kspace = CartesianOp(csm, mask).forward(x)
    return build_mri_problem(kspace, csm, mask, 0.01, hybrid=False)


def tiny_problem(family: Family) -> Problem:
    """A `SIZE` square problem of `family`; always the same."""
    rng = np.random.default_rng(7)
    if family in ("cartesian1d", "separable"):
        mask = (rng.random(SIZE if family == "cartesian1d" else (SIZE, SIZE)) < 0.5) * 1.0
        mask[..., SIZE // 2] = 1
        return mri_problem(mask.astype(np.float32), unit_maps(3, (SIZE, SIZE), rng))
    if family == "pointwise":
        return build_inpaint_problem(disc(SIZE), rng.random((SIZE, SIZE)) < 0.6, "mr", 0.02)
    if family == "toeplitz":
        geometry = RadonGeometry("parallel", np.arange(24) * np.pi / 24, 50, 2.5)
    else:
        geometry = RadonGeometry(
            "fan-equidistant",
            np.arange(24) * 2 * np.pi / 24,
            32,
            8.0,
            source_origin_mm=180.0,
            origin_detector_mm=180.0,
        )
    sinogram = analytic_sinogram(geometry).astype(np.float32)
    return build_ct_problem(
        sinogram, geometry, (SIZE, SIZE), 3.5, mu_water_per_mm=0.02, photons=1e5
    )


def tensors(problem: Problem, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The engine's inputs as a batch of one."""
    given = {k: torch.from_numpy(np.array(v)) for k, v in engine_arrays(problem, 1).items()}
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in given.items()}


def tables(problem: Problem, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: given[name] for name in TABLES[problem.family]}
