"""int8 is the network's inner convolutions alone, and rounds as it says."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from other_sizes import batch_of_two, other_problem
from tiny_problems import tiny_problem

from ldmpir_edge.errors import BackendError
from ldmpir_edge.export.int8 import (
    KERNEL_TOP,
    activation_ranges,
    best_range,
    int8_layers,
    quantize_rows,
    to_int8,
)
from ldmpir_edge.export.precision import layer_of
from ldmpir_edge.export.short_names import shorten_values
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import FAMILIES

N_STEPS = 2


@pytest.fixture(scope="module")
def ranges(traced):
    return activation_ranges(traced("pointwise", N_STEPS), [tiny_problem("pointwise")], N_STEPS)


def run(graph, arrays, options=None):
    session = ort.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, arrays)[0]


def convolutions(graph):
    return [node for node in graph.graph.node if node.op_type == "Conv"]


def test_all_but_the_first_and_last_layer_are_quantized(traced, ranges):
    graph = to_int8(traced("pointwise", N_STEPS), ranges)
    made_by = {name: node for node in graph.graph.node for name in node.output}
    int8 = {t.name for t in graph.graph.initializer if t.data_type == TensorProto.INT8}
    for conv in convolutions(graph):
        sources = [made_by.get(name) for name in conv.input[:2]]
        if layer_of(conv.name) in ("stem", "head"):
            assert not any(node and node.op_type == "DequantizeLinear" for node in sources)
            continue
        assert [node.op_type for node in sources] == ["DequantizeLinear"] * 2
        assert sources[1].input[0] in int8
        assert made_by[sources[0].input[0]].op_type == "QuantizeLinear"
    # Two steps share one set of kernels.
    kernels = [t for t in graph.graph.initializer if t.name in int8 and len(t.dims) == 4]
    assert len(kernels) == (len(convolutions(graph)) - 2 * N_STEPS) / N_STEPS
    others = {"QuantizeLinear", "DequantizeLinear"}
    exact = [node.op_type for node in traced("pointwise", N_STEPS).graph.node]
    assert [n.op_type for n in graph.graph.node if n.op_type not in others] == exact


@pytest.mark.parametrize("family", FAMILIES)
def test_the_image_stays_near_on_sizes_that_were_not_traced(traced, family):
    exact = traced(family, N_STEPS)
    graph = to_int8(exact, activation_ranges(exact, [tiny_problem(family)], N_STEPS))
    arrays = batch_of_two(other_problem(family), N_STEPS)
    image = run(exact, arrays)
    # A network of random weights, on a problem unlike the one that gave its ranges.
    assert 0 < np.linalg.norm(run(graph, arrays) - image) < 0.25 * np.linalg.norm(image)


def test_it_is_what_the_standard_says(traced):
    problem = tiny_problem("pointwise")
    exact = traced("pointwise", 1)
    graph = to_int8(exact, activation_ranges(exact, [problem], 1))
    arrays = engine_arrays(problem, 1)
    # onnx evaluates these two operators from version 19 on, which added only types.
    newer = onnx.ModelProto()
    newer.CopyFrom(graph)
    newer.opset_import[0].version = 19
    reference = ReferenceEvaluator(newer).run(None, arrays)[0]
    as_written = ort.SessionOptions()
    as_written.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    np.testing.assert_allclose(run(graph, arrays, as_written), reference, atol=1e-4)
    # Where ONNX Runtime fuses it rounds biases too, and a value near the edge between two levels
    # falls either way: less than rounding itself does.
    rounding = np.linalg.norm(reference - run(exact, arrays))
    assert np.linalg.norm(run(graph, arrays) - reference) < 0.8 * rounding


def test_kept_layers_stay_as_they_were(traced, ranges):
    exact = traced("pointwise", N_STEPS)
    layers = int8_layers(exact)
    graph = to_int8(exact, ranges, frozenset(layers) - {"middle.0"})
    quantized = {
        layer_of(conv.name) for conv in convolutions(graph) if conv.input[1].endswith("_fake")
    }
    assert quantized == {"middle.0"}
    with pytest.raises(BackendError, match="no convolution is left"):
        to_int8(exact, ranges, frozenset(layers))


def test_kernels_have_a_scale_a_channel_and_room_for_a_sum():
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    kernel *= np.array([1e-3, 1, 50, 0], np.float32)[:, None, None, None]
    values, scales = quantize_rows(kernel)
    assert np.abs(values).max() == KERNEL_TOP
    # vpmaddubsw adds two products of 8 bits in 16: they must fit.
    assert 2 * 255 * KERNEL_TOP < 2**15
    error = np.abs(values * scales[:, None, None, None] - kernel).reshape(4, -1).max(axis=1)
    assert (error <= scales / 2 + 1e-9).all()
    assert not values[3].any()


def test_one_bright_pixel_does_not_set_the_range_of_many():
    rng = np.random.default_rng(0)
    many = np.abs(rng.standard_normal(200_000)).astype(np.float32)
    assert best_range(np.append(many, np.float32(12)), 12.0) < 9
    # Where the largest values are common, clipping them costs more than it saves.
    assert best_range(rng.uniform(0, 5, 10_000).astype(np.float32), 5.0) == 5


def test_an_activation_that_is_always_zero_has_a_range(traced):
    graph = onnx.ModelProto()
    graph.CopyFrom(traced("pointwise", 1))
    for conv in convolutions(graph):
        if "/middle.0/conv1" in conv.name:
            for name in conv.input[1:]:
                tensor = next(t for t in graph.graph.initializer if t.name == name)
                zeros = np.zeros_like(numpy_helper.to_array(tensor))
                tensor.CopyFrom(numpy_helper.from_array(zeros, name))
    problem = tiny_problem("pointwise")
    quantized = to_int8(graph, activation_ranges(graph, [problem], 1))
    assert np.isfinite(run(quantized, engine_arrays(problem, 1))).all()


def test_short_names_change_nothing_but_the_size(traced, ranges):
    graph = to_int8(traced("pointwise", N_STEPS), ranges)
    short = shorten_values(graph)
    onnx.checker.check_model(short)
    arrays = engine_arrays(tiny_problem("pointwise"), N_STEPS)
    np.testing.assert_array_equal(run(short, arrays), run(graph, arrays))
    assert [node.name for node in short.graph.node] == [node.name for node in graph.graph.node]
    assert [v.name for v in short.graph.input] == [v.name for v in graph.graph.input]

    def size(model):
        return sum(len(node.SerializeToString()) for node in model.graph.node)

    assert size(short) < 0.65 * size(graph)
