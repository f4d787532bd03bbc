"""Half precision is the network's alone; the physics stays in fp32."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from other_sizes import batch_of_two, other_problem

from ldmpir_edge.errors import BackendError
from ldmpir_edge.export.precision import network_layers, to_half
from ldmpir_edge.physics.problem import FAMILIES

HALF_TOLERANCE = 1e-2

UNET_LAYERS = {
    "stem",
    *(f"encoder.{k}" for k in range(3)),
    *(f"down.{k}" for k in range(3)),
    *(f"middle.{k}" for k in range(2)),
    *(f"up.{k}" for k in range(3)),
    *(f"decoder.{k}" for k in range(3)),
    "head",
    "skips",
}
"""The parts of the U-Net that `ldmpir_edge.models.unet.UNet` names, and its skip sums."""


def run(graph, arrays):
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, arrays)[0]


def types(graph):
    """Element type of every value, as ONNX's inference and checker see it."""
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    kinds = {v.name: v.type.tensor_type.elem_type for v in values}
    return kinds | {t.name: t.data_type for t in inferred.initializer}


def computing_in_half(graph):
    """Names of the nodes, casts apart, that take or give a float16."""
    kinds = types(graph)
    return [
        node
        for node in graph.graph.node
        if node.op_type != "Cast"
        and TensorProto.FLOAT16 in {kinds.get(name) for name in [*node.input, *node.output]}
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_network_computes_in_half(traced, family):
    exact = traced(family, 2)
    half = to_half(exact)
    nodes = computing_in_half(half)
    assert nodes
    assert all("/unet/" in node.name for node in nodes)
    # All of its arithmetic: a convolution left in fp32 would cost what fp16 was to save.
    convolutions = {node.name for node in exact.graph.node if node.op_type == "Conv"}
    assert convolutions <= {node.name for node in nodes}
    # Reductions and the operators' matrix products overflow or lose decibels in fp16.
    assert not {node.op_type for node in nodes} & {"MatMul", "ReduceSum", "Div", "Exp", "Sigmoid"}
    # Inputs and outputs are the same tensors for the caller.
    assert [*half.graph.input] == [*exact.graph.input]
    assert [*half.graph.output] == [*exact.graph.output]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_halved_and_physics_constants_are_not(traced, family):
    exact = {t.name: t for t in traced(family, 2).graph.initializer}
    half = {t.name: t for t in to_half(traced(family, 2)).graph.initializer}
    changed = {name for name, t in half.items() if t.data_type == TensorProto.FLOAT16}
    assert changed
    for name in changed:
        original = numpy_helper.to_array(exact[name.removesuffix("_half")])
        np.testing.assert_array_equal(
            numpy_helper.to_array(half[name]), original.astype(np.float16)
        )
    assert all(half[name] == exact[name] for name in half.keys() - changed)
    # What is left of the kernels in fp32: the conditioning's small matrices.
    assert not [t for name, t in half.items() if name not in changed and len(t.dims) == 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_image_moves_by_no_more_than_half_precision(traced, family):
    arrays = batch_of_two(other_problem(family), 2)
    exact = run(traced(family, 2), arrays)
    difference = np.abs(run(to_half(traced(family, 2)), arrays) - exact).max()
    assert 0 < difference < HALF_TOLERANCE


@pytest.mark.parametrize("n_steps", [1, 2])
def test_layers_are_those_of_the_network_however_many_steps(traced, n_steps):
    layers = network_layers(traced("pointwise", n_steps))
    assert sorted(layers) == sorted(UNET_LAYERS)


def test_kept_layers_stay_in_fp32(traced):
    exact = traced("pointwise", 2)
    kept = frozenset({"encoder.1", "head"})
    nodes = computing_in_half(to_half(exact, kept))
    scopes = {node.name.split("/unet/")[1].split("/")[0] for node in nodes}
    # Each step of the sampler is traced under its own number: kept in one, kept in all.
    assert {"encoder.0", "encoder.0_1"} <= scopes
    assert not [scope for scope in scopes if scope.startswith(tuple(kept))]
    assert {"stem", "middle.1", "decoder.1"} <= scopes


def test_keeping_more_comes_closer(traced):
    exact = traced("pointwise", 1)
    arrays = batch_of_two(other_problem("pointwise"), 1)
    reference = run(exact, arrays)

    def error(keep):
        return np.abs(run(to_half(exact, frozenset(keep)), arrays) - reference).max()

    assert error(UNET_LAYERS - {"middle.0"}) < error(())


def test_the_graph_given_is_left_as_it_was(traced):
    before = traced("pointwise", 1).SerializeToString(deterministic=True)
    to_half(traced("pointwise", 1))
    assert traced("pointwise", 1).SerializeToString(deterministic=True) == before


def test_keeping_all_or_a_graph_without_network_is_refused(traced):
    with pytest.raises(BackendError, match="/unet/"):
        to_half(traced("pointwise", 1), frozenset(UNET_LAYERS))


def test_a_weight_beyond_half_precision_is_refused(traced):
    graph = onnx.ModelProto()
    graph.CopyFrom(traced("pointwise", 1))
    kernel = next(t for t in graph.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(kernel).copy()
    values.flat[0] = 7e4
    kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    with pytest.raises(BackendError, match=r"does not fit float16; export as fp32"):
        to_half(graph)
