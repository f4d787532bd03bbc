"""Find the layers whose values come too near to float16's largest.

ONNX Runtime and OpenVINO compute a half-precision graph in fp32 on a CPU and round nothing in
between, so that a gate on a workstation cannot see the overflow that a GPU would turn into NaN.
The values themselves, taken from the fp32 graph, can.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ldmpir_edge.export.precision import half_nodes, layer_of
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Problem

if TYPE_CHECKING:
    import onnx

HEADROOM = 8.0
"""Scans differ from the gate's slices: their values may be this many times larger."""


def overflowing_layers(
    graph: onnx.ModelProto, problems: Sequence[Problem], n_steps: int
) -> frozenset[str]:
    """Name the layers that must not be in half precision, whatever the gate measures.

    Parameters
    ----------
    graph
        An fp32 graph from `trace`.
    problems
        Slices to run it on.
    n_steps
        Sampler steps of the graph.
    """
    limit = float(np.finfo(np.float16).max) / HEADROOM
    peaks: dict[str, float] = defaultdict(float)
    for problem in problems:
        for layer, peak in layer_peaks(graph, problem, n_steps).items():
            peaks[layer] = max(peaks[layer], peak)
    # Written so that NaN counts as too large.
    return frozenset(layer for layer, peak in peaks.items() if not peak <= limit)


def layer_peaks(graph: onnx.ModelProto, problem: Problem, n_steps: int) -> dict[str, float]:
    """Return the largest modulus that each layer takes or gives, weights apart."""
    import onnx
    import onnxruntime as ort

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    layers: dict[str, set[str]] = defaultdict(set)
    for node in half_nodes(model):
        for name in {*node.input, *node.output} - weights - {""}:
            layers[name].add(layer_of(node.name))
    already = {output.name for output in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in sorted(layers.keys() - already)
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = sorted(layers)
    peaks: dict[str, float] = defaultdict(float)
    for name, values in zip(
        names, session.run(names, engine_arrays(problem, n_steps)), strict=True
    ):
        peak = float(np.abs(values).max(initial=0))
        for layer in layers[name]:
            peaks[layer] = float(np.fmax(peaks[layer], peak)) if np.isfinite(peak) else np.inf
    return dict(peaks)
