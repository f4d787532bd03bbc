"""One graph in one CPU engine, for timing: OpenVINO and ONNX Runtime as the product sets them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
ENGINES = ("openvino", "onnxruntime")


def openvino_model(path: Path, inputs: Arrays, threads: int, *, profile: bool = False):
    """Compile a graph for the shapes of `inputs`."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))
    model.reshape(
        {
            port: list(inputs[port.get_any_name()].shape)
            for port in model.inputs
            if port.get_any_name() in inputs
        }
    )
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERF_COUNT": profile,
    }
    return core.compile_model(model, "CPU", properties)


def runner(engine: str, path: Path, inputs: Arrays, threads: int) -> Callable[[], object]:
    """Return a call that runs the graph once on `inputs`; those it does not take are left out."""
    if engine == "openvino":
        compiled = openvino_model(path, inputs, threads)
        request = compiled.create_infer_request()
        fed = {port.get_any_name(): inputs[port.get_any_name()] for port in compiled.inputs}
        return lambda: request.infer(fed)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fed = {entry.name: inputs[entry.name] for entry in session.get_inputs()}
    return lambda: session.run(None, fed)


def median_seconds(call: Callable[[], object], repeats: int, warm_up: int = 2) -> float:
    """Median of `repeats` calls, after `warm_up` that do not count."""
    return interleaved_medians({"": call}, repeats, warm_up)[""]


def interleaved_medians(
    calls: dict[str, Callable[[], object]], repeats: int, warm_up: int = 2
) -> dict[str, float]:
    """Median seconds of each call, made in turns, after `warm_up` rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + warm_up):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[warm_up:]) for name, values in times.items()}
