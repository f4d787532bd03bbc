"""Engine inputs of other sizes than the graphs were traced with, as a batch of two."""

from __future__ import annotations

import numpy as np
from small_scans import disc, fft2c, gaussian_maps

from ldmpir_edge.physics.ct_problem import build_ct_problem
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.image_problem import build_inpaint_problem
from ldmpir_edge.physics.mri_problem import build_mri_problem
from ldmpir_edge.physics.normal import BATCHED_TABLES
from ldmpir_edge.physics.problem import Family, Problem

Arrays = dict[str, np.ndarray]


def other_problem(family: Family) -> Problem:
    """A problem whose every axis differs from `tiny_problem`'s, and height from width."""
    rng = np.random.default_rng(8)
    if family in ("cartesian1d", "separable"):
        shape = (48, 64)
        maps = gaussian_maps(shape, 5).astype(np.complex64)
        mask = rng.random(shape[1] if family == "cartesian1d" else shape) < 0.4
        mask[..., 30:34] = True
        image = np.pad(disc(48), ((0, 0), (8, 8)))
        kspace = (fft2c(maps * image) * mask).astype(np.complex64)
        return build_mri_problem(kspace, maps, mask.astype(np.float32), 0.02, hybrid=False)
    if family == "pointwise":
        image = np.pad(disc(48), ((0, 0), (8, 8)))
        return build_inpaint_problem(image, rng.random(image.shape) < 0.5, "mr", 0.05)
    if family == "toeplitz":
        geometry = RadonGeometry("parallel", np.arange(17) * np.pi / 17, 70, 2.0)
        shape = (48, 64)
    else:
        geometry = RadonGeometry(
            "fan-equidistant",
            np.arange(20) * 2 * np.pi / 20,
            40,
            8.0,
            source_origin_mm=180.0,
            origin_detector_mm=180.0,
        )
        shape = (48, 48)
    sinogram = rng.random((geometry.n_views, geometry.n_detectors)).astype(np.float32)
    return build_ct_problem(sinogram, geometry, shape, 2.0, mu_water_per_mm=0.02, photons=1e5)


def batch_of_two(problem: Problem, n_steps: int) -> Arrays:
    """The problem, and the same with another noise level, start and noise."""
    draws = np.random.default_rng(9)
    first = engine_arrays(problem, n_steps)
    second = dict(first)
    second["noise_level"] = 2 * first["noise_level"]
    second["x1"] = (0.8 * first["x1"]).astype(np.float32)
    if n_steps > 1:
        second["noise"] = draws.standard_normal(first["noise"].shape).astype(np.float32)
    batched = {"b", "x1", "noise_level", "condition", "noise", *BATCHED_TABLES}
    return {
        name: np.ascontiguousarray(np.concatenate([array, second[name]]))
        if name in batched
        else np.ascontiguousarray(array)
        for name, array in first.items()
    }
