"""The run path on a pretended GPU: shapes, memory, recorded graphs and faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import PLAN, WORKSPACE_PER_PIXEL, FakeCuda, FakeLibrary, Fault
from toy_bundle import toy_answer, toy_variant

from ldmpir_edge.errors import BackendError
from ldmpir_edge.runtimes.tensorrt.engine import TensorRtEngine

Inputs = dict[str, np.ndarray]


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


def load(tmp_path: Path, cuda: FakeCuda, plan: bytes = PLAN, **options: Any) -> TensorRtEngine:
    library = options.pop("library", None) or FakeLibrary(cuda)
    return TensorRtEngine(library.__name__, toy_variant(tmp_path), library, cuda, plan, **options)


def inputs(rng: np.random.Generator, height: int = 8, width: int = 6) -> Inputs:
    return {
        "x1": rng.standard_normal((1, 2, height, width), dtype=np.float32),
        "mask": rng.random((1, height, width), dtype=np.float32),
    }


@pytest.mark.parametrize("rtx", [False, True])
def test_every_run_gives_the_answer_to_its_own_inputs(
    tmp_path: Path, cuda: FakeCuda, rng: np.random.Generator, rtx: bool
) -> None:
    library = FakeLibrary(cuda, rtx=rtx)
    kernels = b"" if rtx else None
    with load(tmp_path, cuda, library=library, kernels=kernels) as engine:
        # The first at a shape is computed, those after are launches of its graph.
        for shape in [(8, 6), (8, 6), (8, 6), (16, 16), (16, 16), (8, 6), (8, 6)]:
            given = inputs(rng, *shape)
            np.testing.assert_allclose(engine.run(given)["image"], toy_answer(**given), rtol=1e-6)
    assert cuda.calls.count("cudaGraphLaunch") == 4


def test_results_stay_when_the_engine_runs_again_and_after_it_is_closed(
    tmp_path: Path, cuda: FakeCuda, rng: np.random.Generator
) -> None:
    given = inputs(rng)
    with load(tmp_path, cuda) as engine:
        first = engine.run(given)["image"]
        engine.run(inputs(rng))
    np.testing.assert_allclose(first, toy_answer(**given), rtol=1e-6)


def test_memory_is_for_the_shapes_at_hand_and_all_is_given_back(
    tmp_path: Path, cuda: FakeCuda, rng: np.random.Generator
) -> None:
    engine = load(tmp_path, cuda)
    for height, width in [(64, 64), (8, 6), (16, 16)]:
        engine.run(inputs(rng, height, width))
        engine.run(inputs(rng, height, width))
        # x1 and image of two planes and one mask, float32, each on the host and the device.
        assert cuda.device_bytes == height * width * (2 * 4 * 5 + WORKSPACE_PER_PIXEL)
    engine.close()
    assert cuda.live == {}
    engine.close()


def test_a_shape_outside_the_profile_is_named_and_costs_nothing(
    tmp_path: Path, cuda: FakeCuda, rng: np.random.Generator
) -> None:
    with load(tmp_path, cuda) as engine:
        with pytest.raises(BackendError, match=r"'x1' has shape \(1, 2, 80, 8\).*\(1, 2, 64, 64\)"):
            engine.run(inputs(rng, 80, 8))
        given = inputs(rng)
        np.testing.assert_allclose(engine.run(given)["image"], toy_answer(**given), rtol=1e-6)
    assert cuda.live == {}


@pytest.mark.parametrize("function", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_an_engine_that_cannot_be_recorded_runs_all_the_same(
    tmp_path: Path, cuda: FakeCuda, rng: np.random.Generator, function: str
) -> None:
    cuda.faults[function] = Fault.cudaErrorStreamCaptureUnsupported
    with load(tmp_path, cuda) as engine:
        for _ in range(3):
            given = inputs(rng)
            np.testing.assert_allclose(engine.run(given)["image"], toy_answer(**given), rtol=1e-6)
    assert "cudaGraphLaunch" not in cuda.calls


def test_what_the_library_says_cannot_be_recorded_is_not_tried(
    tmp_path: Path, cuda: FakeCuda, rng: np.random.Generator
) -> None:
    library = FakeLibrary(cuda, rtx=True, capturable=False)
    with load(tmp_path, cuda, library=library, kernels=b"") as engine:
        engine.run(inputs(rng))
        engine.run(inputs(rng))
    assert "cudaStreamBeginCapture" not in cuda.calls


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaHostAlloc"])
def test_used_up_memory_is_one_clear_line(
    tmp_path: Path, cuda: FakeCuda, rng: np.random.Generator, function: str
) -> None:
    engine = load(tmp_path, cuda)
    cuda.faults[function] = Fault.cudaErrorMemoryAllocation
    with pytest.raises(BackendError, match=f"{function} failed with cudaErrorMemoryAllocation"):
        engine.run(inputs(rng))
    assert list(cuda.live.values()) == ["a stream"], "what was taken before the failure is kept"
    cuda.faults.clear()
    given = inputs(rng)
    np.testing.assert_allclose(engine.run(given)["image"], toy_answer(**given), rtol=1e-6)


def test_after_a_fault_of_the_device_the_engine_still_closes(
    tmp_path: Path, cuda: FakeCuda, rng: np.random.Generator
) -> None:
    """Every call fails then; the next backend must get its turn nevertheless."""
    engine = load(tmp_path, cuda)
    engine.run(inputs(rng))
    for name in (
        *("cudaStreamSynchronize", "cudaFree", "cudaFreeHost"),
        *("cudaStreamDestroy", "cudaGraphExecDestroy"),
    ):
        cuda.faults[name] = Fault.cudaErrorIllegalAddress
    with pytest.raises(BackendError, match="cudaStreamSynchronize failed with cudaErrorIllegal"):
        engine.run(inputs(rng))
    engine.close()


def test_a_plan_of_another_version_says_what_to_do(tmp_path: Path, cuda: FakeCuda) -> None:
    with pytest.raises(BackendError, match=r"of another version.*ldmpir-edge compile") as caught:
        load(tmp_path, cuda, plan=b"old")
    assert "\n" not in str(caught.value)
    assert cuda.live == {}


def test_kernels_compiled_late_are_kept_once(
    tmp_path: Path, cuda: FakeCuda, rng: np.random.Generator
) -> None:
    kept: list[bytes] = []
    library = FakeLibrary(cuda, rtx=True)
    with load(tmp_path, cuda, library=library, kernels=b"", keep_kernels=kept.append) as engine:
        engine.run(inputs(rng))
        engine.run(inputs(rng))
        engine.run(inputs(rng, 16, 16))
    assert [data.count(b"kernel") for data in kept] == [1, 2]
    assert library.took_kernels is None
    again = FakeLibrary(cuda, rtx=True)
    kernels = kept.pop()
    with load(tmp_path, cuda, library=again, kernels=kernels, keep_kernels=kept.append) as engine:
        engine.run(inputs(rng))
    assert again.took_kernels == kernels
    assert len(kept) == 1, "nothing new was compiled"
