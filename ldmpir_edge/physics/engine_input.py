"""From a problem to the arrays that an engine takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.normal import batch_of_one
from ldmpir_edge.physics.problem import Problem


def engine_arrays(
    problem: Problem, n_steps: int, noise: NDArray[np.float32] | None = None
) -> dict[str, NDArray[np.generic]]:
    """Return the engine's inputs by name, as a batch of one.

    Parameters
    ----------
    problem
        The slice.
    n_steps
        Sampler steps of the engine.
    noise
        `(n_steps − 1, 2, H, W)` standard normal; None gives zeros, the deterministic mean.
    """
    arrays: dict[str, NDArray[np.generic]] = {
        "b": problem.b[None],
        "x1": problem.x1[None],
        "noise_level": np.array([problem.noise_level], np.float32),
        "condition": problem.condition[None],
    }
    if n_steps > 1:
        shape = (n_steps - 1, *problem.b.shape)
        arrays["noise"] = (np.zeros(shape, np.float32) if noise is None else noise)[None]
    return arrays | batch_of_one(problem.tables)
