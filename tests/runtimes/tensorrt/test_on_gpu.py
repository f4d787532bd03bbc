"""On a real GPU only: compile, run and compare. Skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_bundle import toy_answer, toy_files, toy_graph, toy_manifest

from ldmpir_edge.bundle import open_bundle, write_bundle
from ldmpir_edge.physics.problem import FAMILIES, Family
from ldmpir_edge.runtimes import get_backend
from ldmpir_edge.runtimes.tensorrt import TensorRtFamily
from ldmpir_edge.runtimes.tensorrt.hardware import why_no_gpu
from ldmpir_edge.runtimes.tensorrt.install import install_engines

pytestmark = pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu())


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def compiler(request: pytest.FixtureRequest) -> TensorRtFamily:
    backend = get_backend(request.param)
    assert isinstance(backend, TensorRtFamily)
    state = backend.availability()
    if not state.ok:
        pytest.skip(f"{backend.name}: {state.reason}")
    return backend


def test_the_toy_network_gives_its_answer_at_every_size(
    tmp_path: Path, compiler: TensorRtFamily, rng: np.random.Generator
) -> None:
    files = {**toy_files(), "graphs/pointwise-1-fp32.onnx": toy_graph()}
    write_bundle(tmp_path / "toy.ldmpir", toy_manifest(files), files)
    bundle = open_bundle(tmp_path / "toy.ldmpir")
    assert [e.origin for e in install_engines(bundle, compiler, ("fp32",), (1,))] == ["compiled"]
    with compiler.load(bundle.extract("pointwise", 1, "fp32")) as engine:
        for height, width in [(16, 16), (16, 16), (64, 48), (64, 48), (16, 16)]:
            given = {
                "x1": rng.standard_normal((1, 2, height, width), dtype=np.float32),
                "mask": rng.random((1, height, width), dtype=np.float32),
            }
            # A product in TF32 would be off by 1e-3.
            np.testing.assert_allclose(
                engine.run(given)["image"], toy_answer(**given), rtol=1e-5, atol=1e-5
            )


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-3), ("fp16", 2e-2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_shipped_model_replays_its_golden_pairs(
    compiler: TensorRtFamily, family: Family, precision: str, tolerance: float
) -> None:
    bundle = open_bundle("ldmpir-2m")
    list(install_engines(bundle, compiler, (precision,), (4,)))  # type: ignore[arg-type]
    golden = bundle.golden(family)
    with compiler.load(bundle.extract(family, 4, precision)) as engine:  # type: ignore[arg-type]
        for _ in range(2):
            image = engine.run(golden.inputs)["image"]
            np.testing.assert_allclose(image, golden.outputs["image"], atol=tolerance)
