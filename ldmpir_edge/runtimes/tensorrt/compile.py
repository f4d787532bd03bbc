"""From a strongly typed ONNX graph to a serialized engine: one way for TensorRT and TensorRT-RTX.

Both libraries have the same API. The graph alone decides the precision: `STRONGLY_TYPED` exists
from TensorRT 10 on, and 11 has no other kind of network.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ldmpir_edge.errors import BackendError, UsageError
from ldmpir_edge.runtimes.base import one_line
from ldmpir_edge.runtimes.tensorrt.listeners import library_log, progress_monitor, shorten
from ldmpir_edge.runtimes.tensorrt.profiles import Profile

MAX_NAMED_ERRORS = 3

Validity = Literal["valid", "suboptimal", "invalid", "unchecked"]


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine, and the timing cache for the next one where there was one."""

    plan: bytes
    timing_cache: bytes | None


def build_engine(
    library: Any,
    graph: Path,
    profile: Profile,
    *,
    workspace_mib: int | None = None,
    timing_cache: bytes | None = None,
    compute_capabilities: Sequence[str] = (),
    on_progress: Callable[[float], None] = lambda part: None,
) -> BuiltEngine:
    """Parse a graph and build its engine.

    Parameters
    ----------
    library
        The module `tensorrt` or `tensorrt_rtx`.
    graph
        ONNX file; its external weights lie beside it.
    profile
        Shapes of every input.
    workspace_mib
        Memory for tuning; None leaves all there is.
    timing_cache
        What an earlier build measured on this device, empty at first; None keeps none.
    compute_capabilities
        Such as `8.6`: TensorRT-RTX then compiles for these, without a GPU. Without any, for the
        device.
    on_progress
        Called with the part that is done, from 0 to 1.

    Raises
    ------
    UsageError
        The library does not compile for a compute capability.
    BackendError
        The graph cannot be parsed or built; the message names the nodes.
    """
    log = library_log(library)
    log.take_errors()
    try:
        builder = library.Builder(log)
    except TypeError as err:  # how the bindings say that there is no builder
        raise BackendError(
            f"{library.__name__} cannot compile here: {log.take_errors() or one_line(err)}"
        ) from err
    typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = library.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise BackendError(f"{library.__name__} cannot parse {graph.name}: {_explain(parser)}")
    config = builder.create_builder_config()
    config.add_optimization_profile(_optimization_profile(builder, profile))
    # On by default: products of float32 would keep 10 bits, which the physics cannot spare.
    config.clear_flag(library.BuilderFlag.TF32)
    if workspace_mib is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, workspace_mib * 2**20)
    if timing_cache is not None:
        config.set_timing_cache(config.create_timing_cache(timing_cache), ignore_mismatch=False)
    if compute_capabilities:
        chosen = [_capability(library, text) for text in compute_capabilities]
        config.num_compute_capabilities = len(chosen)
        for number, capability in enumerate(chosen):
            config.set_compute_capability(capability, number)
    with _late_interrupt() as interrupted:
        # Kept in a variable: the library holds no reference to it.
        monitor = progress_monitor(library, on_progress, lambda: not interrupted.is_set())
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        why = log.take_errors() or "it gives no reason"
        raise BackendError(f"{library.__name__} cannot build {graph.name}: {why}")
    measured = None
    if timing_cache is not None:
        measured = bytes(memoryview(config.get_timing_cache().serialize()))
    return BuiltEngine(bytes(memoryview(plan)), measured)


def engine_validity(library: Any, plan: bytes) -> Validity:
    """Ask the library what it thinks of a serialized engine.

    Returns
    -------
        `valid`, `suboptimal` (it runs, others would be faster) or `invalid` (damaged, or of
        another version). `unchecked` where the question needs a GPU of the kind that the engine
        is for, and there is none here, or the library has no such question.
    """
    runtime = library.Runtime(library_log(library))
    if not hasattr(runtime, "get_engine_validity"):
        return "unchecked"
    validity, found = runtime.get_engine_validity(plan)
    if validity == library.EngineValidity.VALID:
        return "valid"
    if validity == library.EngineValidity.SUBOPTIMAL:
        return "suboptimal"
    # Without a GPU nothing is VALID; the header is looked at before the GPU is.
    known = library.EngineInvalidityDiagnostics
    bad = int(known.MALFORMED_ENGINE) | int(known.VERSION_MISMATCH)
    return "invalid" if int(found) & bad else "unchecked"


@contextmanager
def _late_interrupt() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event, and into `KeyboardInterrupt` when the block ends.

    Raised in the middle of a callback it would pass through the library's C++ frames.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # only the main thread has Ctrl-C
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        raise KeyboardInterrupt


def _optimization_profile(builder: Any, profile: Profile) -> Any:
    made = builder.create_optimization_profile()
    for name, (smallest, typical, largest) in profile.items():
        made.set_shape(name, smallest, typical, largest)
    return made


def _capability(library: Any, text: str) -> Any:
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in library.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    if text not in known:
        raise UsageError(
            f"{library.__name__} {library.__version__} does not compile for compute capability "
            f"{text!r}; choose of {', '.join(known)}"
        )
    return known[text]


def _explain(parser: Any) -> str:
    """Say which nodes could not be parsed, and why."""
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    texts = []
    for error in errors[:MAX_NAMED_ERRORS]:
        where = f"{error.node_operator()} {error.node_name()}".strip() or "the graph"
        texts.append(f"{where}: {shorten(error.desc())}")
    if len(errors) > MAX_NAMED_ERRORS:
        texts.append(f"and {len(errors) - MAX_NAMED_ERRORS} more")
    return "; ".join(texts) or "it gives no reason"
