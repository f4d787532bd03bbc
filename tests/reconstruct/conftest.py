"""The shipped bundle, with a cache of its own, and engines that answer as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from ldmpir_edge.bundle import Bundle, open_bundle
from ldmpir_edge.reconstruct import Reconstructor, reconstructor

Answer = Callable[[dict[str, np.ndarray]], np.ndarray]


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDMPIR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """As a stream prepares its slices: with more threads the last bits differ."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return open_bundle("ldmpir-2m")


@pytest.fixture(scope="session")
def real(bundle: Bundle) -> Iterator[Reconstructor]:
    """The shipped model on one thread of ONNX Runtime."""
    with_engine = Reconstructor(bundle, backend="onnxruntime", threads=1)
    yield with_engine
    with_engine.close()


@pytest.fixture
def faked(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], Reconstructor]:
    """Make a reconstructor whose engine gives `answer(inputs)` as its `(2, H, W)` image."""

    class Engine:
        backend, reason = "fake", "for the test"

        def __init__(self, answer: Answer) -> None:
            self.answer = answer

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"image": np.asarray(self.answer(inputs), np.float32)[None]}

        def close(self) -> None:
            pass

    def make(answer: Answer) -> Reconstructor:
        monkeypatch.setattr(reconstructor, "load_engine", lambda *_: Engine(answer))
        return Reconstructor(bundle)

    return make
