"""What the probes found is kept as long as it holds, and decides the automatic choice."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_bundle import toy_answer
from wrong_backend import WrongBackend

from ldmpir_edge.bundle import LoadedVariant, Precision
from ldmpir_edge.errors import BackendError
from ldmpir_edge.runtimes import (
    Backend,
    choose_backend,
    conformance,
    cpu,
    doctor,
    examine,
    get_backend,
    load_engine,
    registry,
    select,
)
from ldmpir_edge.runtimes.onnxruntime_backend import OnnxRuntimeBackend


class SoundBackend(OnnxRuntimeBackend):
    """Another engine, so that there is one to fall back on."""

    def availability(self) -> Any:
        return dataclasses.replace(super().availability(), version="sound")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the outcomes are kept, empty at first."""
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "cache" / "conformance"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put backends in place of the registry."""

    def put(*backends: Backend) -> None:
        for module in (registry, select, doctor):
            monkeypatch.setattr(module, "BACKENDS", backends)

    return put


def _recall(backend: Backend) -> conformance.Conformance | None:
    return conformance.recall(backend, backend.availability())


def test_the_probes_run_once(folder: Path) -> None:
    backend = WrongBackend("Sigmoid(")
    found = _recall(backend)
    assert found is not None
    assert (found.n_operators - found.n_conforming, len(found.failures)) == (1, 1)
    n_loads = backend.n_loads
    assert n_loads > 0
    assert _recall(backend) == found
    assert backend.n_loads == n_loads
    assert len(list(folder.iterdir())) == 1
    # The doctor looks again.
    assert conformance.probe(backend, backend.availability()) == found
    assert backend.n_loads == 2 * n_loads


@pytest.mark.parametrize("change", ["version", "devices", "cpu", "probes", "damage"])
def test_what_no_longer_holds_is_found_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    backend = WrongBackend("Sigmoid(")
    _recall(backend)
    n_loads, state = backend.n_loads, backend.availability()
    if change in ("version", "devices"):
        state = dataclasses.replace(state, **{change: ("other",)})
    elif change == "cpu":
        (tmp_path / "cpuinfo").write_text("model name\t: Another\nflags\t\t: sse2\n\n")
        monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    elif change == "probes":
        (tmp_path / "probes.npz").write_bytes(b"others")
        monkeypatch.setattr(conformance, "ASSET", tmp_path / "probes.npz")
    else:
        (path,) = folder.iterdir()
        path.write_bytes(path.read_bytes().replace(b'"n_conforming": 1', b'"n_conforming": 9'))
    assert conformance.recall(backend, state) is not None
    assert backend.n_loads > n_loads


def test_a_cache_that_cannot_be_written_costs_only_time(folder: Path) -> None:
    folder.parent.write_text("in the way")
    backend = WrongBackend("Sigmoid(")
    assert _recall(backend) == _recall(backend)


def test_a_full_disk_costs_no_image(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with caplog.at_level(logging.INFO):
        assert _recall(OnnxRuntimeBackend()) is None
    assert "cannot check the operators of onnxruntime" in caplog.text


def test_the_reference_is_not_probed() -> None:
    torch = get_backend("torch")
    assert conformance.recall(torch, get_backend("onnxruntime").availability()) is None


def test_a_backend_that_miscomputes_is_avoided_and_it_says_why(
    install: Any, variant: LoadedVariant, caplog: pytest.LogCaptureFixture
) -> None:
    install(WrongBackend("Sigmoid("), SoundBackend())
    with caplog.at_level(logging.WARNING), load_engine(variant) as engine:
        assert "onnxruntime sound, the preferred engine" in engine.reason
        assert "miscomputes Sigmoid(float32 2-D) (the largest error is 1.0e-02" in engine.reason
        x1, mask = np.ones((1, 2, 4, 4), np.float32), np.ones((1, 4, 4), np.float32)
        image = engine.run({"x1": x1, "mask": mask})["image"]
        np.testing.assert_allclose(image, toy_answer(x1, mask))
    assert "miscomputes Sigmoid" in caplog.text


@pytest.mark.parametrize(
    ("operator", "avoided"),
    [
        ("Sigmoid(", {"fp32", "fp16", "int8"}),
        ("Cast(float32", {"fp16", "int8"}),
        ("int8 Conv(float32 4-D; kernel_shape=[2, 2]", {"int8"}),
        ("DFT(", set()),
        ("int8 Conv with all 8 bits", set()),
    ],
)
def test_only_variants_that_hold_the_operator_suffer(
    install: Any, operator: str, avoided: set[Precision]
) -> None:
    install(WrongBackend(operator, "unknown"), SoundBackend())
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    chosen = {p: choose_backend(precision=p)[1] for p in precisions}
    assert {p for p, reason in chosen.items() if reason.startswith("onnxruntime sound")} == avoided


def test_who_asks_for_it_by_name_gets_it(install: Any, variant: LoadedVariant) -> None:
    install(WrongBackend("Sigmoid("))
    with load_engine(variant, "onnxruntime") as engine:
        assert "as requested, although it miscomputes Sigmoid(float32 2-D)" in engine.reason


def test_many_faults_are_counted(install: Any) -> None:
    install(WrongBackend("Slice("), SoundBackend())
    assert "and 9 more operators, which `ldmpir-edge doctor` lists" in choose_backend()[1]


def test_where_none_is_sound_there_is_no_engine(install: Any, variant: LoadedVariant) -> None:
    install(WrongBackend("Sigmoid("))
    with pytest.raises(BackendError, match=r"no engine here is sound: onnxruntime .*--backend"):
        load_engine(variant)


def test_the_doctor_reports_it(install: Any) -> None:
    install(WrongBackend("Sigmoid("), SoundBackend())
    report = examine()
    wrong, sound = (entry.conformance for entry in report.backends)
    assert wrong is not None
    assert sound is not None
    assert [v.name for v in wrong.failures] == ["Sigmoid(float32 2-D)"]
    assert wrong.failures[0].error == pytest.approx(0.01, rel=1e-3)
    assert (sound.n_conforming, sound.failures) == (sound.n_operators, ())
    assert wrong.n_conforming == sound.n_conforming - 1
    assert "miscomputes Sigmoid" in report.choice.reason
    assert report.choice.reason.startswith("onnxruntime sound")
