"""Every content is stored once, and graphs find it beside them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from tiny_problems import tiny_problem

from ldmpir_edge.export.weight_pool import ALIGNMENT, MIN_BYTES, WeightPool, locations
from ldmpir_edge.physics.engine_input import engine_arrays


def with_tensors(**arrays):
    """A graph that only carries initialisers."""
    tensors = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    return onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], tensors))


def external(data):
    graph = onnx.load_from_string(data).graph
    return {
        t.name: {entry.key: entry.value for entry in t.external_data}
        for t in graph.initializer
        if t.data_location == onnx.TensorProto.EXTERNAL
    }


def test_equal_contents_share_their_bytes(rng):
    big, other = rng.random((2, 20, 10)).astype(np.float32)
    pool = WeightPool("w.bin")
    first = external(pool.externalise(with_tensors(a=big, b=big.copy(), c=other)))
    size = len(pool.to_bytes())
    second = external(pool.externalise(with_tensors(z=other.reshape(10, 20))))
    assert first["a"] == first["b"]
    assert second["z"] == first["c"]
    assert len(pool.to_bytes()) == size < 2 * big.nbytes + 2 * ALIGNMENT
    for name, values in (("a", big), ("c", other)):
        offset, length = int(first[name]["offset"]), int(first[name]["length"])
        assert offset % ALIGNMENT == 0
        assert pool.to_bytes()[offset : offset + length] == values.tobytes()
        assert first[name]["location"] == "w.bin"


def test_what_the_base_holds_is_not_stored_again(rng):
    old, new = rng.random((2, 20, 10)).astype(np.float32)
    base = WeightPool("base.bin")
    first = external(base.externalise(with_tensors(a=old)))
    pool = WeightPool("w.bin", base)
    data = pool.externalise(with_tensors(b=old, c=new))
    second = external(data)
    assert second["b"] == first["a"]
    assert second["c"]["location"] == "w.bin"
    assert pool.to_bytes() == new.tobytes()
    assert locations(data) == ["base.bin", "w.bin"]
    assert locations(base.externalise(with_tensors(a=old))) == ["base.bin"]


def test_small_constants_stay_in_the_graph():
    pool = WeightPool("w.bin")
    small = np.arange(MIN_BYTES // 8 - 1)
    data = pool.externalise(with_tensors(shape=small))
    assert external(data) == {}
    assert pool.to_bytes() == b""
    kept = onnx.load_from_string(data).graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(kept), small)


def test_layout_of_the_source_does_not_matter(rng):
    values = rng.random(200).astype(np.float32)
    raw = numpy_helper.from_array(values, "a")
    listed = onnx.helper.make_tensor("b", onnx.TensorProto.FLOAT, [200], values.tolist())
    assert raw.raw_data and listed.float_data
    model = with_tensors()
    model.graph.initializer.extend([raw, listed])
    where = external(WeightPool("w.bin").externalise(model))
    assert where["a"] == where["b"]


def test_the_graph_given_is_left_as_it_was(rng):
    model = with_tensors(a=rng.random(200))
    before = model.SerializeToString(deterministic=True)
    WeightPool("w.bin").externalise(model)
    assert model.SerializeToString(deterministic=True) == before


def test_graphs_run_from_disk_with_one_blob(traced, tmp_path):
    pool = WeightPool("w.bin")
    names = {}
    for n_steps in (1, 2):
        names[n_steps] = tmp_path / f"{n_steps}.onnx"
        names[n_steps].write_bytes(pool.externalise(traced("pointwise", n_steps)))
        if n_steps == 1:
            after_one = len(pool.to_bytes())
    (tmp_path / "w.bin").write_bytes(pool.to_bytes())
    # The second graph is the same network: its weights are there already.
    assert len(pool.to_bytes()) < 1.05 * after_one
    for n_steps, path in names.items():
        arrays = engine_arrays(tiny_problem("pointwise"), n_steps)
        providers = ["CPUExecutionProvider"]
        whole = ort.InferenceSession(
            traced("pointwise", n_steps).SerializeToString(), providers=providers
        )
        split = ort.InferenceSession(str(path), providers=providers)
        np.testing.assert_array_equal(split.run(None, arrays)[0], whole.run(None, arrays)[0])
        onnx.checker.check_model(str(path))
