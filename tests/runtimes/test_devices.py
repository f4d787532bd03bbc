"""Devices of the two libraries: execution providers of ONNX Runtime, and OpenVINO's."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_bundle import toy_answer

from ldmpir_edge.bundle import LoadedVariant
from ldmpir_edge.errors import BackendError, UsageError
from ldmpir_edge.runtimes import get_backend, load_engine, openvino_backend
from ldmpir_edge.runtimes.onnxruntime_providers import PROVIDERS

INPUTS = {
    "x1": np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4),
    "mask": np.ones((1, 4, 4), np.float32),
}
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
RTX = "NvTensorRTRTXExecutionProvider"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


class FakeLibrary:
    """ONNX Runtime with more providers: those in `broken` it replaces by the CPU's, silently.

    What a session computes, the real CPU provider computes; `opened` lists what was asked for.
    `failing` providers open but fail in every run.
    """

    __version__ = "9.9"

    def __init__(
        self, *present: str, broken: tuple[str, ...] = (), failing: tuple[str, ...] = ()
    ) -> None:
        self.real = importlib.import_module("onnxruntime")
        self.present = [*present, CPU]
        self.broken = broken
        self.failing = failing
        self.opened: list[dict[str, dict[str, str]]] = []
        self.registered: list[tuple[str, str]] = []
        self.plugin_devices = 1

    def get_available_providers(self) -> list[str]:
        return self.present

    def SessionOptions(self) -> Any:
        return types.SimpleNamespace(
            added=[], add_provider_for_devices=lambda devices, options: self._add(devices)
        )

    def _add(self, devices: list[Any]) -> None:
        self.opened.append({device.ep_name: {} for device in devices})

    def InferenceSession(
        self, graph: str, options: Any, *, enable_fallback: int, providers: Any = None
    ) -> Any:
        assert enable_fallback == 0
        if providers is not None:
            self.opened.append(dict(providers))
        wanted = list(self.opened[-1])
        used = [name for name in wanted if name not in self.broken] or [CPU]
        session = self.real.InferenceSession(graph, providers=[CPU])

        def run(names: list[str], inputs: Any) -> Any:
            if used[0] in self.failing:
                raise RuntimeError("out of memory")
            return session.run(names, inputs)

        return types.SimpleNamespace(
            get_providers=lambda: used, get_outputs=session.get_outputs, run=run
        )

    def register_execution_provider_library(self, name: str, path: str) -> None:
        assert (name, path) not in self.registered, "ONNX Runtime refuses a second time"
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[Any]:
        names = [name for name, _ in self.registered for _ in range(self.plugin_devices)]
        return [types.SimpleNamespace(ep_name=name) for name in [CPU, *names]]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a library in place of onnxruntime."""

    def put(library: FakeLibrary) -> FakeLibrary:
        monkeypatch.setitem(sys.modules, "onnxruntime", library)
        return library

    return put


def _image(variant: LoadedVariant, backend: str) -> tuple[str, np.ndarray]:
    with load_engine(variant, backend) as engine:
        return engine.backend, engine.run(INPUTS)["image"]


def test_on_a_machine_with_a_cpu_only_the_cpu_is_taken(variant: LoadedVariant) -> None:
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(variant.graph), providers=[CPU])
    (expected,) = session.run(None, INPUTS)
    for name in ("onnxruntime", "onnxruntime:cpu"):
        backend, image = _image(variant, name)
        assert backend == name
        np.testing.assert_array_equal(image, expected)
    assert [choice.name for choice in get_backend("onnxruntime").choices()] == ["onnxruntime"]
    assert get_backend("onnxruntime").availability().devices == ("cpu",)


def test_the_real_library_says_what_it_lacks(variant: LoadedVariant) -> None:
    onnxruntime = importlib.import_module("onnxruntime")
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has CUDA here")
    state = get_backend("onnxruntime:cuda").availability()
    assert not state.ok
    assert state.install_command == "pip install onnxruntime-gpu"
    with pytest.raises(BackendError, match=r"no CUDAExecutionProvider.*onnxruntime-gpu"):
        load_engine(variant, "onnxruntime:cuda")
    with pytest.raises(BackendError, match="no CUDAExecutionProvider"):
        get_backend("onnxruntime:cuda").load(variant)


def test_cuda_is_taken_where_it_is(install: Any, variant: LoadedVariant) -> None:
    library = install(FakeLibrary(CUDA))
    backend, image = _image(variant, "onnxruntime")
    assert backend == "onnxruntime:cuda"
    np.testing.assert_allclose(image, toy_answer(**INPUTS))
    # Not in TensorFloat-32, and with the CPU for what CUDA does not have.
    assert library.opened[-1] == {CUDA: {"use_tf32": "0"}, CPU: {}}
    assert list(library.opened[-1]) == [CUDA, CPU]


def test_a_provider_that_was_silently_replaced_is_noticed(
    install: Any, variant: LoadedVariant, caplog: pytest.LogCaptureFixture
) -> None:
    install(FakeLibrary(CUDA, broken=(CUDA,)))
    with caplog.at_level(logging.WARNING), load_engine(variant, "onnxruntime") as engine:
        assert engine.backend == "onnxruntime:cpu"
        assert "CUDAExecutionProvider could not be created" in engine.reason
        np.testing.assert_allclose(engine.run(INPUTS)["image"], toy_answer(**INPUTS))
    assert "CUDAExecutionProvider could not be created" in caplog.text
    # Who names it does not get another one.
    with pytest.raises(BackendError, match="CUDAExecutionProvider could not be created"):
        load_engine(variant, "onnxruntime:cuda")


def test_a_provider_that_fails_in_a_run_hands_over(
    install: Any, variant: LoadedVariant, caplog: pytest.LogCaptureFixture
) -> None:
    library = install(FakeLibrary(CUDA))
    with caplog.at_level(logging.WARNING), load_engine(variant, "onnxruntime") as engine:
        assert engine.backend == "onnxruntime:cuda"
        library.failing = (CUDA,)
        np.testing.assert_allclose(engine.run(INPUTS)["image"], toy_answer(**INPUTS))
        assert engine.backend == "onnxruntime:cpu"
        assert "onnxruntime:cuda failed: out of memory" in engine.reason
    assert "out of memory" in caplog.text


@pytest.mark.parametrize(
    ("device", "options"),
    [
        ("tensorrt", {}),
        ("openvino", {"device_type": "CPU", "precision": "FP32"}),
        ("cpu", {}),
    ],
)
def test_others_are_taken_by_name_only(
    install: Any, variant: LoadedVariant, device: str, options: dict[str, str]
) -> None:
    name = PROVIDERS[device].name
    library = install(FakeLibrary(*{name} - {CPU}))
    assert _image(variant, "onnxruntime")[0] == "onnxruntime"
    assert list(library.opened[-1]) == [CPU]
    assert _image(variant, f"onnxruntime:{device}")[0] == f"onnxruntime:{device}"
    assert next(iter(library.opened[-1].items())) == (name, options)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Install a package that brings a provider as a plugin."""
    (tmp_path / "onnxruntime_ep_nv_tensorrt_rtx.py").write_text(
        f"def get_ep_name():\n    return {RTX!r}\n\n"
        "def get_library_path():\n    return '/lib/rtx.so'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugin")
def test_a_plugin_is_registered_once(install: Any, variant: LoadedVariant) -> None:
    library = install(FakeLibrary())
    assert get_backend("onnxruntime").availability().devices == ("nvtensorrtrtx", "cpu")
    assert not library.registered, "only on use: it loads a GPU's libraries"
    for _ in range(2):
        backend, image = _image(variant, "onnxruntime:nvtensorrtrtx")
        assert backend == "onnxruntime:nvtensorrtrtx"
        np.testing.assert_allclose(image, toy_answer(**INPUTS))
        assert library.opened[-1] == {RTX: {}}
    assert library.registered == [(RTX, "/lib/rtx.so")]


@pytest.mark.usefixtures("plugin")
def test_a_plugin_without_its_device_is_refused(install: Any, variant: LoadedVariant) -> None:
    install(FakeLibrary()).plugin_devices = 0
    with pytest.raises(BackendError, match="NvTensorRTRTXExecutionProvider finds no device"):
        get_backend("onnxruntime:nvtensorrtrtx").load(variant)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnxruntime:rocm", "no provider 'rocm'; choose one of: cuda, tensorrt, nvtensorrtrtx"),
        ("onnxruntime:", "no provider ''"),
        ("openvino:AUTO", "takes one device, not 'AUTO'"),
        ("openvino:MULTI:GPU,CPU", "takes one device, not 'MULTI:GPU,CPU'"),
        ("openvino:HETERO:GPU,CPU", "takes one device"),
        ("openvino:gpu.one", "takes one device"),
        ("torch:cuda", "torch takes no device, but 'cuda' was given"),
        ("tensorflow:gpu", "no backend 'tensorflow:gpu'"),
    ],
)
def test_a_device_that_nobody_knows_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        get_backend(name)


def test_openvino_runs_on_the_cpu_that_was_named(variant: LoadedVariant) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    backend, image = _image(variant, "openvino:CPU")
    assert backend == "openvino:cpu"
    np.testing.assert_array_equal(image, _image(variant, "openvino")[1])


def test_openvino_lists_the_devices_it_sees(variant: LoadedVariant) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    if "NPU" in openvino.Core().available_devices:
        pytest.skip("there is an NPU here")
    assert (
        "OpenVINO sees no NPU here, only CPU" in get_backend("openvino:npu").availability().reason
    )
    with pytest.raises(BackendError, match="OpenVINO sees no NPU here, only CPU"):
        get_backend("openvino:npu").load(variant)


class FakeCore:
    """An OpenVINO that sees GPUs and an NPU, on each of which its CPU computes."""

    available_devices = ("CPU", "GPU.0", "GPU.1", "NPU")

    def __init__(self, core: Any) -> None:
        self.core = core
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def read_model(self, path: str) -> Any:
        return self.core.read_model(path)

    def compile_model(self, model: Any, device: str, properties: dict[str, Any]) -> Any:
        self.asked.append((device, properties))
        return self.core.compile_model(model, "CPU")


@pytest.mark.parametrize(
    ("name", "device", "precision", "hint"),
    [
        ("openvino", "CPU", "fp16", "f32"),
        ("openvino:gpu", "GPU", "fp32", "f32"),
        ("openvino:GPU.1", "GPU.1", "int8", "f32"),
        ("openvino:gpu.1", "GPU.1", "fp16", "dynamic"),
        ("openvino:npu", "NPU", "fp16", "dynamic"),
    ],
)
def test_openvino_is_told_device_precision_and_latency(
    variant: LoadedVariant,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    device: str,
    precision: Any,
    hint: str,
) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    core = FakeCore(openvino_backend._core(openvino))
    monkeypatch.setattr(openvino_backend, "_core", lambda library: core)
    with get_backend(name).load(dataclasses.replace(variant, precision=precision), 1) as engine:
        np.testing.assert_allclose(engine.run(INPUTS)["image"], toy_answer(**INPUTS))
    ((used, properties),) = core.asked
    assert used == device
    assert properties["INFERENCE_PRECISION_HINT"] == hint
    assert properties["PERFORMANCE_HINT"] == "LATENCY"
    assert ("INFERENCE_NUM_THREADS" in properties) == (device == "CPU")


def test_a_gpu_that_is_not_there_is_refused_by_its_number(
    variant: LoadedVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    core = FakeCore(openvino_backend._core(openvino))
    monkeypatch.setattr(openvino_backend, "_core", lambda library: core)
    with pytest.raises(BackendError, match=r"no GPU.2 here, only CPU, GPU.0, GPU.1, NPU"):
        get_backend("openvino:gpu.2").load(variant)
