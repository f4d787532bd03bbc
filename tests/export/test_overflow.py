"""What a CPU hides and a GPU would turn into NaN is found before the export."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from tiny_problems import tiny_problem

from ldmpir_edge.export.overflow import HEADROOM, layer_peaks, overflowing_layers
from ldmpir_edge.export.precision import network_layers, to_half
from ldmpir_edge.physics.engine_input import engine_arrays

N_STEPS = 1


@pytest.fixture(scope="module")
def problem():
    return tiny_problem("pointwise")


@pytest.fixture(scope="module")
def swollen(traced):
    """Inside middle.0 values of some 10⁶, and before and after it what they were."""
    graph = onnx.ModelProto()
    graph.CopyFrom(traced("pointwise", N_STEPS))
    first, second = (n for n in graph.graph.node if n.op_type == "Conv" and "/middle.0/" in n.name)
    factor = np.float32(2**17)
    for name, scale in (
        (first.input[1], factor),
        (first.input[2], factor),
        (second.input[1], 1 / factor),
    ):
        tensor = next(t for t in graph.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values * scale, name))
    return graph


def run(graph, problem):
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, engine_arrays(problem, N_STEPS))[0]


def test_the_layer_is_named(traced, swollen, problem):
    # Powers of two: in fp32 the two graphs are the same function.
    np.testing.assert_array_equal(run(swollen, problem), run(traced("pointwise", N_STEPS), problem))
    assert overflowing_layers(swollen, [problem], N_STEPS) == {"middle.0"}
    assert overflowing_layers(traced("pointwise", N_STEPS), [problem], N_STEPS) == frozenset()


def test_kept_in_fp32_the_layer_does_no_harm(swollen, problem):
    def as_a_gpu_does(keep):
        # ONNX's own evaluator rounds to float16 after every node.
        graph = to_half(swollen, frozenset(keep))
        return ReferenceEvaluator(graph).run(None, engine_arrays(problem, N_STEPS))[0]

    exact = run(swollen, problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflow is what it is about
        assert not np.allclose(as_a_gpu_does({}), exact, atol=1e-2)
        np.testing.assert_allclose(as_a_gpu_does({"middle.0"}), exact, atol=1e-2)
    # The reason for all this: on a CPU nothing shows.
    assert np.isfinite(run(to_half(swollen), problem)).all()


def test_peaks_are_those_of_the_values(traced, problem):
    graph = traced("pointwise", N_STEPS)
    peaks = layer_peaks(graph, problem, N_STEPS)
    assert set(peaks) == set(network_layers(graph))
    assert all(0 < peak < np.finfo(np.float16).max / HEADROOM for peak in peaks.values())


def test_a_value_that_is_not_a_number_counts_as_too_large(traced, problem):
    graph = onnx.ModelProto()
    graph.CopyFrom(traced("pointwise", N_STEPS))
    (conv,) = (n for n in graph.graph.node if n.op_type == "Conv" and "/head/" in n.name)
    kernel = next(t for t in graph.graph.initializer if t.name == conv.input[1])
    values = numpy_helper.to_array(kernel) * np.float32(np.nan)
    kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    assert "head" in overflowing_layers(graph, [problem], N_STEPS)
