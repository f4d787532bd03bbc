"""What the machine can do, what a graph asks of it, and where the time goes."""

from __future__ import annotations

import collections
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from engines import ENGINES, Arrays, median_seconds, openvino_model, runner
from onnx import TensorProto, helper, numpy_helper

LARGE = 1024
"""Values: biases are each convolution's own on purpose, and cost nothing."""
GEMM_SIZE = 2048
CONV_CHANNELS, CONV_SIZE, CONV_LAYERS = 64, 128, 6
PARTS = ("network", "data consistency", "Krylov features")
"""Of a slice; see `ablated`."""
NOT_COMPUTING = frozenset(
    [
        "Parameter",
        "Constant",
        "Result",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Slice",
        "StridedSlice",
        "Gather",
        "Concat",
        "Convert",
        "ShapeOf",
        "Split",
        "VariadicSplit",
        "Broadcast",
        "DepthToSpace",
        "SpaceToDepth",
    ]
)


def calibrate(folder: Path, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """GFLOP/s of a large GEMM and of a chain of 3 x 3 convolutions, through each engine."""
    rng = np.random.default_rng(0)
    kernels = {
        "gemm": (_gemm(), 2 * GEMM_SIZE**3, {"x": (GEMM_SIZE, GEMM_SIZE)}),
        "conv3x3": (
            _convolutions(rng),
            CONV_LAYERS * 2 * 9 * CONV_CHANNELS**2 * CONV_SIZE**2,
            {"x": (1, CONV_CHANNELS, CONV_SIZE, CONV_SIZE)},
        ),
    }
    rates: dict[str, dict[str, float]] = {}
    for engine in ENGINES:
        rates[engine] = {}
        for name, (graph, operations, shapes) in kernels.items():
            path = folder / f"{name}.onnx"
            onnx.save(graph, path)
            inputs = {k: rng.standard_normal(s, np.float32) for k, s in shapes.items()}
            seconds = median_seconds(runner(engine, path, inputs, threads), repeats)
            rates[engine][name] = operations / seconds / 1e9
    return rates


def cost(path: Path, inputs: Arrays) -> dict[str, float]:
    """GFLOP and GB of a graph: every operand read and every result written once.

    Counted on the exported graph for the shapes of `inputs`. Convolutions and matrix products
    count two operations a multiplication, everything else that computes one a result.
    """
    import openvino as ov

    model = ov.Core().read_model(str(path))
    model.reshape({n: list(inputs[n].shape) for n in (p.get_any_name() for p in model.inputs)})
    total = {"gflop": 0.0, "gbyte": 0.0}
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind in NOT_COMPUTING:
            continue
        out = int(np.prod(list(node.output(0).shape)))
        operands = [list(node.input(k).get_shape()) for k in range(node.get_input_size())]
        operations = out
        if kind == "Convolution":
            operations = 2 * out * int(np.prod(operands[1][1:]))
        elif kind == "MatMul":
            operations = 2 * out * operands[0][-1]
        total["gflop"] += operations / 1e9
        total["gbyte"] += 4 * (out + sum(int(np.prod(shape)) for shape in operands)) / 1e9
    return total


def ablated(folder: Path, weights: Path, problem: Any, n_steps: int) -> dict[str, Path]:
    """Trace the sampler whole, and without each of its parts.

    Without the network its correction is a hundredth of x_t; without data consistency x̂0 stays as
    the network made it; without the Krylov features the first residual costs nothing (the later
    ones come out of data consistency).
    """
    from unittest import mock

    import torch

    from ldmpir_edge.export.trace import trace
    from ldmpir_edge.models import ldmpir, sampler
    from ldmpir_edge.models.weights import load_weights

    class NoNetwork(torch.nn.Module):
        def forward(self, x, embedding):
            return 0.01 * x[:, :3]

    def no_consistency(x0_hat, b, lam, *_):
        return x0_hat + 0.01 * lam, b - 0.5 * x0_hat

    def half(*_):
        return lambda x: 0.5 * x

    model = load_weights(weights)
    paths = {name: folder / f"{name}.onnx" for name in ("whole", *PARTS)}
    onnx.save(trace(model, problem, n_steps), paths["whole"])
    with mock.patch.object(ldmpir, "data_consistency", no_consistency):
        onnx.save(trace(model, problem, n_steps), paths["data consistency"])
    with mock.patch.object(sampler, "normal_operator", half):
        onnx.save(trace(model, problem, n_steps), paths["Krylov features"])
    model.unet = NoNetwork()
    onnx.save(trace(model, problem, n_steps), paths["network"])
    return paths


def exported_graph(path: Path) -> dict[str, Any]:
    """Nodes by operator, and initializers that occur twice."""
    graph = onnx.load(path).graph
    digests = collections.Counter(
        hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).hexdigest()
        for tensor in graph.initializer
        if np.prod(tensor.dims) > LARGE
    )
    return {
        "nodes": len(graph.node),
        "operators": dict(collections.Counter(node.op_type for node in graph.node).most_common()),
        "duplicated_initializers": sum(n - 1 for n in digests.values()),
    }


def executed_by_openvino(path: Path, inputs: Arrays, threads: int) -> dict[str, Any]:
    """Layers that OpenVINO runs, activations fused into convolutions, time of each type."""
    compiled = openvino_model(path, inputs, threads, profile=True)
    request = compiled.create_infer_request()
    fed = {port.get_any_name(): inputs[port.get_any_name()] for port in compiled.inputs}
    for _ in range(3):
        request.infer(fed)
    milliseconds: collections.Counter[str] = collections.Counter()
    ran: collections.Counter[str] = collections.Counter()
    for entry in request.profiling_info:
        if entry.status == entry.Status.EXECUTED:
            milliseconds[entry.node_type] += entry.real_time.total_seconds() * 1e3
            ran[entry.node_type] += 1
    fused = standing = 0
    for layer in compiled.get_runtime_model().get_ordered_ops():
        info = layer.get_rt_info()
        kind = info["layerType"].astype(str)
        names = info["originalLayersNames"].astype(str) if "originalLayersNames" in info else ""
        if "Relu" in names:
            fused += kind == "Convolution"
            standing += kind != "Convolution"
    return {
        "layers": dict(ran.most_common()),
        "milliseconds": {k: round(v, 2) for k, v in milliseconds.most_common()},
        "activations_fused": fused,
        "activations_alone": standing,
    }


def executed_by_onnxruntime(path: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Operators after ONNX Runtime's own optimisation."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # it warns that the file is for this machine alone
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimised.onnx").graph.node
    operators = collections.Counter(node.op_type for node in nodes)
    fused = sum(any(a.name == "activation" for a in node.attribute) for node in nodes)
    return {
        "operators": dict(operators.most_common()),
        "activations_fused": fused,
        "activations_alone": operators["Relu"],
    }


def _gemm() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [GEMM_SIZE, GEMM_SIZE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [GEMM_SIZE, GEMM_SIZE])
    return _model([helper.make_node("MatMul", ["x", "x"], ["y"])], [x], [y], [])


def _convolutions(rng: np.random.Generator) -> onnx.ModelProto:
    shape = [1, CONV_CHANNELS, CONV_SIZE, CONV_SIZE]
    kernel = 0.02 * rng.standard_normal((CONV_CHANNELS, CONV_CHANNELS, 3, 3), np.float32)
    weights = numpy_helper.from_array(kernel, "w")
    nodes, name = [], "x"
    for k in range(CONV_LAYERS):
        out = "y" if k + 1 == CONV_LAYERS else f"h{k}"
        nodes.append(helper.make_node("Conv", [name, "w"], [f"c{k}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [out]))
        name = out
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y"))
    return _model(nodes, [x], [y], [weights])


def _model(nodes: list, inputs: list, outputs: list, weights: list) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "calibration", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
