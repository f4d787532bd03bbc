"""Compiled models between processes: the same image, from a sound file or from the graph."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_bundle import MIX, toy_answer, toy_files, toy_graph, toy_manifest

from ldmpir_edge.bundle import LoadedVariant, open_bundle, write_bundle
from ldmpir_edge.runtimes import cpu, get_backend, openvino_backend

openvino = pytest.importorskip("openvino", reason="openvino is not installed")

Inputs = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the compiled models go, empty at first."""
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "cache" / "compiled"


@pytest.fixture
def vouched(variant: LoadedVariant) -> LoadedVariant:
    """The toy variant as if it came from a bundle."""
    return dataclasses.replace(variant, content_sha256="0" * 64)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What OpenVINO is asked to do, in order."""
    noted: list[str] = []
    for name in ("read_model", "compile_model", "import_model"):
        original = getattr(openvino.Core, name)

        def spy(*args: Any, name: str = name, original: Any = original) -> Any:
            noted.append(name)
            return original(*args)

        monkeypatch.setattr(openvino.Core, name, spy)
    return noted


def _inputs(width: int = 6) -> Inputs:
    rng = np.random.default_rng(7)
    return {
        "x1": rng.standard_normal((1, 2, 4, width), dtype=np.float32),
        "mask": rng.random((1, 4, width), dtype=np.float32),
    }


def _image(variant: LoadedVariant, inputs: Inputs, threads: int | None = None) -> np.ndarray:
    with get_backend("openvino").load(variant, threads) as engine:
        return engine.run(inputs)["image"]


def test_the_second_process_neither_parses_nor_compiles(
    vouched: LoadedVariant, calls: list[str], folder: Path
) -> None:
    inputs = _inputs()
    first = _image(vouched, inputs)
    assert calls == ["read_model", "compile_model"]
    calls.clear()
    second = _image(vouched, inputs)
    assert calls == ["import_model"]
    np.testing.assert_array_equal(second, first)
    np.testing.assert_allclose(second, toy_answer(**inputs), rtol=1e-6)
    assert len(list(folder.iterdir())) == 1


def test_the_last_shapes_are_imported_when_the_engine_is_loaded(
    vouched: LoadedVariant, calls: list[str]
) -> None:
    backend = get_backend("openvino")
    for width in (6, 8):
        with backend.load(vouched, None) as engine:
            expected = engine.run(_inputs(width))
        calls.clear()
        with backend.load(vouched, None) as engine:
            assert calls == ["import_model"]
            for name, array in engine.run(_inputs(width)).items():
                np.testing.assert_array_equal(array, expected[name])
            # Nothing more was needed: these were the shapes.
            assert calls == ["import_model"]


def test_the_blob_holds_the_weights(vouched: LoadedVariant) -> None:
    inputs = _inputs()
    _image(vouched, inputs)
    vouched.graph.unlink()
    (vouched.graph.parent / "weights-fp32.bin").unlink()
    np.testing.assert_allclose(_image(vouched, inputs), toy_answer(**inputs), rtol=1e-6)


def test_an_imported_model_keeps_precision_and_threads(vouched: LoadedVariant) -> None:
    """Left to itself OpenVINO imports in bfloat16 where the CPU has it, and with all threads."""
    for _ in range(2):
        engine: Any = get_backend("openvino").load(vouched, 1)
        engine.run(_inputs())
        (compiled,) = engine._compiled.values()
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert engine._model is None, "the second model was not imported"


@pytest.mark.parametrize("damage", ["weight", "truncated", "format", "other secret"])
def test_a_damaged_blob_is_compiled_again(
    vouched: LoadedVariant, calls: list[str], folder: Path, tmp_path: Path, damage: str
) -> None:
    inputs = _inputs()
    _image(vouched, inputs)
    (path,) = folder.iterdir()
    sound = path.read_bytes()
    if damage == "weight":
        # OpenVINO itself loads this and gives a wrong image.
        position = sound.index(MIX.tobytes())
        path.write_bytes(sound[:position] + (9 * MIX).tobytes() + sound[position + MIX.nbytes :])
    elif damage == "truncated":
        path.write_bytes(sound[: len(sound) // 2])
    elif damage == "format":
        path.write_bytes(sound.replace(b"sealed 1", b"sealed 0", 1))
    else:
        (tmp_path / "config" / "ldmpir-edge" / "cache-seal.key").write_bytes(bytes(32))
    calls.clear()
    np.testing.assert_allclose(_image(vouched, inputs), toy_answer(**inputs), rtol=1e-6)
    assert calls == ["read_model", "compile_model"]
    calls.clear()
    _image(vouched, inputs)
    assert calls == ["import_model"], "the damaged file was not replaced"


def test_openvino_itself_loads_a_blob_with_other_weights(
    vouched: LoadedVariant, folder: Path
) -> None:
    """Why the seal is needed; once this fails, OpenVINO's own cache may do."""
    inputs = _inputs()
    _image(vouched, inputs)
    (path,) = folder.iterdir()
    blob = path.read_bytes()[48:]
    assert blob.count(MIX.tobytes()) == 1
    compiled = openvino.Core().import_model(
        blob.replace(MIX.tobytes(), (9 * MIX).tobytes()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    wrong = compiled(inputs)[0]
    clean = toy_answer(**inputs)
    assert np.abs(wrong - clean).max() > 1


def test_a_blob_that_openvino_refuses_is_compiled_again(
    vouched: LoadedVariant, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise RuntimeError("not my version")

    inputs = _inputs()
    _image(vouched, inputs)
    monkeypatch.setattr(openvino.Core, "import_model", refuse)
    calls.clear()
    np.testing.assert_allclose(_image(vouched, inputs), toy_answer(**inputs), rtol=1e-6)
    assert calls == ["read_model", "compile_model"]


def test_an_export_that_fails_costs_no_image(
    vouched: LoadedVariant, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise RuntimeError("not implemented")

    monkeypatch.setattr(openvino.CompiledModel, "export_model", refuse)
    inputs = _inputs()
    np.testing.assert_allclose(_image(vouched, inputs), toy_answer(**inputs), rtol=1e-6)
    assert not folder.exists()


def test_an_unwritable_cache_costs_no_image(vouched: LoadedVariant, folder: Path) -> None:
    folder.parent.write_text("in the way")
    inputs = _inputs()
    np.testing.assert_allclose(_image(vouched, inputs), toy_answer(**inputs), rtol=1e-6)


@pytest.mark.parametrize("change", ["content", "shape", "threads", "cpu", "openvino"])
def test_whatever_the_compiled_model_depends_on_makes_another_file(
    vouched: LoadedVariant,
    calls: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    _image(vouched, _inputs())
    calls.clear()
    inputs, threads = _inputs(), None
    if change == "content":
        vouched = dataclasses.replace(vouched, content_sha256="1" * 64)
    elif change == "shape":
        inputs = _inputs(width=8)
    elif change == "threads":
        threads = 1
    elif change == "cpu":
        (tmp_path / "cpuinfo").write_text("model name\t: Another\nflags\t\t: sse2\n\n")
        monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    else:
        versions = openvino.Core().get_versions("CPU")["CPU"]

        class Newer:
            build_number = versions.build_number + "-next"

        monkeypatch.setattr(openvino.Core, "get_versions", lambda core, device: {"CPU": Newer})
    image = _image(vouched, inputs, threads)
    # Where all but the shapes is as before, what those before needed is imported first.
    recalled = ["import_model"] if change == "shape" else []
    assert calls == [*recalled, "read_model", "compile_model"]
    assert len(list(folder.iterdir())) == 2
    np.testing.assert_allclose(image, toy_answer(**inputs), rtol=1e-6)


def test_files_that_no_bundle_vouches_for_are_not_kept(
    variant: LoadedVariant, folder: Path
) -> None:
    assert variant.content_sha256 is None
    _image(variant, _inputs())
    assert not folder.exists()


def test_a_bundle_vouches_for_graph_and_weights(tmp_path: Path) -> None:
    digests = set()
    for graph, mix in ((toy_graph(), MIX), (toy_graph(poison=0.5), MIX), (toy_graph(), 2 * MIX)):
        files = {
            **toy_files(),
            "graphs/pointwise-1-fp32.onnx": graph,
            "graphs/weights-fp32.bin": mix.tobytes(),
        }
        path = tmp_path / "toy.ldmpir"
        write_bundle(path, toy_manifest(files), files)
        digests.add(open_bundle(path).extract("pointwise", 1, "fp32").content_sha256)
    assert len(digests) == 3
    assert None not in digests


@pytest.mark.parametrize("fate", ["changed", "gone"])
def test_files_that_are_read_late_are_those_that_were_checked(
    tmp_path: Path, calls: list[str], fate: str
) -> None:
    path = tmp_path / "toy.ldmpir"
    files = toy_files() | {"graphs/pointwise-1-fp32.onnx": toy_graph()}
    write_bundle(path, toy_manifest(files), files)
    bundle = open_bundle(path)
    bundle.hold()
    path.unlink()
    variant = bundle.extract("pointwise", 1, "fp32")
    _image(variant, _inputs())
    with get_backend("openvino").load(variant) as engine:
        # The model compiled for these shapes is at hand, and the graph was not read so far.
        engine.run(_inputs())
        if fate == "changed":
            variant.graph.write_bytes(toy_graph(poison=0.5))
        else:
            shutil.rmtree(variant.graph.parent)
        calls.clear()
        inputs = _inputs(9)
        np.testing.assert_allclose(engine.run(inputs)["image"], toy_answer(**inputs), rtol=1e-6)
    assert calls == ["read_model", "compile_model"]


def test_the_cache_lies_where_the_user_says(vouched: LoadedVariant, folder: Path) -> None:
    _image(vouched, _inputs())
    secret = openvino_backend.seal_key_file()
    assert secret.is_relative_to(folder.parents[1] / "config")
    if os.name == "posix":
        assert secret.stat().st_mode & 0o777 == 0o600


TELEMETRY = """
import sys
import multiprocessing.process
def refuse(self):
    raise SystemExit("a process was started")
multiprocessing.process.BaseProcess.start = refuse
from ldmpir_edge.runtimes import get_backend
state = get_backend("openvino").availability()
assert state.ok, state.reason
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


def test_importing_openvino_does_not_call_home(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", TELEMETRY],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "intel").exists(), "openvino made its client id"


def test_a_second_shape_is_compiled_beside_an_imported_one(
    vouched: LoadedVariant, calls: list[str]
) -> None:
    _image(vouched, _inputs())
    calls.clear()
    with get_backend("openvino").load(vouched) as engine:
        for width in (6, 9):
            inputs = _inputs(width)
            image = engine.run(inputs)["image"]
            np.testing.assert_allclose(image, toy_answer(**inputs), rtol=1e-6)
    assert calls == ["import_model", "read_model", "compile_model"]
