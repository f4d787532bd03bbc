"""Both ONNX backends on toy graphs with known answers, and on graphs that misbehave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_bundle
from toy_bundle import toy_answer, toy_files, toy_graph, toy_manifest, toy_variant

from ldmpir_edge.bundle import LoadedVariant, TensorSpec, open_bundle, write_bundle
from ldmpir_edge.errors import BackendError, ScanDataError, ShapeError, UsageError
from ldmpir_edge.runtimes import Backend, Engine, get_backend
from ldmpir_edge.runtimes.openvino_backend import MAX_COMPILED

Inputs = dict[str, np.ndarray]


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest) -> Backend:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return get_backend(request.param)


def _inputs(rng: np.random.Generator, batch: int = 1, height: int = 4, width: int = 6) -> Inputs:
    return {
        "x1": rng.standard_normal((batch, 2, height, width), dtype=np.float32),
        "mask": rng.random((batch, height, width), dtype=np.float32),
    }


@pytest.mark.parametrize("threads", [None, 1])
def test_the_answer_is_right_at_every_size(
    backend: Backend, variant: LoadedVariant, rng: np.random.Generator, threads: int | None
) -> None:
    with backend.load(variant, threads) as engine:
        # More shapes than OpenVINO keeps compiled, and back to the first.
        for shape in [(1, 4, 6), (2, 16, 16), (1, 5, 7), (3, 8, 8), (1, 32, 16), (1, 4, 6)]:
            inputs = _inputs(rng, *shape)
            image = engine.run(inputs)["image"]
            np.testing.assert_allclose(image, toy_answer(**inputs), rtol=1e-6)
            assert image.dtype == np.float32


def test_results_stay_when_the_engine_runs_again(
    backend: Backend, variant: LoadedVariant, rng: np.random.Generator
) -> None:
    with backend.load(variant) as engine:
        inputs = _inputs(rng)
        first = engine.run(inputs)["image"]
        engine.run(_inputs(rng))
        np.testing.assert_allclose(first, toy_answer(**inputs), rtol=1e-6)


def test_strided_inputs_are_taken(
    backend: Backend, variant: LoadedVariant, rng: np.random.Generator
) -> None:
    inputs = _inputs(rng, 1, 8, 8)
    turned = {name: array.swapaxes(-1, -2) for name, array in inputs.items()}
    assert not turned["x1"].flags.c_contiguous
    with backend.load(variant) as engine:
        np.testing.assert_allclose(engine.run(turned)["image"], toy_answer(**turned), rtol=1e-6)


def test_from_bundle_to_image_through_the_cache(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden pair comes out of an engine that was loaded from one file."""
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    files = {**toy_files(), "graphs/pointwise-1-fp32.onnx": toy_graph()}
    write_bundle(tmp_path / "toy.ldmpir", toy_manifest(files), files)
    bundle = open_bundle(tmp_path / "toy.ldmpir")
    golden = bundle.golden("pointwise")
    with backend.load(bundle.extract("pointwise", 1, "fp32")) as engine:
        np.testing.assert_allclose(engine.run(golden.inputs)["image"], golden.outputs["image"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mask": None}, UsageError, r"also needs \['mask'\]"),
        ({"mask": np.zeros((1, 4, 6))}, UsageError, "'mask' is float64; the engine takes float32"),
        ({"mask": np.zeros((4, 6), np.float32)}, ShapeError, r"must have 3 axes \(B, H, W\)"),
        ({"mask": np.zeros((1, 6, 4), np.float32)}, ShapeError, "H would be 6, but it is 4"),
        ({"mask": np.zeros((2, 4, 6), np.float32)}, ShapeError, "B would be 2, but it is 1"),
        ({"x1": np.zeros((1, 3, 4, 6), np.float32)}, ShapeError, r"must be \(B, 2, H, W\)"),
    ],
)
def test_wrong_inputs_are_named(
    backend: Backend,
    variant: LoadedVariant,
    rng: np.random.Generator,
    change: dict[str, np.ndarray | None],
    error: type[Exception],
    message: str,
) -> None:
    given = _inputs(rng) | change
    inputs = {name: array for name, array in given.items() if array is not None}
    with backend.load(variant) as engine, pytest.raises(error, match=message):
        engine.run(inputs)


def test_a_table_that_an_older_bundle_has_no_input_for_is_left_out(
    backend: Backend, variant: LoadedVariant, rng: np.random.Generator
) -> None:
    given = _inputs(rng)
    with backend.load(variant) as engine:
        alone = engine.run(given)["image"]
        beside = engine.run(given | {"density": np.full((1, 2, 3), np.nan, np.float32)})["image"]
    np.testing.assert_array_equal(alone, beside)


def test_nan_from_the_engine_is_an_error(
    backend: Backend, tmp_path: Path, rng: np.random.Generator
) -> None:
    with backend.load(toy_variant(tmp_path, toy_graph(poison=0.5))) as engine:
        inputs = _inputs(rng)
        inputs["mask"][:] = 1.0
        assert np.isfinite(engine.run(inputs)["image"]).all()
        inputs["mask"][0, 2, 3] = 0.0
        with pytest.raises(BackendError, match=f"{backend.name} gave NaN or infinity in 'image'"):
            engine.run(inputs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_the_scan_is_the_scans_fault(
    backend: Backend, variant: LoadedVariant, rng: np.random.Generator, value: float
) -> None:
    inputs = _inputs(rng)
    inputs["x1"][0, 0, 0, 0] = value
    with backend.load(variant) as engine, pytest.raises(ScanDataError, match="'x1' holds NaN"):
        engine.run(inputs)


def _spec(name: str, dtype: str, *shape: int | str) -> tuple[TensorSpec, ...]:
    return (TensorSpec.model_validate({"name": name, "dtype": dtype, "shape": shape}),)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (_spec("picture", "float32", "B", 2, "H", "W"), r"gave \['image'\] in place of"),
        (_spec("image", "float16", "B", 2, "H", "W"), "as float32, not float16"),
        (_spec("image", "float32", "B", 2, "W", "H"), "gave a wrong shape"),
        (_spec("image", "float32", "B", "H", "W"), "gave a wrong shape"),
    ],
)
def test_an_output_that_the_manifest_does_not_promise_is_refused(
    backend: Backend,
    tmp_path: Path,
    rng: np.random.Generator,
    outputs: tuple[TensorSpec, ...],
    message: str,
) -> None:
    with (
        backend.load(toy_variant(tmp_path, outputs=outputs)) as engine,
        pytest.raises(BackendError, match=message),
    ):
        engine.run(_inputs(rng))


def test_a_graph_that_is_none_is_one_clear_line(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=f"{backend.name} cannot load toy.onnx") as caught:
        backend.load(toy_variant(tmp_path, b"not a graph"))
    assert "\n" not in str(caught.value)


def test_missing_weights_are_an_error(backend: Backend, variant: LoadedVariant) -> None:
    (variant.graph.parent / "weights-fp32.bin").unlink()
    with pytest.raises(BackendError, match="cannot load"):
        backend.load(variant)


class _Pedantic(Engine):
    """Notes whether its inputs are laid out as the contract promises."""

    contiguous: bool | None = None

    def close(self) -> None: ...

    def _run(self, inputs: Inputs) -> Inputs:
        self.contiguous = all(array.flags.c_contiguous for array in inputs.values())
        return {"image": toy_answer(**inputs)}


def test_backends_are_given_contiguous_arrays(
    variant: LoadedVariant, rng: np.random.Generator
) -> None:
    engine = _Pedantic("pedantic", variant)
    engine.run({name: array.swapaxes(-1, -2) for name, array in _inputs(rng).items()})
    assert engine.contiguous


def test_openvino_is_told_the_precision_and_trusts_no_file_on_disk(
    variant: LoadedVariant, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the call: on a CPU without half precision the compiled model shows no difference."""
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    told: list[dict[str, str]] = []
    compile_model = openvino.Core.compile_model

    def spy(core: object, model: object, device: str, properties: dict[str, str]) -> object:
        told.append(properties)
        return compile_model(core, model, device, properties)

    monkeypatch.setattr(openvino.Core, "compile_model", spy)
    with get_backend("openvino").load(variant) as engine:
        engine.run(_inputs(rng))
    assert told[0]["INFERENCE_PRECISION_HINT"] == "f32"
    assert "CACHE_DIR" not in told[0]


def test_openvino_keeps_few_static_shapes(variant: LoadedVariant, rng: np.random.Generator) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    engine: Engine = get_backend("openvino").load(variant)
    for width in range(1, MAX_COMPILED + 3):
        engine.run(_inputs(rng, 1, 2, width))
    kept = list(engine._compiled.values())  # type: ignore[attr-defined]
    assert [model.input("mask").shape[2] for model in kept] == list(range(3, MAX_COMPILED + 3))
    assert not kept[0].input("mask").partial_shape.is_dynamic


SIGNAL_AFTER_ENGINES = """
import os, signal, sys
from pathlib import Path
import numpy as np
from toy_bundle import toy_variant
from ldmpir_edge.runtimes import get_backend
variant = toy_variant(Path(sys.argv[1]))
first, second = (get_backend("openvino").load(variant, 1) for _ in range(2))
for engine in (first, second):
    engine.run({"x1": np.ones((1, 2, 4, 4), "f"), "mask": np.ones((1, 4, 4), "f")})
del engine, first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")
def test_a_signal_is_survived_after_two_openvino_engines(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    support = str(Path(toy_bundle.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_AFTER_ENGINES, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([support, *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
