"""Restrictions of TensorRT's parsers on single operators, beyond name and dtype.

Each rule answers why a node is not taken, or an empty string. Their wording follows the column
"Restrictions" of the lists that `ldmpir_edge.export.parsers` names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ldmpir_edge.export.typed_graph import TypedGraph

if TYPE_CHECKING:
    import onnx

MAX_TOP_K = 3840
QUANTIZED = ("INT8", "FP8", "INT4", "FP4")


@dataclass(frozen=True)
class Rule:
    """A restriction of some operators; where `fails` is false the parser only does it its way."""

    operators: frozenset[str]
    judge: Callable[[TypedGraph, Any], str]
    fails: bool = True


def _axes(graph: TypedGraph, node: onnx.NodeProto) -> str:
    if len(node.input) > 1 and node.input[1] and not graph.is_constant(node.input[1]):
        return "axes that are computed; they must be constant"
    return ""


def _dilations(graph: TypedGraph, node: onnx.NodeProto) -> str:
    return "dilations" if set(graph.attribute(node, "dilations", [])) - {1} else ""


def _grid_sample(graph: TypedGraph, node: onnx.NodeProto) -> str:
    shape = graph.shape(node.input[0])
    return f"{len(shape)}-D input; only 4-D" if shape is not None and len(shape) != 4 else ""


def _pool(graph: TypedGraph, node: onnx.NodeProto) -> str:
    shape = graph.shape(node.input[0])
    if shape is None or len(shape) in (4, 5):
        return ""
    return f"pooling over {len(shape) - 2} axes; 2 or 3"


def _second_output(graph: TypedGraph, node: onnx.NodeProto) -> str:
    return "more than the first output" if any(node.output[1:]) else ""


def _resize_extras(graph: TypedGraph, node: onnx.NodeProto) -> str:
    if graph.attribute(node, "antialias", 0):
        return "antialiasing"
    kept = graph.attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch"
    return "an aspect ratio that is kept" if kept else ""


def _resize_mode(graph: TypedGraph, node: onnx.NodeProto) -> str:
    mode = graph.attribute(node, "mode", "nearest")
    how = graph.attribute(node, "coordinate_transformation_mode", "half_pixel")
    known = {
        *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn"),
        *("asymmetric", "align_corners"),
    }
    return "" if mode in ("nearest", "linear") and how in known else f"mode {mode}, {how}"


def _reduction(graph: TypedGraph, node: onnx.NodeProto) -> str:
    kind = graph.attribute(node, "reduction", "none")
    return f"reduction by {kind}" if kind != "none" else ""


def _plugin_reduction(graph: TypedGraph, node: onnx.NodeProto) -> str:
    reason = _reduction(graph, node)
    return f"{reason}, which needs TensorRT's plugin library" if reason else ""


def _top_k(graph: TypedGraph, node: onnx.NodeProto) -> str:
    if not graph.attribute(node, "sorted", 1):
        return "unsorted"
    k = graph.constant(node.input[1]) if len(node.input) > 1 else None
    if k is None or k.max() < MAX_TOP_K:
        return ""
    return f"K of {int(k.max())}; below {MAX_TOP_K}"


def _seed(graph: TypedGraph, node: onnx.NodeProto) -> str:
    return "the seed is ignored: feed noise as an input"


def _quantized_type(graph: TypedGraph, node: onnx.NodeProto) -> str:
    dtype = graph.dtype(node.output[0])
    return "" if dtype in (None, *QUANTIZED) else f"{dtype} output; of {' '.join(QUANTIZED)}"


def _zero_point(graph: TypedGraph, node: onnx.NodeProto) -> str:
    zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return "a zero point other than 0" if zero is not None and zero.any() else ""


def _rule(operators: str, judge: Callable[[TypedGraph, Any], str], *, fails: bool = True) -> Rule:
    return Rule(frozenset(operators.split()), judge, fails)


RULES: dict[str, Rule] = {
    "constant-axes": _rule(
        "CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare Squeeze Unsqueeze",
        _axes,
    ),
    "grid-sample-4d": _rule("GridSample", _grid_sample),
    "layer-normalization-outputs": _rule("LayerNormalization", _second_output),
    "max-pool-indices": _rule("MaxPool", _second_output),
    "ones-dilations": _rule("AveragePool LpPool MaxPool", _dilations),
    "pool-2d-or-3d": _rule("AveragePool MaxPool", _pool),
    "quantized-types": _rule("QuantizeLinear", _quantized_type),
    "resize-extras": _rule("Resize", _resize_extras),
    "resize-modes": _rule("Resize", _resize_mode),
    "scatter-elements-plugin": _rule("ScatterElements", _plugin_reduction, fails=False),
    "scatter-elements-reduction": _rule("ScatterElements", _reduction),
    "scatter-nd-reduction": _rule("ScatterND", _reduction),
    "seed": _rule(
        "RandomNormal RandomNormalLike RandomUniform RandomUniformLike", _seed, fails=False
    ),
    "top-k": _rule("TopK", _top_k),
    "zero-point": _rule("DequantizeLinear QuantizeLinear", _zero_point),
}
"""By the name that `Parser.rules` has."""
