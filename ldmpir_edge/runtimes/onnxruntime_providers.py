"""ONNX Runtime's execution providers: which there are, and sessions that run on the one asked for.

Left to itself ONNX Runtime opens a session on the CPU when it cannot open it where it was told to,
and says so on the terminal only. So the session is asked afterwards.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ldmpir_edge.errors import BackendError


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes
    ----------
    name
        ONNX Runtime's.
    install
        The package that brings it, in place of `onnxruntime` or, for a plugin, beside it.
    options
        So that it computes in the graph's own precision.
    plugin
        Module of the package that must be registered first, where ONNX Runtime has it not built in.
    """

    name: str
    install: str
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    plugin: str = ""


PROVIDERS: Mapping[str, Provider] = {
    "cuda": Provider(
        "CUDAExecutionProvider",
        "onnxruntime-gpu",
        # On by default: the products of float32 matrices with 10 bits of mantissa.
        {"use_tf32": "0"},
    ),
    "tensorrt": Provider("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "nvtensorrtrtx": Provider(
        "NvTensorRTRTXExecutionProvider",
        "onnxruntime-ep-nv-tensorrt-rtx",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        "onnxruntime-openvino",
        {"device_type": "CPU", "precision": "FP32"},
    ),
    "cpu": Provider("CPUExecutionProvider", "onnxruntime"),
}
"""By the name that follows the colon in `--backend onnxruntime:cuda`."""

AUTOMATIC = ("cuda", "cpu")
"""Taken unasked, in that order, where they are present.

The two of TensorRT build an engine for minutes for each shape and show nothing meanwhile; that of
OpenVINO took 1.2 times the CPU provider's time (4 steps, 256², 8 coils) and has a backend of its
own.
"""


def present_providers(library: Any) -> tuple[str, ...]:
    """Name the providers that are installed, which need not mean that they find their hardware."""
    built_in = library.get_available_providers()
    return tuple(
        key
        for key, provider in PROVIDERS.items()
        if provider.name in built_in or (provider.plugin and find_spec(provider.plugin))
    )


def require_provider(library: Any, key: str) -> None:
    """Refuse a provider that is not installed.

    Raises
    ------
    BackendError
        It is not; the message lists those that are.
    """
    present = present_providers(library)
    if key not in present:
        raise BackendError(
            f"this onnxruntime has no {PROVIDERS[key].name}, only {', '.join(present)}: "
            f"pip install {PROVIDERS[key].install}"
        )


def open_session(library: Any, graph: Path, key: str, options: Any) -> Any:
    """Open a session on one provider, with the CPU's for the operators that it leaves.

    Parameters
    ----------
    library
        The imported `onnxruntime`.
    graph
        An ONNX file.
    key
        One of `PROVIDERS`.
    options
        The library's SessionOptions.

    Raises
    ------
    BackendError
        The provider is not installed, finds no device, or could not be created.
    """
    require_provider(library, key)
    provider = PROVIDERS[key]
    arguments: dict[str, Any] = {}
    if provider.name in library.get_available_providers():
        named = {provider.name: dict(provider.options)}
        arguments["providers"] = list(({PROVIDERS["cpu"].name: {}} | named).items())[::-1]
    else:
        devices = _plugin_devices(library, provider)
        options.add_provider_for_devices(devices[:1], dict(provider.options))
    # The library's own fallback would say so on standard output, where reports go.
    session = library.InferenceSession(str(graph), options, enable_fallback=0, **arguments)
    used = session.get_providers()[0]
    if used != provider.name:
        raise BackendError(
            f"{provider.name} could not be created and {used} came in its place; ONNX Runtime's "
            "own message on standard error says why: mostly a driver or a library is missing"
        )
    return session


def _plugin_devices(library: Any, provider: Provider) -> list[Any]:
    _register(library, provider.plugin)
    devices = [device for device in library.get_ep_devices() if device.ep_name == provider.name]
    if not devices:
        raise BackendError(f"{provider.name} finds no device that it can use")
    return devices


@cache
def _register(library: Any, plugin: str) -> None:
    """Register a plugin with ONNX Runtime, which takes each but once."""
    module = importlib.import_module(plugin)
    library.register_execution_provider_library(module.get_ep_name(), module.get_library_path())
