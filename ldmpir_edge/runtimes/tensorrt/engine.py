"""Run a compiled engine: on a stream of its own, through page-locked memory, as a CUDA graph.

Memory is taken for the shapes at hand, never for the largest that the engine takes. For as long
as the shapes stay, the three stages (to the device, compute, back) are one recorded graph, which
costs one launch. Written against the API that TensorRT 10.3 and later and TensorRT-RTX share.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ldmpir_edge.bundle import LoadedVariant
from ldmpir_edge.errors import BackendError
from ldmpir_edge.runtimes.base import Arrays, Engine
from ldmpir_edge.runtimes.tensorrt.cuda import TransferBuffer, call, release
from ldmpir_edge.runtimes.tensorrt.listeners import library_log

_log = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]


class TensorRtEngine(Engine):
    """One deserialized engine and the memory for the shapes that it ran last.

    Parameters
    ----------
    backend
        Name of the backend, for messages.
    variant
        What the engine was compiled from.
    library, cuda
        The modules `tensorrt` or `tensorrt_rtx`, and `cuda.bindings.runtime`.
    plan
        The serialized engine.
    kernels
        TensorRT-RTX compiles its kernels on the device when they are first needed: those kept
        from an earlier process, empty at first. None for TensorRT, which has them in the plan.
    keep_kernels
        Called with all kernels when there are others than those kept.

    Raises
    ------
    BackendError
        The library does not take the plan.
    """

    def __init__(
        self,
        backend: str,
        variant: LoadedVariant,
        library: Any,
        cuda: Any,
        plan: bytes,
        kernels: bytes | None = None,
        keep_kernels: Callable[[bytes], object] = lambda data: None,
    ) -> None:
        super().__init__(backend, variant)
        self._library, self._cuda = library, cuda
        self._kernels, self._keep_kernels = kernels, keep_kernels
        self._log = library_log(library)
        self._log.take_errors()
        self._runtime = library.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError(
                f"{backend} does not take its compiled engine ({self._log.take_errors()}); "
                "compile it again: ldmpir-edge compile BUNDLE"
            )
        self._kernel_cache: Any = None
        self._context = self._new_context()
        self._stream = call(cuda.cudaStreamCreateWithFlags, cuda.cudaStreamNonBlocking)
        self._bound: _BoundShapes | None = None

    def close(self) -> None:
        """Free the device's memory, the context and the engine, in this order."""
        self._unbind()
        if self._stream is not None:
            release(self._cuda.cudaStreamDestroy, self._stream)
        self._stream = self._context = self._kernel_cache = self._engine = self._runtime = None

    def _run(self, inputs: Arrays) -> Arrays:
        shapes = {name: array.shape for name, array in inputs.items()}
        if self._bound is not None and self._bound.shapes == shapes:
            return self._bound.run(inputs)
        self._unbind()
        self._bound = bound = _BoundShapes(
            self._library, self._cuda, self._engine, self._context, self._stream, shapes
        )
        outputs = bound.run(inputs)
        self._note_kernels()
        bound.record()
        return outputs

    def _unbind(self) -> None:
        if self._bound is not None:
            self._bound.free()
            self._bound = None

    def _note_kernels(self) -> None:
        if self._kernel_cache is None:
            return
        kernels = bytes(memoryview(self._kernel_cache.serialize()))
        if kernels != self._kernels:
            self._kernels = kernels
            self._keep_kernels(kernels)

    def _new_context(self) -> Any:
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._kernels is None:
            return self._engine.create_execution_context(strategy)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        # Kernels for these very shapes before the first result, and not some time later: what is
        # recorded as a graph must be what is to stay.
        config.dynamic_shapes_kernel_specialization_strategy = (
            self._library.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._kernel_cache = config.create_runtime_cache()
        if self._kernels and not self._kernel_cache.deserialize(self._kernels):
            _log.debug("%s does not take the kernels of an earlier process", self.backend)
        config.set_runtime_cache(self._kernel_cache)
        return self._engine.create_execution_context(config)


class _BoundShapes:
    """Memory for one set of shapes, and the recorded graph."""

    def __init__(
        self, library: Any, cuda: Any, engine: Any, context: Any, stream: Any, shapes: Shapes
    ) -> None:
        self.shapes = shapes
        self._cuda, self._context, self._stream = cuda, context, stream
        self._log = library_log(library)
        self._inputs: dict[str, TransferBuffer] = {}
        self._outputs: dict[str, TransferBuffer] = {}
        self._workspace = 0
        self._graph: Any = None
        for name, shape in shapes.items():
            smallest, _, largest = engine.get_tensor_profile_shape(name, 0)
            _check_range(name, shape, tuple(smallest), tuple(largest))
            self._demand(context.set_input_shape(name, shape), f"'{name}' of shape {shape}")
        self._demand(not context.infer_shapes(), f"the shapes {shapes}")
        try:
            self._allocate(library, engine)
        except BackendError:
            self.free()
            raise

    def run(self, inputs: Arrays) -> Arrays:
        """Compute; the outputs are copies, which the next run leaves alone."""
        for name, array in inputs.items():
            self._inputs[name].host[...] = array
        if self._graph is None:
            self._enqueue()
        else:
            call(self._cuda.cudaGraphLaunch, self._graph, self._stream)
        call(self._cuda.cudaStreamSynchronize, self._stream)
        return {name: buffer.host.copy() for name, buffer in self._outputs.items()}

    def record(self) -> None:
        """Record the stages as a graph, after a first run; without one, all goes on as before."""
        cuda = self._cuda
        # TensorRT-RTX can say beforehand that an engine cannot be recorded.
        capturable = getattr(self._context, "is_stream_capturable", lambda stream: True)
        if not capturable(int(self._stream)):
            return
        try:
            mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            call(cuda.cudaStreamBeginCapture, self._stream, mode)
            try:
                self._enqueue()
            finally:
                recorded = call(cuda.cudaStreamEndCapture, self._stream)
            self._graph = call(cuda.cudaGraphInstantiate, recorded, 0)
            release(cuda.cudaGraphDestroy, recorded)
        except BackendError as err:
            _log.debug("the engine runs without a CUDA graph: %s", err)

    def free(self) -> None:
        """Give all memory back."""
        if self._graph is not None:
            release(self._cuda.cudaGraphExecDestroy, self._graph)
            self._graph = None
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            buffer.free()
        self._inputs, self._outputs = {}, {}
        if self._workspace:
            release(self._cuda.cudaFree, self._workspace)
            self._workspace = 0

    def _allocate(self, library: Any, engine: Any) -> None:
        context = self._context
        size = context.update_device_memory_size_for_shapes()
        if size:
            self._workspace = int(call(self._cuda.cudaMalloc, size))
        context.set_device_memory(self._workspace, size)
        for number in range(engine.num_io_tensors):
            name = engine.get_tensor_name(number)
            is_input = engine.get_tensor_mode(name) == library.TensorIOMode.INPUT
            shape = self.shapes[name] if is_input else tuple(context.get_tensor_shape(name))
            dtype = library.nptype(engine.get_tensor_dtype(name))
            buffer = TransferBuffer(self._cuda, shape, dtype)
            (self._inputs if is_input else self._outputs)[name] = buffer
            self._demand(context.set_tensor_address(name, buffer.device), f"the memory of '{name}'")

    def _enqueue(self) -> None:
        for buffer in self._inputs.values():
            buffer.upload(self._stream)
        self._demand(self._context.execute_async_v3(int(self._stream)), "the computation")
        for buffer in self._outputs.values():
            buffer.download(self._stream)

    def _demand(self, done: bool, what: str) -> None:
        if not done:
            raise BackendError(f"the engine refuses {what}: {self._log.take_errors()}")


def _check_range(
    name: str, shape: tuple[int, ...], smallest: tuple[int, ...], largest: tuple[int, ...]
) -> None:
    if len(shape) == len(smallest) and all(
        low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
    ):
        return
    raise BackendError(
        f"'{name}' has shape {shape}, and the engine was compiled for {smallest} to {largest}; "
        "use another --backend, or a bundle with wider limits"
    )
