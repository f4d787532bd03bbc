"""Find the layers whose values come too near to float16's largest.

ONNX Runtime and OpenVINO compute a half-precision graph in fp32 on a CPU and round nothing in
between, so that a gate on a workstation cannot see the overflow that a GPU would turn into NaN.
The values themselves, taken from the fp32 graph, can.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.export.activations import Tap
from ldmpir_edge.export.extremes import extreme_inputs
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

    Those are the layers whose values, on the slices, come within `HEADROOM` of float16's largest,
    or exceed it where a slice is as bright as the manifest allows.

    Parameters
    ----------
    graph
        An fp32 graph from `trace`.
    problems
        Slices to run it on.
    n_steps
        Sampler steps of the graph.
    """
    largest = float(np.finfo(np.float16).max)
    tap, layers = _tap_layers(graph)
    too_large: set[str] = set()
    for problem in problems:
        for inputs, limit in (
            (engine_arrays(problem, n_steps), largest / HEADROOM),
            (extreme_inputs(problem, n_steps), largest),
        ):
            peaks = _peaks(tap, layers, inputs)
            # Written so that NaN counts as too large.
            too_large |= {layer for layer, peak in peaks.items() if not peak <= limit}
    return frozenset(too_large)


def layer_peaks(graph: onnx.ModelProto, problem: Problem, n_steps: int) -> dict[str, float]:
    """Return the largest modulus that each layer takes or gives, weights apart."""
    tap, layers = _tap_layers(graph)
    return _peaks(tap, layers, engine_arrays(problem, n_steps))


def _tap_layers(graph: onnx.ModelProto) -> tuple[Tap, Mapping[str, set[str]]]:
    weights = {tensor.name for tensor in graph.graph.initializer}
    layers: dict[str, set[str]] = defaultdict(set)
    for node in half_nodes(graph):
        for name in {*node.input, *node.output} - weights - {""}:
            layers[name].add(layer_of(node.name))
    return Tap(graph, layers), layers


def _peaks(
    tap: Tap, layers: Mapping[str, set[str]], inputs: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    peaks: dict[str, float] = defaultdict(float)
    for name, values in tap.read(inputs).items():
        peak = float(np.abs(values).max(initial=0))
        for layer in layers[name]:
            peaks[layer] = float(np.fmax(peaks[layer], peak)) if np.isfinite(peak) else np.inf
    return dict(peaks)
