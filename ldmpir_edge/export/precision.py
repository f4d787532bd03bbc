"""The precision pass: put the network into half precision, leave the physics in fp32.

One ONNX-to-ONNX rewrite serves every engine: TensorRT 11 has no precision flags, and its
networks are typed by the graph.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ldmpir_edge.errors import BackendError

if TYPE_CHECKING:
    import onnx

NETWORK_SCOPE = "/unet/"
"""Nodes traced from the U-Net carry its name in theirs."""

HALF_OPS = frozenset({"Conv", "Relu", "Add", "Mul", "Concat", "DepthToSpace", "SpaceToDepth"})
"""Operators of the network that compute on images, as against shapes, indices and the modulation
of all its blocks, which is one small product."""


def to_half(graph: onnx.ModelProto, keep: frozenset[str] = frozenset()) -> onnx.ModelProto:
    """Return a copy whose U-Net computes in float16, with casts where values enter and leave.

    Krylov vectors, dot products, step sizes, λ and the time embedding stay in float32: an
    unnormalised inner product of an image overflows float16, and CG on SENSE loses decibels.

    Parameters
    ----------
    graph
        An fp32 graph from `trace`.
    keep
        Layers of the network, as `network_layers` names them, that stay in float32.

    Raises
    ------
    BackendError
        No node of the network was found, or a weight does not fit float16.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    chosen = {node.name for node in half_nodes(model, keep)}
    if not chosen:
        raise BackendError(f"no node of the network ({NETWORK_SCOPE}) was found in the graph")
    initializers = {t.name: t for t in model.graph.initializer}
    made_by = {out: n.name for n in model.graph.node for out in n.output}
    graph_outputs = {o.name for o in model.graph.output}
    half_names: dict[str, str] = {}
    rewritten: list[onnx.NodeProto] = []

    def as_half(name: str) -> str:
        """Name the float16 version of a float32 value, casting it at its first use."""
        if not name or made_by.get(name) in chosen:
            return name
        if name not in half_names:
            half_names[name] = f"{name}_half"
            if name in initializers:
                values = numpy_helper.to_array(initializers[name])
                if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                    raise BackendError(f"weight {name} does not fit float16; export as fp32")
                model.graph.initializer.append(
                    numpy_helper.from_array(values.astype(np.float16), half_names[name])
                )
            else:
                rewritten.append(
                    helper.make_node(
                        "Cast",
                        [name],
                        [half_names[name]],
                        f"{name}_to_half",
                        to=TensorProto.FLOAT16,
                    )
                )
        return half_names[name]

    leaves = {
        name
        for n in model.graph.node
        if n.name not in chosen
        for name in n.input
        if made_by.get(name) in chosen
    } | {name for name in graph_outputs if made_by.get(name) in chosen}
    for node in model.graph.node:
        if node.name not in chosen:
            rewritten.append(node)
            continue
        inputs = [as_half(name) for name in node.input]
        outputs = [f"{name}_half" if name in leaves else name for name in node.output]
        half = onnx.NodeProto()
        half.CopyFrom(node)
        del half.input[:], half.output[:]
        # A value that both sides use keeps its name in float32; the network reads the half one.
        half.input.extend(f"{name}_half" if name in leaves else name for name in inputs)
        half.output.extend(outputs)
        rewritten.append(half)
        rewritten.extend(
            helper.make_node(
                "Cast", [f"{name}_half"], [name], f"{name}_to_float", to=TensorProto.FLOAT
            )
            for name in node.output
            if name in leaves
        )
    del model.graph.node[:]
    model.graph.node.extend(rewritten)
    drop_unused_initializers(model)
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def half_nodes(graph: onnx.ModelProto, keep: frozenset[str] = frozenset()) -> list[onnx.NodeProto]:
    """List the nodes that `to_half` puts into half precision."""
    floats = _float_values(graph)
    return [
        node
        for node in graph.graph.node
        if NETWORK_SCOPE in node.name
        and node.op_type in HALF_OPS
        and layer_of(node.name) not in keep
        and all(not name or name in floats for name in [*node.input, *node.output])
    ]


def network_layers(graph: onnx.ModelProto) -> list[str]:
    """Name the layers of the U-Net that `to_half` can keep, in the order of the graph."""
    names = (layer_of(n.name) for n in graph.graph.node if NETWORK_SCOPE in n.name)
    return list(dict.fromkeys(names))


def layer_of(node_name: str) -> str:
    """Return the layer of a node: `/model/unet/encoder.0_2/conv1/Conv_3` is in `encoder.0`.

    Every sampler step is traced with a number of its own, but the steps share their weights and
    stand or fall together. Sums between layers are `skips`.
    """
    layer, _, inside = node_name.split(NETWORK_SCOPE)[1].partition("/")
    return re.sub(r"_\d+$", "", layer) if inside else "skips"


def _float_values(model: onnx.ModelProto) -> set[str]:
    """Name the values of type float32, by ONNX's own inference."""
    import onnx
    from onnx import TensorProto

    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    typed = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    names = {v.name for v in typed if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {t.name for t in inferred.graph.initializer if t.data_type == TensorProto.FLOAT}


def drop_unused_initializers(model: onnx.ModelProto) -> None:
    """Remove the weights that no node reads any more, in place."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
