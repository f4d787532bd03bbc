"""OpenVINO: the faster CPU engine where it is installed, and Intel's GPUs and NPUs by name.

Models are reshaped to the inputs and compiled per shape: static shapes measured about 20 %
faster than dynamic ones. The precision hint is explicit, since OpenVINO otherwise picks bfloat16
or half precision by itself on CPUs that have them, and what was gated is the graph's own. An
imported model needs it again: the hint is not part of the exported blob. On a GPU or NPU the hint
for half precision would take the physics along, which does not bear it: there `dynamic` leaves
each operator of an fp16 graph in the graph's own type.

The performance hint is for latency. That for throughput runs several requests side by side, each
on fewer cores, and `reconstruct` has one slice in the engine at a time.

Compiled models of a bundle are kept between processes in a sealed cache of our own, not in
OpenVINO's (`CACHE_DIR`): OpenVINO loads a blob whose weights were changed without noticing, which
would give a wrong image past every hash and signature.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import platform
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from ldmpir_edge.bundle import LoadedVariant
from ldmpir_edge.bundle.paths import cache_root, seal_key_file
from ldmpir_edge.errors import BackendError, BundleError, UsageError
from ldmpir_edge.runtimes.base import Arrays, Backend, Engine, one_line
from ldmpir_edge.runtimes.cpu import cpu_identity
from ldmpir_edge.runtimes.sealed_cache import SealedCache

DEVICE_KINDS = ("cpu", "gpu", "npu")
"""What may follow the colon in `--backend openvino:gpu`; a number tells one of several: `gpu.1`."""

MAX_COMPILED = 4
"""Compiled shapes kept; a scan has one or two, and each holds its own copy of the weights."""

_TELEMETRY = "openvino_telemetry"

_Shapes = tuple[tuple[str, tuple[int, ...]], ...]

_log = logging.getLogger(__name__)


class OpenVinoEngine(Engine):
    """One model and its most recently used compiled shapes."""

    def __init__(
        self,
        backend: str,
        variant: LoadedVariant,
        core: Any,
        device: str,
        properties: dict[str, Any],
    ) -> None:
        super().__init__(backend, variant)
        self._core = core
        self._device = device
        self._properties = properties
        self._compiled: OrderedDict[_Shapes, Any] = OrderedDict()
        # A model whose files nobody vouches for (one being gated) is not worth its space there.
        vouched = variant.content_sha256 is not None
        self._cache, self._notes = (
            (SealedCache(cache_root() / folder, seal_key_file()) if vouched else None)
            for folder in ("compiled", "compiled-last")
        )
        # A compiled model may be found in the cache, and then the graph is never parsed.
        self._model = None if vouched else self._read()
        self._latest: _Shapes | None = None
        self._recall()

    def close(self) -> None:
        """Drop the model and everything compiled from it."""
        self._compiled.clear()
        self._model = None

    def _run(self, inputs: Arrays) -> Arrays:
        compiled = self._for_shapes(
            tuple(sorted((name, array.shape) for name, array in inputs.items()))
        )
        results = compiled(inputs)
        # Copies: the results live in the request's memory, which the next run overwrites.
        return {port.get_any_name(): np.array(results[port]) for port in compiled.outputs}

    def _for_shapes(self, shapes: _Shapes) -> Any:
        if shapes not in self._compiled:
            if len(self._compiled) == MAX_COMPILED:
                self._compiled.popitem(last=False)
            self._compiled[shapes] = self._import_or_compile(shapes)
        self._compiled.move_to_end(shapes)
        return self._compiled[shapes]

    def _recall(self) -> None:
        """Import the model compiled for the shapes that a process before this one used last.

        The next scan mostly has them too, and its engine is loaded while it is prepared.
        """
        if self._cache is None or self._notes is None:
            return
        note = self._notes.get(self._cache_name(None))
        if note is None:
            return
        try:
            shapes = tuple((name, tuple(shape)) for name, shape in json.loads(note))
        except (ValueError, TypeError):  # another version's
            return
        compiled = self._import(self._cache, self._cache_name(shapes))
        if compiled is not None:
            self._latest = shapes
            self._compiled[shapes] = compiled

    def _import_or_compile(self, shapes: _Shapes) -> Any:
        if self._cache is None or self._notes is None:
            return self._compile(shapes)
        name = self._cache_name(shapes)
        compiled = self._import(self._cache, name)
        if compiled is None:
            compiled = self._compile(shapes)
            blob = _export(compiled)
            if blob is not None:
                self._cache.put(name, blob)
        if shapes != self._latest:
            self._latest = shapes
            self._notes.put(self._cache_name(None), json.dumps(shapes).encode())
        return compiled

    def _import(self, cache: SealedCache, name: str) -> Any | None:
        blob = cache.get(name)
        if blob is None:
            return None
        try:
            return self._core.import_model(blob, self._device, self._properties)
        except Exception as err:  # noqa: BLE001 - whatever it is, the graph can be compiled
            _log.debug("OpenVINO does not take its own blob %s: %s", name, one_line(err))
            return None

    def _compile(self, shapes: _Shapes) -> Any:
        if self._model is None:
            self._model = self._read()
        _log.debug("compiling %s for these shapes; kept for the next time", self.variant.graph.name)
        model = self._model.clone()
        model.reshape({name: list(shape) for name, shape in shapes})
        return self._core.compile_model(model, self._device, self._properties)

    def _read(self) -> Any:
        # It may be hours since the files were checked, and what is compiled of them is sealed.
        try:
            self.variant.renew()
        except BundleError as err:
            raise BackendError(str(err)) from err
        return self._core.read_model(str(self.variant.graph))

    def _cache_name(self, shapes: _Shapes | None) -> str:
        """Hash everything that the compiled model depends on; None names the latest shapes."""
        document = {
            "variant": self.variant.content_sha256,
            "shapes": shapes,
            "properties": self._properties,
            "device": self._core.get_property(self._device, "FULL_DEVICE_NAME"),
            "plugin": [v.build_number for v in self._core.get_versions(self._device).values()],
            "machine": platform.machine(),
            "capabilities": self._core.get_property(self._device, "OPTIMIZATION_CAPABILITIES"),
            "cpu": cpu_identity(),
        }
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _export(compiled: Any) -> bytes | None:
    stream = io.BytesIO()
    try:
        compiled.export_model(stream)
    except Exception as err:  # noqa: BLE001 - the model runs all the same
        _log.debug("OpenVINO does not export its compiled model: %s", one_line(err))
        return None
    return stream.getvalue()


class OpenVinoBackend(Backend):
    """The `openvino` package."""

    name = "openvino"
    extra = "openvino"

    def _import(self) -> Any:
        with _no_telemetry():
            return super()._import()

    def on(self, device: str) -> Backend:
        """Answer this backend on one device.

        Raises
        ------
        UsageError
            It is no single device: OpenVINO's AUTO, MULTI, HETERO and BATCH choose or combine
            devices by themselves, and the image's provenance could not say which made it.
        """
        kind, dot, number = device.lower().partition(".")
        if kind not in DEVICE_KINDS or (dot and not number.isdecimal()):
            raise UsageError(
                f"{self.name} takes one device, not {device!r}: choose one of "
                f"{', '.join(DEVICE_KINDS)}, or gpu.1 and so on where there are several"
            )
        named = OpenVinoBackend()
        named.name = f"{self.name}:{device.lower()}"
        return named

    def _devices(self, library: Any) -> tuple[str, ...]:
        available = tuple(_core(library).available_devices)
        if self.device:
            _require_device(self.device.upper(), available)
        return available

    def _load(self, library: Any, variant: LoadedVariant, threads: int | None) -> Engine:
        core, device = _core(library), (self.device or "cpu").upper()
        _require_device(device, core.available_devices)
        on_cpu = device.startswith("CPU")
        as_typed = variant.precision == "fp16" and not on_cpu
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "dynamic" if as_typed else "f32",
        }
        if threads is not None and on_cpu:
            properties["INFERENCE_NUM_THREADS"] = threads
        return OpenVinoEngine(self.name, variant, core, device, properties)


def _require_device(device: str, available: Sequence[str]) -> None:
    """Refuse a device that OpenVINO does not see; GPU stands for the first of GPU.0 and GPU.1."""
    if not any(device in (name, name.partition(".")[0]) for name in available):
        raise BackendError(
            f"OpenVINO sees no {device} here, only {', '.join(available)}; a GPU or NPU needs its "
            "driver, and the user the right to use it"
        )


@cache
def _core(library: Any) -> Any:
    """Give the process's one `Core`, which is never dropped.

    Each holds a CPU plugin, which replaces the thread's signal stack by its own and unmaps that
    when it goes: where a later one has saved it, or the last reference is dropped in another
    thread, the next signal with a handler (Ctrl-C, a child's end) finds no stack and kills the
    process.
    """
    return library.Core()


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep `import openvino` from reporting to its maker, for which it starts a process.

    Its package `openvino_telemetry` reports unless the user has opted out; where that cannot be
    imported, openvino uses a stub. No scanner should call home because it reconstructs.
    """
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
