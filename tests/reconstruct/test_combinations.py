"""What is compared, in which order: the first combination is the reference of the others."""

from __future__ import annotations

import pytest
from replayable_bundle import write_replayable
from toy_bundle import MIX

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.errors import BundleError, UsageError
from ldmpir_edge.reconstruct.combinations import list_combinations
from ldmpir_edge.runtimes import BACKENDS, get_backend


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "toy.ldmpir"
    return open_bundle(write_replayable(path, int8=MIX, fp16=MIX, fp32=MIX))


def listed(*arguments):
    return [str(combination) for combination in list_combinations(*arguments)]


def test_fp32_on_the_preferred_engine_comes_first(three):
    here = [backend.name for backend in BACKENDS if backend.availability().ok]
    graphs = [name for name in here if name != "torch"]
    assert listed(three) == [
        *(f"{name} fp32" for name in here),
        *(f"{name} int8" for name in graphs),
        *(f"{name} fp16" for name in graphs),
    ]


def test_what_is_named_keeps_its_order(three):
    assert listed(three, ["onnxruntime", "openvino", "onnxruntime"], ["int8", "fp32"]) == [
        "onnxruntime int8",
        "openvino int8",
        "onnxruntime fp32",
        "openvino fp32",
    ]


def test_an_engine_is_asked_on_each_device_that_it_would_take(three, monkeypatch):
    monkeypatch.setattr(
        type(get_backend("openvino")), "choices", lambda self: (self.on("cpu"), self.on("gpu"))
    )
    assert listed(three, [], ["fp16"])[:2] == ["openvino:cpu fp16", "openvino:gpu fp16"]
    assert listed(three, ["openvino:npu"], ["fp16"]) == ["openvino:npu fp16"]


def test_a_named_engine_need_not_be_installed(three, monkeypatch):
    monkeypatch.setattr("ldmpir_edge.runtimes.openvino_backend.OpenVinoBackend.name", "absent")
    assert listed(three, ["absent"], ["fp32"]) == ["absent fp32"]
    assert "absent fp32" not in listed(three)


def test_what_there_is_not_is_refused(three):
    with pytest.raises(UsageError, match="tensorflow"):
        list_combinations(three, ["tensorflow"])
    with pytest.raises(BundleError, match="int4; it holds fp32, int8, fp16"):
        list_combinations(three, [], ["int4"])
    with pytest.raises(UsageError, match="torch does not take int8, fp16"):
        list_combinations(three, ["torch"], ["int8", "fp16"])
