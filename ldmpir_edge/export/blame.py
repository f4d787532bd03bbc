"""Find the layers whose lower precision changes the image most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ldmpir_edge.export.lowering import Lowering
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Problem

if TYPE_CHECKING:
    import onnx


def rank_layers(
    graph: onnx.ModelProto, lowering: Lowering, problem: Problem, n_steps: int
) -> list[tuple[str, float]]:
    """Lower one layer at a time and measure the change of the image.

    Returns
    -------
        (layer, largest absolute difference in engine units; infinite for NaN), worst first.
    """
    import onnxruntime as ort

    inputs = engine_arrays(problem, n_steps)

    def run(model: onnx.ModelProto) -> np.ndarray:
        session = ort.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        image: np.ndarray = session.run(None, inputs)[0]
        return image

    exact = run(graph)
    damage = {}
    for layer in lowering.layers:
        others = frozenset(lowering.layers) - {layer}
        difference = float(np.abs(run(lowering.rewrite(others)) - exact).max())
        damage[layer] = difference if np.isfinite(difference) else float("inf")
    return sorted(damage.items(), key=lambda item: -item[1])
