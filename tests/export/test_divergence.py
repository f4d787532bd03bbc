"""The node that was tampered with is the one that is found."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.export import divergence
from ldmpir_edge.export.divergence import TOLERANCES, compare_layers, first_divergence
from ldmpir_edge.runtimes.onnxruntime_backend import OnnxRuntimeBackend

FAMILY = "pointwise"


class Tampered(OnnxRuntimeBackend):
    """ONNX Runtime that reads one weight of every graph wrongly."""

    def __init__(self, weight, change):
        self.weight, self.change = weight, change

    def _load(self, library, variant, threads):
        graph = onnx.load(variant.graph)
        (tensor,) = (t for t in graph.graph.initializer if t.name == self.weight)
        wrong = self.change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(wrong, tensor.name))
        onnx.save(graph, variant.graph)
        return super()._load(library, variant, threads)


@pytest.fixture(scope="module")
def shipped():
    return open_bundle("ldmpir-2m")


@pytest.fixture(scope="module")
def graph(shipped):
    variant = shipped.extract(FAMILY, shipped.manifest.sampler.default_n_steps, "fp32")
    return onnx.load(variant.graph)


@pytest.fixture
def tamper(monkeypatch):
    """Make the backend `tampered` one that changes a weight."""

    def arrange(weight, change):
        backends = {"sound": OnnxRuntimeBackend(), "tampered": Tampered(weight, change)}
        monkeypatch.setattr(divergence, "get_backend", backends.__getitem__)

    return arrange


def users(graph, weight):
    return [node for node in graph.graph.node if weight in node.input]


def chosen_weights(graph):
    """A bias of the third step, and kernels of the first, a middle and the last convolution."""
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    late = next(n for n in convolutions if n.input[2].endswith("_2"))
    kernels = list(dict.fromkeys(node.input[1] for node in convolutions))
    return [late.input[2], kernels[0], kernels[len(kernels) // 2], kernels[-1]]


@pytest.mark.parametrize("which", range(4))
def test_the_tampered_node_is_found(shipped, graph, tamper, which):
    weight = chosen_weights(graph)[which]

    def change(values):
        values.flat[values.size // 2] += 0.5 * np.abs(values).max()
        return values

    tamper(weight, change)
    found = compare_layers(shipped, FAMILY, "fp32", ("sound", "tampered"))
    node = users(graph, weight)[0]
    assert (found.node, found.op_type, found.value) == (node.name, "Conv", node.output[0])
    assert found.difference > TOLERANCES["fp32"]
    assert found.inputs_difference == 0


def test_nan_in_one_engine_is_a_divergence(shipped, graph, tamper):
    weight = chosen_weights(graph)[2]
    tamper(weight, lambda values: values * np.nan)
    found = compare_layers(shipped, FAMILY, "fp32", ("sound", "tampered"))
    assert found.node == users(graph, weight)[0].name
    assert found.difference is None


@pytest.mark.parametrize("batch", [60, 10_000])
def test_the_graph_may_be_looked_at_in_parts(shipped, graph, tamper, monkeypatch, batch):
    weight = chosen_weights(graph)[2]
    node = users(graph, weight)[0]
    monkeypatch.setattr(divergence, "BATCH", batch)
    tamper(weight, lambda values: 1.5 * values)
    seen = []
    found = compare_layers(
        shipped, FAMILY, "fp32", ("sound", "tampered"), lambda *step: seen.append(step)
    )
    assert found.node == node.name
    place = [output for n in graph.graph.node for output in n.output].index(node.output[0])
    assert len(seen) == place // batch


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_two_sound_engines_agree_everywhere(shipped, precision):
    seen = []
    found = compare_layers(
        shipped, FAMILY, precision, ("openvino", "onnxruntime"), lambda *step: seen.append(step)
    )
    assert found is None
    assert seen[-1][0] == seen[-1][1] > 500


def toy(*nodes):
    info = onnx.helper.make_tensor_value_info
    inputs = [info("x", onnx.TensorProto.FLOAT, [4])]
    outputs = [info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)]
    graph = onnx.helper.make_graph(list(nodes), "toy", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])


def answers(**values):
    """Runners that answer the first and the second of each pair of values."""
    sides = [{name: np.asarray(pair[k]) for name, pair in values.items()} for k in (0, 1)]
    return tuple(
        lambda graph, _, side=side: {o.name: side[o.name] for o in graph.graph.output}
        for side in sides
    )


X = {"x": np.array([1.0, 2.0, 3.0, 4.0], np.float32)}


def test_what_cancels_is_measured_by_what_it_is_made_of():
    node = onnx.helper.make_node
    graph = toy(node("Sub", ["x", "x"], ["d"], name="sub"), node("Relu", ["d"], ["y"], name="relu"))
    small = np.full(4, 1e-6), np.full(4, 3e-6)
    assert first_divergence(graph, X, answers(d=small, y=small), 1e-3) is None
    # Anything else that is small by itself must be as exact as it is small.
    graph = toy(node("Exp", ["x"], ["d"], name="exp"), node("Relu", ["d"], ["y"], name="relu"))
    assert first_divergence(graph, X, answers(d=small, y=small), 1e-3).node == "exp"


def test_equal_infinities_and_other_types_are_no_divergence():
    node = onnx.helper.make_node
    graph = toy(
        node("Log", ["x"], ["a"], name="log"),
        node("Shape", ["a"], ["b"], name="shape"),
        node("Sqrt", ["a"], ["y"], name="root"),
    )
    infinite = np.array([-np.inf, 0, np.nan, 1])
    same = answers(a=(infinite, infinite), b=([4], [4]), y=(infinite, infinite))
    assert first_divergence(graph, X, same, 1e-3) is None
    shapes = answers(a=(infinite, infinite), b=([4], [4, 1]), y=(infinite, infinite))
    found = first_divergence(graph, X, shapes, 1e-3)
    assert (found.node, found.difference) == ("shape", None)
    counts = answers(a=(infinite, infinite), b=([4], [5]), y=(infinite, infinite))
    assert first_divergence(graph, X, counts, 1e-3).node == "shape"
