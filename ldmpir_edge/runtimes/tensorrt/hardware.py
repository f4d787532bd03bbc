"""Whether there is an NVIDIA GPU, asked of the system before any library of 200 MB is imported."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldmpir_edge.runtimes.tensorrt.cuda import call

DEVICE_NODES = (
    "dev/nvidia[0-9]*",  # every discrete GPU, and Jetson from JetPack 7 on
    "dev/nvhost-gpu",  # Jetson up to JetPack 6
    "dev/dxg",  # Windows Subsystem for Linux
)
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_ROOT = Path("/")
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """The device that engines are compiled for and run on.

    `driver` is the version of CUDA that the driver offers and, where the system tells it, the
    driver's own.
    """

    name: str
    compute_capability: str
    driver: str


def why_no_gpu() -> str:
    """Answer why nothing can run on an NVIDIA GPU here, or an empty string where it may."""
    if os.name == "posix" and not any(any(_ROOT.glob(pattern)) for pattern in DEVICE_NODES):
        return "there is no NVIDIA GPU here"
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return f"the NVIDIA driver ({DRIVER}) is not installed here"
    return ""


def find_gpu(cuda: Any) -> Gpu:
    """Describe the first device.

    Parameters
    ----------
    cuda
        The module `cuda.bindings.runtime`.

    Raises
    ------
    BackendError
        CUDA finds none; the message has its words.
    """
    properties = call(cuda.cudaGetDeviceProperties, 0)
    version = call(cuda.cudaDriverGetVersion)
    driver = f"CUDA {version // 1000}.{version % 1000 // 10}"
    with suppress(OSError, IndexError):  # absent on Windows and with Jetson's older drivers
        driver += f", {_DRIVER_VERSION.read_text().splitlines()[0]}"
    name = properties.name
    return Gpu(
        name=(name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0"),
        compute_capability=f"{properties.major}.{properties.minor}",
        driver=driver,
    )
