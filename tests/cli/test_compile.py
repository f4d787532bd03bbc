"""`ldmpir-edge compile`: without a GPU one clear line, with one what was compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from command_line import ldmpir_edge

from ldmpir_edge.errors import BackendError
from ldmpir_edge.runtimes.tensorrt import TensorRtBackend, install
from ldmpir_edge.runtimes.tensorrt.hardware import why_no_gpu
from ldmpir_edge.runtimes.tensorrt.install import InstalledEngine

without_gpu = pytest.mark.skipif(not why_no_gpu(), reason="this machine has an NVIDIA GPU")


@without_gpu
@pytest.mark.parametrize("options", [(), ("--backend", "tensorrt_rtx"), ("--json",)])
def test_without_a_gpu_it_says_what_to_do(options: tuple[str, ...]) -> None:
    finished = ldmpir_edge("compile", "ldmpir-2m", *options)
    finished.assert_refused(40, "NVIDIA", "on the device", "ldmpir-edge export --target rtx")


@without_gpu
def test_run_says_so_too(scans: Any, tmp_path: Any) -> None:
    path, _ = scans["dicom"]
    finished = ldmpir_edge("run", path, "-o", tmp_path, "--backend", "tensorrt")
    finished.assert_refused(40, "tensorrt cannot run here: there is no NVIDIA GPU here")


def test_a_bundle_that_is_none_is_said_first() -> None:
    ldmpir_edge("compile", "absent.ldmpir").assert_refused(20, "absent.ldmpir")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command asks to be compiled, on a pretended device."""
    calls: list[Any] = []

    def choose(bundle: Any, requested: str | None) -> TensorRtBackend:
        calls.append(requested)
        return TensorRtBackend()

    def compile_all(
        bundle: Any, backend: Any, precisions: Any, n_steps: Any, on_progress: Any
    ) -> Iterator[InstalledEngine]:
        calls.append((list(precisions), list(n_steps)))
        on_progress("pointwise, 4 steps", 0.5)
        yield InstalledEngine("pointwise", n_steps[0], precisions[0], "compiled", 12.34, 16_000_000)
        if "int8" in precisions:
            raise BackendError("tensorrt cannot build rays.onnx: out of memory")

    monkeypatch.setattr(install, "choose_compiler", choose)
    monkeypatch.setattr(install, "install_engines", compile_all)
    return calls


def test_what_was_compiled_is_shown(asked: list[Any]) -> None:
    finished = ldmpir_edge("compile", "ldmpir-2m")
    assert finished.code == 0, finished.err
    assert asked == [None, (["fp32"], [4])]
    for word in ("pointwise", "compiled", "12.3", "16.0", "--precision fp32"):
        assert word in finished.out


def test_json_holds_the_same(asked: list[Any]) -> None:
    report = ldmpir_edge(
        "compile", "ldmpir-2m", "--backend", "tensorrt", "--json",
        "--precision", "fp16,fp32", "--steps", "8", "--steps", "1", "--steps", "8",
    ).report  # fmt: skip
    assert asked == ["tensorrt", (["fp16", "fp32"], [8, 1])]
    assert report == {
        "backend": "tensorrt",
        "engines": [
            {
                "family": "pointwise", "n_steps": 8, "precision": "fp16", "origin": "compiled",
                "seconds": 12.34, "size": 16_000_000,
            }
        ],
    }  # fmt: skip


def test_a_graph_that_cannot_be_built_is_one_line(asked: list[Any]) -> None:
    finished = ldmpir_edge("compile", "ldmpir-2m", "--precision", "fp16", "--precision", "int8")
    finished.assert_refused(40, "cannot build rays.onnx", "out of memory")
