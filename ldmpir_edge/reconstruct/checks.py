"""The checks that every reconstructed slice carries, and when they refuse the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.normal import NORMAL_OPERATORS, batch_of_one
from ldmpir_edge.physics.problem import Problem

MAX_ENGINE_VALUE = 10.0
"""A scaled image is about 1 at its bright end; ten times that is no tissue."""

RESIDUAL_MARGIN = 0.1
RESIDUAL_RATIO = 3.0
"""A residual may be this many times that of the classical image and of the noise together."""


def check_slice(problem: Problem, image: NDArray[np.float32] | None) -> dict[str, Any]:
    """Measure how well an engine image agrees with its measurement.

    Parameters
    ----------
    problem
        The slice.
    image
        `(2, H, W)` engine planes, or None when the engine failed.

    Returns
    -------
        JSON values: `finite`; `max_value` in engine units; `residual`, ‖b − AᴴA x‖ / ‖b‖;
        `residual_classical`, the same of x1; `noise_level`; and `fallback`, the reason why the
        image must not be delivered, or None.
    """
    residual_classical = data_residual(problem, problem.x1)
    report: dict[str, Any] = {
        "finite": image is not None and bool(np.isfinite(image).all()),
        "max_value": None,
        "residual": None,
        "residual_classical": residual_classical,
        "noise_level": problem.noise_level,
        "fallback": None,
    }
    if image is None or not report["finite"]:
        report["fallback"] = "the engine's image held NaN or infinite values"
        return report
    report["max_value"] = float(np.abs(image).max())
    report["residual"] = data_residual(problem, image)
    # What a denoised image leaves unexplained is noise, which counts once.
    unsolved = 0.0 if problem.task == "denoise" else residual_classical
    limit = RESIDUAL_MARGIN + RESIDUAL_RATIO * (unsolved + _noise_share(problem))
    if report["max_value"] > MAX_ENGINE_VALUE:
        report["fallback"] = (
            f"a value reached {report['max_value']:.3g} times the bright end of the scan "
            f"(limit {MAX_ENGINE_VALUE:g})"
        )
    elif report["residual"] > limit:
        report["fallback"] = (
            f"the data-consistency residual {report['residual']:.3g} is above {limit:.3g}"
        )
    return report


def choose_image(
    problem: Problem, image: NDArray[np.float32] | None, failure: str | None
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Give the planes to deliver, the engine's or the classical ones, and the checks.

    `failure` says why the engine gave no image, where it gave none.
    """
    checks = check_slice(problem, image)
    if failure is not None:
        checks["fallback"] = failure
    if image is None or checks["fallback"] is not None:
        return problem.x1, checks
    return image, checks


def data_residual(problem: Problem, image: NDArray[np.float32]) -> float:
    """Return ‖b − AᴴA x‖ / ‖b‖ of `(2, H, W)` engine planes; 0 for an empty measurement."""
    size = float(np.linalg.norm(problem.b))
    return float(np.linalg.norm(unexplained(problem, image))) / size if size else 0.0


def unexplained(problem: Problem, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return b − AᴴA x, `(2, H, W)`: what of the measurement the engine planes do not explain."""
    gram = NORMAL_OPERATORS[problem.family](image[None], batch_of_one(problem.tables))
    left: NDArray[np.float32] = problem.b - gram[0]
    return left


def _noise_share(problem: Problem) -> float:
    """Estimate the part of ‖b‖ that is noise: with ‖A‖ ≤ 1, at most σ times √(pixels)."""
    size = float(np.linalg.norm(problem.b))
    planes = 2 if problem.task == "mri" else 1
    pixels = problem.b.shape[1] * problem.b.shape[2] * planes
    return problem.noise_level * float(np.sqrt(pixels)) / size if size else 0.0
