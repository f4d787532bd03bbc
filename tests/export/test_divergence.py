"""The node that was tampered with is the one that is found."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.export import divergence
from ldmpir_edge.export.divergence import TOLERANCES, compare_layers, find_divergences
from ldmpir_edge.runtimes.onnxruntime_backend import OnnxRuntimeBackend

FAMILY = "pointwise"


class Tampered(OnnxRuntimeBackend):
    """ONNX Runtime that reads one weight of every graph wrongly."""

    def __init__(self, weight, change):
        self.weight, self.change = weight, change

    def _load(self, library, variant, threads):
        graph = onnx.load(variant.graph)
        for tensor in graph.graph.initializer:
            if tensor.name == self.weight:
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
    late = convolutions[len(convolutions) // 2]  # of four steps
    kernels = list(dict.fromkeys(node.input[1] for node in convolutions))
    return [late.input[2], kernels[0], kernels[len(kernels) // 2], kernels[-1]]


def changed(graph, weight):
    """What the convolutions of that weight are called, in the graph's order."""
    return [(node.name, "Conv", node.output[0]) for node in users(graph, weight)]


def listed(found):
    return [(divergence.node, divergence.op_type, divergence.value) for divergence in found]


@pytest.mark.parametrize("which", range(4))
def test_the_tampered_node_is_found_and_no_other(shipped, graph, tamper, which):
    weight = chosen_weights(graph)[which]

    def change(values):
        values.flat[values.size // 2] += 0.5 * np.abs(values).max()
        return values

    tamper(weight, change)
    found = compare_layers(shipped, FAMILY, "fp32", ("sound", "tampered"))
    # A kernel is used in every step; what lies behind it does not inherit the fault.
    assert listed(found) == changed(graph, weight)
    assert all(divergence.difference > TOLERANCES["fp32"] for divergence in found)


def test_nan_in_one_engine_is_a_divergence(shipped, graph, tamper):
    weight = chosen_weights(graph)[2]
    tamper(weight, lambda values: values * np.nan)
    found = compare_layers(shipped, FAMILY, "fp32", ("sound", "tampered"))
    assert listed(found) == changed(graph, weight)
    assert all(divergence.difference is None for divergence in found)


def test_the_graph_may_be_looked_at_in_parts(shipped, graph, tamper, monkeypatch):
    weight = chosen_weights(graph)[2]
    monkeypatch.setattr(divergence, "BATCH", 90)
    tamper(weight, lambda values: 1.5 * values)
    seen = []
    found = compare_layers(
        shipped, FAMILY, "fp32", ("sound", "tampered"), lambda *step: seen.append(step)
    )
    assert listed(found) == changed(graph, weight)
    n_nodes = len(graph.graph.node)
    parts = [*range(90, n_nodes, 90), n_nodes]
    assert [done for done, _ in seen] == [*parts, *(n_nodes + part for part in parts)]
    assert {total for _, total in seen} == {2 * n_nodes}


@pytest.mark.parametrize(("family", "precision"), [("pointwise", "fp16"), ("rays", "fp32")])
def test_two_sound_engines_agree_everywhere(shipped, family, precision):
    assert compare_layers(shipped, family, precision, ("openvino", "onnxruntime")) == []


def toy(*nodes, weights=()):
    info = onnx.helper.make_tensor_value_info
    inputs = [info("x", onnx.TensorProto.FLOAT, [4])]
    outputs = [info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)]
    graph = onnx.helper.make_graph(list(nodes), "toy", inputs, outputs, list(weights))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])


def node(op_type, inputs, output):
    return onnx.helper.make_node(op_type, inputs.split(), [output], name=op_type.lower())


X = {"x": np.array([1.0, 2.0, 3.0, 4.0], np.float32)}


def reference(graph, inputs):
    """Run a graph by ONNX's own evaluator."""
    names = [output.name for output in graph.graph.output]
    return dict(zip(names, ReferenceEvaluator(graph).run(names, dict(inputs)), strict=True))


def replacing(**answers):
    """A runner that answers some values of its own."""
    return lambda graph, inputs: {
        name: np.asarray(answers.get(name, array))
        for name, array in reference(graph, inputs).items()
    }


def find(graph, second, tolerance=1e-3):
    return [d.node for d in find_divergences(graph, X, (reference, second), tolerance)]


def test_shapes_are_computed_and_numbers_are_given():
    graph = toy(node("Log", "x", "a"), node("Shape", "a", "b"), node("Reshape", "a b", "y"))
    fed = []

    def watching(graph, inputs):
        fed.append(set(inputs))
        return reference(graph, inputs)

    assert find(graph, watching) == []
    assert fed == [{"x_given", "a_given"}]
    assert find(graph, replacing(b=[5])) == ["shape"]
    assert find(graph, replacing(y=np.zeros((4, 1)))) == ["reshape"]


def test_equal_infinities_are_no_divergence():
    graph = toy(node("Sub", "x x", "a"), node("Log", "a", "b"), node("Sqrt", "b", "y"))
    with np.errstate(all="ignore"):
        assert find(graph, reference) == []
        assert find(graph, replacing(b=np.zeros(4))) == ["log"]


def test_numbers_between_two_levels_may_go_to_either():
    def make(name, values, kind):
        return numpy_helper.from_array(np.asarray(values, kind), name)

    graph = toy(
        node("QuantizeLinear", "x scale zero", "q"),
        node("DequantizeLinear", "q scale zero", "y"),
        weights=[make("scale", 1.0, np.float32), make("zero", 0, np.int8)],
    )
    assert find(graph, replacing(q=np.array([1, 2, 3, 5], np.int8))) == []
    assert find(graph, replacing(q=np.array([1, 2, 3, 6], np.int8))) == ["quantizelinear"]
    fed = []

    def watching(graph, inputs):
        fed.append(set(inputs))
        return reference(graph, inputs)

    find(graph, watching)
    assert fed == [{"x_given", "q_given"}]
