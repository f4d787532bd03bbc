"""The choice of a backend and the way on when one fails, with scripted backends."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import numpy as np
import pytest

from ldmpir_edge.bundle import LoadedVariant
from ldmpir_edge.errors import BackendError, MissingExtraError, ScanDataError, UsageError
from ldmpir_edge.runtimes import Backend, Engine, choose_backend, get_backend, load_engine, select

INPUTS = {
    "x1": np.ones((1, 2, 4, 4), np.float32),
    "mask": np.ones((1, 4, 4), np.float32),
}


class ScriptedEngine(Engine):
    """Answers the constant `value`; raises it if it is an exception."""

    def __init__(self, name: str, variant: LoadedVariant, value: float | Exception) -> None:
        super().__init__(name, variant)
        self.value = value
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.value, Exception):
            raise self.value
        return {"image": np.full_like(inputs["x1"], self.value)}


class ScriptedBackend(Backend):
    """`missing` plays an absent library; `load_error` a refusal; `value` is what engines give."""

    extra = "openvino"
    runs_graphs = False  # nothing to probe

    def __init__(
        self,
        name: str,
        value: float | Exception = 0.0,
        *,
        missing: bool = False,
        load_error: Exception | None = None,
    ) -> None:
        self.value = value
        self.missing = missing
        self.load_error = load_error
        self.engines: list[ScriptedEngine] = []
        self.name = name  # type: ignore[misc]

    def _import(self) -> Any:
        if self.missing:
            raise MissingExtraError(f"the {self.name} backend", "openvino")
        return type("Library", (), {"__version__": "9.9"})

    def _devices(self, library: Any) -> tuple[str, ...]:
        return ("CPU",)

    def _load(self, library: Any, variant: LoadedVariant, threads: int | None) -> Engine:
        if self.load_error is not None:
            raise self.load_error
        self.engines.append(ScriptedEngine(self.name, variant, self.value))
        return self.engines[-1]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put scripted backends in place of the registry."""
    from ldmpir_edge.runtimes import registry

    def put(*backends: Backend) -> None:
        monkeypatch.setattr(registry, "BACKENDS", backends)
        monkeypatch.setattr(select, "BACKENDS", backends)

    return put


def test_the_first_that_can_run_is_chosen_and_says_why(install: Any) -> None:
    install(ScriptedBackend("fast", missing=True), ScriptedBackend("plain"))
    backend, reason = choose_backend()
    assert backend.name == "plain"
    assert reason == (
        "plain 9.9, the preferred engine installed; "
        "fast is not installed: pip install 'ldmpir-edge[openvino]'"
    )


def test_a_request_is_honoured_or_refused(install: Any) -> None:
    install(ScriptedBackend("fast"), ScriptedBackend("plain"), ScriptedBackend("x", missing=True))
    backend, reason = choose_backend("plain")
    assert (backend.name, reason) == ("plain", "plain 9.9, as requested")
    with pytest.raises(MissingExtraError, match=r"pip install 'ldmpir-edge\[openvino\]'"):
        choose_backend("x")
    with pytest.raises(UsageError, match="choose one of: fast, plain, x"):
        choose_backend("tensorflow")


def test_nothing_installed_says_what_to_install(install: Any) -> None:
    install(ScriptedBackend("fast", missing=True))
    with pytest.raises(BackendError, match="pip install onnxruntime"):
        choose_backend()


def test_a_backend_that_cannot_load_is_passed_over(
    install: Any, variant: LoadedVariant, caplog: pytest.LogCaptureFixture
) -> None:
    install(ScriptedBackend("fast", load_error=RuntimeError("no such\nop")), ScriptedBackend("b"))
    with caplog.at_level(logging.WARNING), load_engine(variant) as engine:
        assert engine.backend == "b"
        assert "fast cannot load toy.onnx: no such op" in engine.reason
    assert "no such op" in caplog.text


def test_a_backend_that_fails_in_a_run_hands_over(
    install: Any, variant: LoadedVariant, caplog: pytest.LogCaptureFixture
) -> None:
    broken, absent = ScriptedBackend("a", RuntimeError("boom")), ScriptedBackend("m", missing=True)
    poisoned, sound = ScriptedBackend("b", np.nan), ScriptedBackend("c", 7.0)
    install(broken, absent, poisoned, sound)
    with caplog.at_level(logging.WARNING), load_engine(variant) as engine:
        assert engine.backend == "a"
        assert (engine.run(INPUTS)["image"] == 7.0).all()
        assert engine.backend == "c"
    assert "a failed: boom" in engine.reason
    assert "b gave NaN" in engine.reason
    assert "using c" in caplog.text
    assert all(backend.engines[0].closed for backend in (broken, poisoned, sound))


def test_who_takes_over_is_vetted_before_its_first_image(
    install: Any, variant: LoadedVariant
) -> None:
    first, wrong, right = (
        ScriptedBackend("a", RuntimeError("boom")),
        ScriptedBackend("b", 6.0),
        ScriptedBackend("c", 7.0),
    )
    install(first, wrong, right)
    seen = []

    def vet(engine: Engine) -> None:
        seen.append(engine.backend)
        if not (engine.run(INPUTS)["image"] == 7.0).all():
            raise BackendError(f"{engine.backend} gives another image")

    with load_engine(variant) as engine:
        engine.vet = vet
        assert (engine.run(INPUTS)["image"] == 7.0).all()
        assert "b gives another image" in engine.reason
    assert seen == ["b", "c"]
    assert wrong.engines[0].closed


def test_the_last_engine_survives_its_failure(install: Any, variant: LoadedVariant) -> None:
    only = ScriptedBackend("only", RuntimeError("boom"))
    install(only)
    with load_engine(variant) as engine:
        for _ in range(3):
            with pytest.raises(BackendError, match="only failed: boom"):
                engine.run(INPUTS)
        only.engines[0].value = 5.0
        assert (engine.run(INPUTS)["image"] == 5.0).all()


def test_a_request_is_not_replaced_behind_the_users_back(
    install: Any, variant: LoadedVariant
) -> None:
    install(ScriptedBackend("a", RuntimeError("boom")), ScriptedBackend("b", 7.0))
    with load_engine(variant, "a") as engine, pytest.raises(BackendError, match="a failed: boom"):
        engine.run(INPUTS)


def test_a_bad_scan_is_not_retried(install: Any, variant: LoadedVariant) -> None:
    first, second = ScriptedBackend("a", np.nan), ScriptedBackend("b", 7.0)
    install(first, second)
    bad = {**INPUTS, "x1": np.full_like(INPUTS["x1"], np.nan)}
    with load_engine(variant) as engine, pytest.raises(ScanDataError):
        engine.run(bad)
    assert not second.engines


def test_when_all_fail_every_reason_is_given(install: Any, variant: LoadedVariant) -> None:
    install(
        ScriptedBackend("a", load_error=RuntimeError("one")),
        ScriptedBackend("b", load_error=RuntimeError("two")),
    )
    with pytest.raises(BackendError, match=r"a cannot load .*one.*b cannot load .*two"):
        load_engine(variant)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("openvino", "pip install 'ldmpir-edge[openvino]'"),
        ("onnxruntime", "pip install onnxruntime"),
        ("torch", "pip install 'ldmpir-edge[export]'"),
    ],
)
def test_an_absent_library_names_its_command(
    name: str, command: str, variant: LoadedVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(module: str) -> Any:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(importlib, "import_module", absent)
    backend = get_backend(name)
    state = backend.availability()
    assert not state.ok
    assert state.install_command == command
    with pytest.raises((MissingExtraError, BackendError)) as caught:
        backend.load(variant)
    assert command in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_library_is_told_from_an_absent_one(
    variant: LoadedVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: str) -> Any:
        raise ImportError("libtbb.so.12: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert "libtbb" in get_backend("openvino").availability().reason
    with pytest.raises(BackendError, match=r"libtbb.*reinstall it: pip install"):
        get_backend("openvino").load(variant)
