"""Whether there is a GPU is found out without any library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_tensorrt import FakeCuda, Fault

from ldmpir_edge.errors import BackendError
from ldmpir_edge.runtimes.tensorrt import hardware
from ldmpir_edge.runtimes.tensorrt.hardware import Gpu, find_gpu, why_no_gpu

posix_only = pytest.mark.skipif(os.name != "posix", reason="there are no device nodes")


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder /dev of a machine without a GPU but with a driver."""
    monkeypatch.setattr(hardware, "_ROOT", tmp_path)
    monkeypatch.setattr(hardware, "DRIVER", "libc.so.6")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    return tmp_path / "dev"


@posix_only
@pytest.mark.parametrize("node", ["nvidia0", "nvidia11", "nvhost-gpu", "dxg"])
def test_a_device_and_a_driver_make_a_gpu(devices: Path, node: str) -> None:
    assert why_no_gpu() == "there is no NVIDIA GPU here"
    (devices / node).touch()
    assert why_no_gpu() == ""


@posix_only
def test_a_device_without_its_driver_is_told_apart(
    devices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (devices / "nvidia0").touch()
    monkeypatch.setattr(hardware, "DRIVER", "libcuda-absent.so.1")
    assert why_no_gpu() == "the NVIDIA driver (libcuda-absent.so.1) is not installed here"


def test_the_device_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_DRIVER_VERSION", tmp_path / "version")
    assert find_gpu(FakeCuda()) == Gpu("Toy RTX 5000", "8.9", "CUDA 13.2")
    (tmp_path / "version").write_text("NVRM version: 580.65.06\nGCC version: 14\n")
    assert find_gpu(FakeCuda()).driver == "CUDA 13.2, NVRM version: 580.65.06"


def test_a_cuda_that_finds_no_device_is_one_clear_line() -> None:
    cuda = FakeCuda()
    cuda.faults["cudaGetDeviceProperties"] = Fault.cudaErrorIllegalAddress
    with pytest.raises(BackendError, match="cudaGetDeviceProperties failed with cudaErrorIllegal"):
        find_gpu(cuda)


def test_names_that_come_as_text_are_taken() -> None:
    cuda = FakeCuda()
    cuda.GetDeviceProperties = lambda device: SimpleNamespace(name="Orin\0\0", major=8, minor=7)  # type: ignore[method-assign]
    assert find_gpu(cuda).name == "Orin"


PROBE = """
import json, sys
from ldmpir_edge.runtimes import BACKENDS, choose_backend
states = {b.name: b.availability().ok for b in BACKENDS if b.name.startswith("tensorrt")}
heavy = [name for name in sys.modules if name.startswith(("tensorrt", "cuda"))]
print(json.dumps([states, heavy]))
"""


@pytest.mark.skipif(not why_no_gpu(), reason="this machine has an NVIDIA GPU")
def test_without_a_gpu_no_library_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    states, heavy = json.loads(done.stdout)
    assert states == {"tensorrt": False, "tensorrt_rtx": False}
    assert heavy == []
