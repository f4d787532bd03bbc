"""Inputs at the edge of what the manifest allows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.export.tensors import IMAGE_RANGE
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Problem


def extreme_inputs(problem: Problem, n_steps: int) -> dict[str, NDArray[Any]]:
    """Make a problem's measurement and its classical image as bright as the manifest allows.

    Both are multiplied by one factor: the pair stays one that a measurement could give.
    """
    inputs: dict[str, NDArray[Any]] = dict(engine_arrays(problem, n_steps))
    peak = max(float(np.abs(inputs[name]).max()) for name in ("b", "x1"))
    factor = np.float32(IMAGE_RANGE[1] / max(peak, 1e-6))
    return {**inputs, "b": inputs["b"] * factor, "x1": inputs["x1"] * factor}
