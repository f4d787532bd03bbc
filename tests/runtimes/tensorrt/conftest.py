"""A machine with a pretended GPU, and caches of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_tensorrt import FakeCuda, FakeLibrary

from ldmpir_edge.errors import MissingExtraError
from ldmpir_edge.runtimes.tensorrt import TensorRtBackend, TensorRtRtxBackend, backend, install


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the engines go, empty at first."""
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "cache" / "engines"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """The CUDA runtime of a machine with one GPU and TensorRT, but without TensorRT-RTX."""
    fake = FakeCuda()
    for module in (backend, install):
        monkeypatch.setattr(module, "why_no_gpu", lambda: "")
    monkeypatch.setattr(backend, "import_cuda", lambda: fake)
    monkeypatch.setattr(TensorRtBackend, "_import", lambda self: FakeLibrary(fake))

    def absent(self: TensorRtRtxBackend) -> None:
        raise MissingExtraError("the tensorrt_rtx backend", "tensorrt")

    monkeypatch.setattr(TensorRtRtxBackend, "_import", absent)
    return fake
