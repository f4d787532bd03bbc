"""The package's probes are those of its bundles' operators."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the export extra is not installed")

from onnx import TensorProto, helper

from ldmpir_edge.bundle import packaged_bundles
from ldmpir_edge.export.operator_uses import uses
from ldmpir_edge.export.probes import make_probes
from ldmpir_edge.runtimes.probes import TOLERANCES, packaged_probes


def test_the_package_has_the_probes_of_its_bundles() -> None:
    """After a bundle with another operator: python -m ldmpir_edge.export.probes."""
    made = make_probes(sorted(packaged_bundles().values()))
    stored = packaged_probes()
    assert [probe.name for probe in made] == [probe.name for probe in stored]
    for new, old in zip(made, stored, strict=True):
        assert (new.precision, new.relied_on) == (old.precision, old.relied_on)
        assert (new.head, new.graph) == (old.head, old.graph), new.name
        for name, array in new.inputs.items():
            np.testing.assert_array_equal(array, old.inputs[name])
        for name, array in new.outputs.items():
            # Another NumPy may add up in another order; far less than what an engine may.
            tolerance = TOLERANCES[new.precision] / 10
            np.testing.assert_allclose(array, old.outputs[name], rtol=tolerance, atol=tolerance)


def test_uses_are_told_apart_by_what_an_engine_could_get_wrong() -> None:
    info = helper.make_tensor_value_info
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1),
        helper.make_node("Mul", ["x", "total"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "total"], ["twice"]),
        helper.make_node("Mul", ["total", "twice"], ["turned"]),
        helper.make_node("Mul", ["turned", "turned"], ["squared"]),
        helper.make_node("Cast", ["squared"], ["y"], to=TensorProto.FLOAT16),
    ]
    graph = helper.make_graph(
        nodes,
        "uses",
        [info("x", TensorProto.FLOAT, ["B", "H", "W"])],
        [info("y", TensorProto.FLOAT16, ["B", "H", "W"])],
        [axes],
    )
    opset = helper.make_opsetid("", 17)
    found = uses(helper.make_model(graph, opset_imports=[opset], ir_version=8))
    half, single = (TensorProto.FLOAT16, TensorProto.FLOAT)
    assert half not in {form[0] for use in found for form in use.inputs if form}
    assert {(use.op, use.inputs[0], use.axes, use.stretched) for use in found} == {
        ("ReduceSum", (single, 3), (1, 2), ()),
        ("Mul", (single, 3), (), ((), (-1, -2))),
        ("Mul", (single, 3), (), ((-1, -2), ())),
        ("Mul", (single, 3), (), ((), ())),
        ("Cast", (single, 3), (), ()),
    }
