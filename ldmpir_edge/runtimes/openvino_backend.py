"""OpenVINO on the CPU: the faster CPU engine where it is installed.

Models are reshaped to the inputs and compiled per shape: static shapes measured about 20 %
faster than dynamic ones. The precision hint is explicit, since OpenVINO otherwise picks bfloat16
or half precision by itself on CPUs that have them, and what was gated is the graph's own. An
imported model needs it again: the hint is not part of the exported blob.

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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from ldmpir_edge.bundle import LoadedVariant
from ldmpir_edge.bundle.paths import cache_root, seal_key_file
from ldmpir_edge.runtimes.base import Arrays, Backend, Engine, one_line
from ldmpir_edge.runtimes.cpu import cpu_identity
from ldmpir_edge.runtimes.sealed_cache import SealedCache

DEVICE = "CPU"

MAX_COMPILED = 4
"""Compiled shapes kept; a scan has one or two, and each holds its own copy of the weights."""

_TELEMETRY = "openvino_telemetry"

_Shapes = tuple[tuple[str, tuple[int, ...]], ...]

_log = logging.getLogger(__name__)


class OpenVinoEngine(Engine):
    """One model and its most recently used compiled shapes."""

    def __init__(self, variant: LoadedVariant, core: Any, properties: dict[str, Any]) -> None:
        super().__init__(OpenVinoBackend.name, variant)
        self._core = core
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
            return self._core.import_model(blob, DEVICE, self._properties)
        except Exception as err:  # noqa: BLE001 - whatever it is, the graph can be compiled
            _log.debug("OpenVINO does not take its own blob %s: %s", name, one_line(err))
            return None

    def _compile(self, shapes: _Shapes) -> Any:
        if self._model is None:
            self._model = self._read()
        model = self._model.clone()
        model.reshape({name: list(shape) for name, shape in shapes})
        return self._core.compile_model(model, DEVICE, self._properties)

    def _read(self) -> Any:
        return self._core.read_model(str(self.variant.graph))

    def _cache_name(self, shapes: _Shapes | None) -> str:
        """Hash everything that the compiled model depends on; None names the latest shapes."""
        document = {
            "variant": self.variant.content_sha256,
            "shapes": shapes,
            "properties": self._properties,
            "plugin": self._core.get_versions(DEVICE)[DEVICE].build_number,
            "machine": platform.machine(),
            "capabilities": self._core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"),
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

    def _devices(self, library: Any) -> tuple[str, ...]:
        return tuple(_core(library).available_devices)

    def _load(self, library: Any, variant: LoadedVariant, threads: int | None) -> Engine:
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        return OpenVinoEngine(variant, _core(library), properties)


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
