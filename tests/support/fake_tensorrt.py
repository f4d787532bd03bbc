"""TensorRT and CUDA without a GPU, as far as our run path calls them.

"Device memory" is the host's, a stream does its work at once, and an engine computes the toy
network (`toy_bundle.toy_answer`) from the addresses that it was told. What is recorded as a graph
is kept as a list of functions and runs at a launch. Nothing here says that a real GPU works: it
shows that our side binds the right shapes, copies the right bytes and gives back what it took.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from toy_bundle import toy_answer

PLAN = b"a plan of the toy network"
SMALLEST = {"x1": (1, 2, 4, 4), "mask": (1, 4, 4)}
LARGEST = {"x1": (1, 2, 64, 64), "mask": (1, 64, 64)}
WORKSPACE_PER_PIXEL = 40


class Fault(IntEnum):
    """Error codes of CUDA, those that the tests need."""

    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class FakeCuda:
    """`cuda.bindings.runtime`: `cudaMalloc` is the method `Malloc`, and so on.

    `faults` makes functions fail by name, `calls` lists what was called, `live` holds everything
    that was taken and not given back, memory by its address.
    """

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.live: dict[int, Any] = {}
        self.faults: dict[str, Fault] = {}
        self.calls: list[str] = []
        self._recording: list[Callable[[], object]] | None = None
        self._handles = iter(range(1, 1000))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        method = getattr(self, name.removeprefix("cuda"))

        def checked(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            fault = self.faults.get(name, Fault.cudaSuccess)
            # Recording ends in any case; whatever else fails has done nothing.
            value = None if fault and name != "cudaStreamEndCapture" else method(*arguments)
            return (fault,) if value is None else (fault, value)

        checked.__name__ = name
        return checked

    @property
    def device_bytes(self) -> int:
        """Memory that is taken now, host and device together."""
        return sum(len(block) for block in self.live.values() if hasattr(block, "raw"))

    def submit(self, work: Callable[[], object]) -> None:
        """Do it now, or when the graph that is being recorded is launched."""
        if self._recording is None:
            work()
        else:
            self._recording.append(work)

    def Malloc(self, size: int) -> int:
        assert size > 0
        block = ctypes.create_string_buffer(size)
        self.live[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def HostAlloc(self, size: int, flags: int) -> int:
        return self.Malloc(size)

    def Free(self, taken: int) -> None:
        del self.live[taken]

    FreeHost = StreamDestroy = GraphDestroy = GraphExecDestroy = Free

    def MemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        assert size <= min(len(self.live[target]), len(self.live[source]))
        self.submit(lambda: ctypes.memmove(target, source, size))

    def StreamCreateWithFlags(self, flags: int) -> int:
        return self._take("a stream")

    def StreamSynchronize(self, stream: int) -> None:
        assert self.live[stream] == "a stream"

    def StreamBeginCapture(self, stream: int, mode: int) -> None:
        self._recording = []

    def StreamEndCapture(self, stream: int) -> int:
        work, self._recording = self._recording, None
        return self._take(work)

    def GraphInstantiate(self, graph: int, flags: int) -> int:
        return self._take(self.live[graph])

    def GraphLaunch(self, graph: int, stream: int) -> None:
        for work in self.live[graph]:
            work()

    def DriverGetVersion(self) -> int:
        return 13020

    def GetDeviceProperties(self, device: int) -> Any:
        return SimpleNamespace(name=b"Toy RTX 5000", major=8, minor=9)

    def _take(self, content: Any) -> int:
        handle = next(self._handles)
        self.live[handle] = content
        return handle


class FakeLibrary:
    """`tensorrt`, or `tensorrt_rtx` with `rtx`: what runs engines of the toy network.

    `kernels` are those of the last context's cache; `took_kernels` what it was given at first.
    """

    class ILogger:
        ERROR, WARNING = 1, 2

    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    nptype = staticmethod(np.dtype)

    def __init__(self, cuda: FakeCuda, *, rtx: bool = False, capturable: bool = True) -> None:
        self.__name__ = "tensorrt_rtx" if rtx else "tensorrt"
        self.__version__ = "11.4.0"
        self.cuda, self.rtx, self.capturable = cuda, rtx, capturable
        self.took_kernels: bytes | None = None

    def Runtime(self, log: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: self._deserialize(plan, log))

    def _deserialize(self, plan: bytes, log: Any) -> Any:
        if plan != PLAN:
            log.log(self.ILogger.ERROR, "the plan is\nof another version")
            return None
        return _FakeEngine(self)


class _FakeEngine:
    names = ("x1", "mask", "image")
    num_io_tensors = 3

    def __init__(self, library: FakeLibrary) -> None:
        self._library = library
        if library.rtx:
            self.create_runtime_config = lambda: _FakeRuntimeConfig(library)

    def get_tensor_name(self, number: int) -> str:
        return self.names[number]

    def get_tensor_mode(self, name: str) -> str:
        return "output" if name == "image" else "input"

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return [SMALLEST[name], SMALLEST[name], LARGEST[name]]

    def create_execution_context(self, how: Any) -> _FakeContext:
        strategy = how.strategy if isinstance(how, _FakeRuntimeConfig) else how
        assert strategy == "user managed"
        return _FakeContext(self._library, how)


class _FakeRuntimeConfig:
    strategy: str
    dynamic_shapes_kernel_specialization_strategy = "lazy"

    def __init__(self, library: FakeLibrary) -> None:
        self._library = library
        self.kernels: set[str] = set()

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Any:
        return SimpleNamespace(
            deserialize=self._deserialize, serialize=lambda: ",".join(sorted(self.kernels)).encode()
        )

    def set_runtime_cache(self, cache: Any) -> None: ...

    def _deserialize(self, data: bytes) -> bool:
        self._library.took_kernels = data
        self.kernels = set(data.decode().split(","))
        return True


class _FakeContext:
    def __init__(self, library: FakeLibrary, config: Any) -> None:
        self._library, self._config = library, config
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._workspace = (0, 0)
        if library.rtx:
            self.is_stream_capturable = lambda stream: library.capturable

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in ("x1", "mask") if name not in self._shapes]

    def update_device_memory_size_for_shapes(self) -> int:
        return WORKSPACE_PER_PIXEL * math.prod(self._shapes["mask"])

    def set_device_memory(self, address: int, size: int) -> None:
        self._workspace = (address, size)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes["x1"]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        address, size = self._workspace
        assert (
            size
            == self.update_device_memory_size_for_shapes()
            == len(self._library.cuda.live[address])
        )
        if self._library.rtx:
            assert self._config.dynamic_shapes_kernel_specialization_strategy == "eager"
            self._config.kernels.add(f"kernel for {self._shapes['mask']}".replace(",", ""))
        shapes, addresses = dict(self._shapes), dict(self._addresses)

        def compute() -> None:
            inputs = {name: _array(addresses[name], shapes[name]) for name in ("x1", "mask")}
            _array(addresses["image"], shapes["x1"])[...] = toy_answer(**inputs)

        self._library.cuda.submit(compute)
        return True


def _array(address: int, shape: tuple[int, ...]) -> np.ndarray:
    block = (ctypes.c_float * math.prod(shape)).from_address(address)
    return np.ctypeslib.as_array(block).reshape(shape)
