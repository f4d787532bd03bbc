"""The int8 pass: quantize the network's convolutions, leave the rest in fp32.

Explicit QuantizeLinear / DequantizeLinear pairs, which every engine reads: TensorRT 11 takes
int8 no other way. Symmetric, for TensorRT knows no zero points; kernels have a scale for each
output channel, activations one for each convolution and sampler step, measured on real slices.

Kernels take 7 of the 8 bits. AVX2 adds pairs of products in 16 bits, which a full int8 kernel
overflows: the same graph would give another image on another processor. It cost less than
0.01 dB in every case of the gate.

The first layer and the last stay in fp32 (they are 5 % of the work and see the image itself), and
so do the sums between layers, the modulation and all physics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import BackendError
from ldmpir_edge.export.activations import Tap
from ldmpir_edge.export.precision import NETWORK_SCOPE, drop_unused_initializers, layer_of
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Problem

if TYPE_CHECKING:
    import onnx

OUTER_LAYERS = frozenset({"stem", "head"})

KERNEL_TOP = 63
ACTIVATION_TOP = 127
RANGE_FRACTIONS = (0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0)
"""Of an activation's largest modulus: the ranges that are tried."""
VALUES_PER_SLICE = 40_000
"""Of each activation are kept to choose its range by."""

Ranges = Mapping[str, float]


def int8_layers(graph: onnx.ModelProto) -> list[str]:
    """Name the layers whose convolutions `to_int8` quantizes, in the order of the graph."""
    return list(dict.fromkeys(layer_of(node.name) for node in _convolutions(graph, frozenset())))


def activation_ranges(
    graph: onnx.ModelProto, problems: Sequence[Problem], n_steps: int
) -> dict[str, float]:
    """Choose the largest modulus that each quantized convolution's input can hold in int8.

    The one with the least squared error over the slices: a wide range rounds everything coarsely
    for the sake of a few bright pixels. Beside the 99.99th percentile it took 10 to 30 % off what
    int8 changed in the gate's cases; the maximum itself cost 0.05 to 0.2 dB more.

    Parameters
    ----------
    graph
        An fp32 graph from `trace`.
    problems
        Calibration slices.
    n_steps
        Sampler steps of the graph.

    Source: Nagel et al., "A White Paper on Neural Network Quantization", arXiv:2106.08295, 2021,
    section 3.1.
    """
    names = {node.input[0] for node in _convolutions(graph, frozenset())}
    tap = Tap(graph, names)
    seen: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    peaks = dict.fromkeys(sorted(names), 0.0)
    for problem in problems:
        for name, values in tap.read(engine_arrays(problem, n_steps)).items():
            moduli = np.abs(values).ravel()
            peaks[name] = max(peaks[name], float(moduli.max()))
            seen[name].append(moduli[:: max(1, moduli.size // VALUES_PER_SLICE)])
    return {name: best_range(np.concatenate(seen[name]), peak) for name, peak in peaks.items()}


def best_range(moduli: NDArray[np.float32], peak: float) -> float:
    """Return the range of least squared error for moduli of which `peak` is the largest."""
    if peak == 0:
        return 1.0  # only zeros were seen, and any range holds them
    errors = {}
    for fraction in RANGE_FRACTIONS:
        scale = np.float32(peak * fraction / ACTIVATION_TOP)
        held = np.minimum(np.rint(moduli / scale), ACTIVATION_TOP) * scale
        errors[fraction] = float(np.mean((moduli - held) ** 2))
    return peak * min(errors, key=lambda fraction: errors[fraction])


def to_int8(
    graph: onnx.ModelProto, ranges: Ranges, keep: frozenset[str] = frozenset()
) -> onnx.ModelProto:
    """Return a copy whose U-Net convolves in int8.

    Parameters
    ----------
    graph
        An fp32 graph from `trace`.
    ranges
        From `activation_ranges` on the same graph.
    keep
        Layers, as `int8_layers` names them, that stay in fp32.

    Raises
    ------
    BackendError
        No convolution is left to quantize, or a range is not a positive number.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    chosen = {node.name for node in _convolutions(model, keep)}
    if not chosen:
        raise BackendError("no convolution is left to quantize; export as fp32")
    kernels = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    zero = numpy_helper.from_array(np.zeros((), np.int8), "int8_zero")
    added: dict[str, onnx.TensorProto] = {zero.name: zero}
    quantized: set[str] = set()
    rewritten: list[onnx.NodeProto] = []

    def constant(name: str, values: NDArray[np.generic]) -> str:
        added[name] = numpy_helper.from_array(values, name)
        return name

    def quantize_activation(name: str) -> str:
        """Name the value after its pair; one pair serves all convolutions that read it."""
        if name not in quantized:
            quantized.add(name)
            top = ranges[name]
            if not 0 < top < np.inf:
                raise BackendError(f"the activations of {name} reach {top}; export as fp32")
            scale = constant(f"{name}_scale", np.array(top / ACTIVATION_TOP, np.float32))
            rewritten.append(
                helper.make_node(
                    "QuantizeLinear", [name, scale, zero.name], [f"{name}_int8"], f"{name}_quantize"
                )
            )
            rewritten.append(
                helper.make_node(
                    "DequantizeLinear",
                    [f"{name}_int8", scale, zero.name],
                    [f"{name}_fake"],
                    f"{name}_dequantize",
                )
            )
        return f"{name}_fake"

    def quantize_kernel(name: str) -> str:
        """Name the float kernel after its pair; the steps share it."""
        if name not in quantized:
            quantized.add(name)
            values, scales = quantize_rows(kernels[name])
            stored = constant(f"{name}_int8", values)
            scale = constant(f"{name}_scale", scales)
            rewritten.append(
                helper.make_node(
                    "DequantizeLinear",
                    [stored, scale],
                    [f"{name}_fake"],
                    f"{name}_dequantize",
                    axis=0,
                )
            )
        return f"{name}_fake"

    for node in model.graph.node:
        if node.name in chosen:
            node.input[0] = quantize_activation(node.input[0])
            node.input[1] = quantize_kernel(node.input[1])
        rewritten.append(node)
    # Through a copy: clearing the field would clear the nodes that the list still refers to.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in rewritten]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.initializer.extend(added.values())
    drop_unused_initializers(model)
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def quantize_rows(
    kernel: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize a kernel `(out, in, h, w)` with a scale `(out,)` for each output channel."""
    peaks = np.abs(kernel).reshape(len(kernel), -1).max(axis=1)
    scales = (np.where(peaks > 0, peaks, 1) / KERNEL_TOP).astype(np.float32)
    values = np.rint(kernel / scales[:, None, None, None])
    return np.clip(values, -KERNEL_TOP, KERNEL_TOP).astype(np.int8), scales


def _convolutions(graph: onnx.ModelProto, keep: frozenset[str]) -> list[onnx.NodeProto]:
    return [
        node
        for node in graph.graph.node
        if node.op_type == "Conv"
        and NETWORK_SCOPE in node.name
        and layer_of(node.name) not in OUTER_LAYERS | keep
    ]
