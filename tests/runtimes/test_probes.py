"""The probes: their answers by other means, and that they find a fault and name it."""

from __future__ import annotations

import importlib.metadata
import re
import time
from collections import Counter

import numpy as np
import pytest
from wrong_backend import WrongBackend

from ldmpir_edge.runtimes import get_backend
from ldmpir_edge.runtimes.probes import (
    ASSET,
    Probe,
    pack_probes,
    packaged_probes,
    run_probes,
    unpack_probes,
)

CONV = "Conv(float32 4-D; kernel_shape=[6, 6], pads=[2, 2, 2, 2], strides=[2, 2])"
DFT = "DFT(float32 4-D; axis=2) of opset 20"
WIDE = "int8 Conv with all 8 bits of its kernel"


def _probe(name: str) -> Probe:
    (probe,) = (p for p in packaged_probes() if p.name == name)
    return probe


def _arrays(probe: Probe) -> tuple[list[np.ndarray], np.ndarray]:
    (expected,) = probe.outputs.values()
    return list(probe.inputs.values()), expected


def test_the_file_is_small_and_every_name_in_it_is_its_own() -> None:
    assert ASSET.stat().st_size < 200_000
    probes = packaged_probes()
    tensors = Counter(name for p in probes for name in (*p.inputs, *p.outputs))
    assert max(Counter(p.name for p in probes).values()) == 1
    assert max(tensors.values()) == 1
    assert {p.precision for p in probes if p.relied_on} == {"fp32", "fp16", "int8"}
    assert {p.name for p in probes if not p.relied_on} == {DFT, WIDE}


def test_packing_gives_back_what_it_was_given() -> None:
    packed = pack_probes(packaged_probes())
    assert packed == pack_probes(packaged_probes())
    for before, after in zip(packaged_probes(), unpack_probes(packed), strict=True):
        assert (before.name, before.head, before.graph) == (after.name, after.head, after.graph)
        for old, new in ((before.inputs, after.inputs), (before.outputs, after.outputs)):
            assert list(old) == list(new)
            for name, array in old.items():
                assert array.dtype == new[name].dtype
                np.testing.assert_array_equal(array, new[name])


def test_the_answers_are_right() -> None:
    """By NumPy and PyTorch: a probe with a wrong answer would condemn a sound engine."""
    (x, table), expected = _arrays(_probe("MatMul(float32 4-D, float32 2-D)"))
    np.testing.assert_allclose(expected, np.einsum("abij,jk->abik", x, table), rtol=1e-5, atol=1e-6)
    (x,), expected = _arrays(_probe("Slice(float32 4-D; axis=-1, step=-1, to the end)"))
    np.testing.assert_array_equal(expected, x[..., ::-1])
    (x,), expected = _arrays(_probe("ReduceSum(float32 4-D; keepdims=1, axes=[1, 2, 3])"))
    np.testing.assert_allclose(expected, x.sum((1, 2, 3), keepdims=True), rtol=1e-6)
    (x,), expected = _arrays(_probe(DFT))
    transformed = np.fft.fft(x[..., 0] + 1j * x[..., 1], axis=2)
    np.testing.assert_allclose(expected[..., 0] + 1j * expected[..., 1], transformed, atol=1e-5)


def test_the_convolutions_answer_is_pytorchs() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    probe = _probe(CONV)
    (x,), expected = _arrays(probe)
    graph = onnx.load_from_string(probe.head + probe.graph).graph
    kernel, bias = (onnx.numpy_helper.to_array(tensor).copy() for tensor in graph.initializer)
    ours = torch.nn.functional.conv2d(*map(torch.tensor, (x, kernel, bias)), stride=2, padding=2)
    np.testing.assert_allclose(expected, ours.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_engines_conform_in_all_that_we_rely_on(name: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    get_backend(name).availability()  # imports it
    started = time.process_time()
    verdicts = run_probes(get_backend(name))
    assert time.process_time() - started < 10, "a run must not wait long for its first image"
    assert [v.name for v in verdicts] == [p.name for p in packaged_probes()]
    assert not [(v.name, v.reason) for v in verdicts if v.relied_on and v.reason]


def test_openvinos_dft_is_caught() -> None:
    """A real miscomputation, silent without the probes; see REFERENCE.md, section 1."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    if not importlib.metadata.version("openvino").startswith("2026.4"):
        pytest.skip("it was OpenVINO 2026.4 that reads DFT's axis as an attribute")
    (verdict,) = run_probes(get_backend("openvino"), [_probe(DFT)])
    assert verdict.error is not None
    assert verdict.error > 0.1
    assert "the largest error is" in verdict.reason
    (sound,) = run_probes(get_backend("onnxruntime"), [_probe(DFT)])
    assert not sound.reason


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("value", r"the largest error is 1.0e-02 \(1e-05 allowed\)"),
        ("nan", "gave NaN or infinity"),
        ("shape", "gave a wrong shape"),
        ("dtype", "as float64, not float32"),
        ("unknown", "unknown operator"),
    ],
)
def test_the_one_that_is_wrong_is_named(fault: str, reason: str) -> None:
    verdicts = run_probes(WrongBackend("Sigmoid(", fault))
    (failed,) = (verdict for verdict in verdicts if verdict.reason)
    assert failed.name == "Sigmoid(float32 2-D)"
    assert failed.relied_on
    assert re.search(reason, failed.reason)
    assert len(verdicts) == len(packaged_probes())
