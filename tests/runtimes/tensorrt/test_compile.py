"""Parsing and building for real: TensorRT-RTX compiles for GPUs that are not there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper
from toy_bundle import MIX, toy_graph

from ldmpir_edge.errors import BackendError, UsageError
from ldmpir_edge.runtimes.tensorrt.compile import build_engine, engine_validity

tensorrt_rtx: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

CAPABILITIES = ("8.6", "8.9")
PROFILE = {
    "x1": ((1, 2, 4, 4), (1, 2, 32, 32), (1, 2, 64, 48)),
    "mask": ((1, 4, 4), (1, 32, 32), (1, 64, 48)),
}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """The toy network with its weights in a file beside it."""
    (tmp_path / "toy.onnx").write_bytes(toy_graph())
    (tmp_path / "weights-fp32.bin").write_bytes(MIX.tobytes())
    return tmp_path / "toy.onnx"


def write(path: Path, *nodes: Any, shape: tuple[int, ...] = (1, 8, 8, 2)) -> Path:
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        list(nodes), "g", [info("x", 1, shape)], [info("y", TensorProto.FLOAT, None)]
    )
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString())
    return path


def test_an_engine_is_built_for_two_kinds_of_gpu(graph: Path) -> None:
    parts: list[float] = []
    built = build_engine(
        tensorrt_rtx, graph, PROFILE, compute_capabilities=CAPABILITIES, on_progress=parts.append
    )
    assert len(built.plan) > 1000
    assert built.timing_cache is None
    # The library's own judgement: sound, as far as can be said without a GPU.
    assert engine_validity(tensorrt_rtx, built.plan) in ("valid", "suboptimal", "unchecked")
    assert engine_validity(tensorrt_rtx, built.plan[1:]) == "invalid"
    assert engine_validity(tensorrt_rtx, bytes(1000)) == "invalid"
    assert parts == sorted(parts)
    assert parts[-1] <= 1


def test_the_external_weights_are_in_the_engine(graph: Path) -> None:
    """A plan of other weights is another plan; one without its weights is none."""
    first = build_engine(tensorrt_rtx, graph, PROFILE, compute_capabilities=CAPABILITIES).plan
    assert MIX.tobytes() in first
    (graph.parent / "weights-fp32.bin").unlink()
    with pytest.raises(BackendError, match=r"cannot parse toy\.onnx"):
        build_engine(tensorrt_rtx, graph, PROFILE, compute_capabilities=CAPABILITIES)


def test_float32_stays_float32(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's default, TF32, computes the physics' products with the mantissa of float16."""
    seen: list[bool] = []
    build = tensorrt_rtx.Builder.build_serialized_network

    def spy(builder: Any, network: Any, config: Any) -> Any:
        seen.append(config.get_flag(tensorrt_rtx.BuilderFlag.TF32))
        assert network.get_flag(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return build(builder, network, config)

    monkeypatch.setattr(tensorrt_rtx.Builder, "build_serialized_network", spy)
    build_engine(tensorrt_rtx, graph, PROFILE, compute_capabilities=CAPABILITIES)
    assert seen == [False]


def test_a_node_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    dft = helper.make_node("DFT", ["x"], ["y"], name="/physics/dft_7", axis=2)
    path = write(tmp_path / "bad.onnx", dft)
    with pytest.raises(BackendError, match=r"cannot parse bad\.onnx: DFT /physics/dft_7") as caught:
        build_engine(tensorrt_rtx, path, {"x": ((1, 8, 8, 2),) * 3})
    assert "\n" not in str(caught.value)


def test_a_node_that_cannot_be_built_is_named(tmp_path: Path) -> None:
    """Turing has no matrix product in FP32, as only building finds out."""
    path = write(
        tmp_path / "turing.onnx",
        helper.make_node("MatMul", ["x", "x"], ["y"], name="/physics/MatMul_3"),
        shape=(64, 64),
    )
    profile = {"x": ((64, 64),) * 3}
    with pytest.raises(BackendError, match=r"cannot build turing\.onnx.*/physics/MatMul_3.*FP32"):
        build_engine(tensorrt_rtx, path, profile, compute_capabilities=("7.5",))
    assert build_engine(tensorrt_rtx, path, profile, compute_capabilities=("8.6",)).plan


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"cannot parse none\.onnx"):
        build_engine(tensorrt_rtx, tmp_path / "none.onnx", {})


def test_a_profile_that_contradicts_itself_is_refused(graph: Path) -> None:
    upside_down = {name: shapes[::-1] for name, shapes in PROFILE.items()}
    with pytest.raises(BackendError, match="MIN<=OPT<=MAX"):
        build_engine(tensorrt_rtx, graph, upside_down, compute_capabilities=CAPABILITIES)


def test_an_unknown_compute_capability_lists_those_there_are(graph: Path) -> None:
    with pytest.raises(UsageError, match=r"'6\.1'; choose of .*8\.6.*12\.0"):
        build_engine(tensorrt_rtx, graph, PROFILE, compute_capabilities=("6.1",))


def test_an_interruption_stops_the_build_and_gets_through(graph: Path) -> None:
    parts: list[float] = []

    def interrupt(part: float) -> None:
        parts.append(part)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_engine(
            tensorrt_rtx, graph, PROFILE, compute_capabilities=CAPABILITIES, on_progress=interrupt
        )
    assert signal.getsignal(signal.SIGINT) is before
    assert max(parts) < 1, "the builder went on to the end"


class WithoutGpu:
    """`tensorrt` on a machine without a GPU: its bindings give no builder."""

    __name__ = "tensorrt"

    class ILogger:
        ERROR, WARNING = 1, 2

    def Builder(self, log: Any) -> Any:
        log.log(self.ILogger.ERROR, "createInferBuilder: Error Code 6:\n no CUDA device")
        raise TypeError("pybind11::init(): factory function returned nullptr")


def test_a_library_that_cannot_start_says_why(graph: Path) -> None:
    with pytest.raises(BackendError, match=r"tensorrt cannot compile here: .*no CUDA device"):
        build_engine(WithoutGpu(), graph, PROFILE)
