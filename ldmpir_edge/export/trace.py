"""Trace an unrolled sampler to ONNX and clean the graph."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldmpir_edge.errors import BackendError
from ldmpir_edge.export.tensors import family_inputs
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Problem

if TYPE_CHECKING:
    import onnx

    from ldmpir_edge.models.ldmpir import LdmPir

# OpenVINO reads opset-20 DFT wrongly and JetPack 6 parses up to 17 without gaps: 17 it is.
OPSET = 17
FORBIDDEN_OPS = frozenset({"Loop", "Scan", "If", "ScatterND", "ScatterElements", "DFT", "STFT"})


def trace(model: LdmPir, problem: Problem, n_steps: int) -> onnx.ModelProto:
    """Unroll `n_steps` of the sampler into an ONNX graph for the problem's family.

    All sizes are dynamic: coils, height, width, views, samples and batch.

    Parameters
    ----------
    model
        Trained model.
    problem
        A small example of the family; only its shapes matter.
    n_steps
        Sampler steps.

    Raises
    ------
    BackendError
        The graph holds an operator that an engine lacks.
    """
    import onnx
    import torch

    from ldmpir_edge.models.engine import EngineModule, engine_inputs

    names = engine_inputs(problem.family, n_steps)
    arrays = engine_arrays(problem, n_steps)
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in names)
    shapes = {spec.name: spec.shape for spec in family_inputs(problem.family)}
    axes = {
        name: {axis: str(dim) for axis, dim in enumerate(shapes[name]) if isinstance(dim, str)}
        for name in names
    }
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The TorchScript exporter warns of its age and of every Python integer taken from a
        # shape; the shapes that matter are checked on other sizes by the gate.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            EngineModule(model, problem.family, n_steps).eval(),
            tensors,
            buffer,  # type: ignore[arg-type]  # accepts any binary file, says the documentation
            input_names=list(names),
            output_names=["image"],
            dynamic_axes={**axes, "image": {0: "B", 2: "H", 3: "W"}},
            opset_version=OPSET,
            dynamo=False,
        )
    slim = simplify(buffer.getvalue())
    unshare_biases(slim)
    used = {node.op_type for node in slim.graph.node}
    if bad := sorted(used & FORBIDDEN_OPS):
        raise BackendError(
            f"the {problem.family} graph uses {', '.join(bad)}, which an edge engine lacks: "
            "write the operator with MatMul, Gather and elementwise operations"
        )
    onnx.checker.check_model(slim)
    return slim


def unshare_biases(model: onnx.ModelProto) -> None:
    """Give every convolution a bias of its own, in place.

    OpenVINO fuses a convolution with its bias, and then with the activation behind it, only where
    nothing else reads the bias; the steps of the sampler share theirs. Kernels stay shared.
    """
    import onnx

    biases = {tensor.name: tensor for tensor in model.graph.initializer}
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        name = node.input[2]
        if seen[name]:
            copy = onnx.TensorProto()
            copy.CopyFrom(biases[name])
            copy.name = f"{name}_{seen[name]}"
            model.graph.initializer.append(copy)
            node.input[2] = copy.name
        seen[name] += 1


def simplify(graph: bytes) -> onnx.ModelProto:
    """Fold constants and drop what is repeated or unused, by ONNX Runtime's basic level.

    That level is independent of the hardware and keeps to standard operators. It takes a second
    where onnxslim took half a minute on an unrolled graph, and leaves fewer nodes.
    """
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="ldmpir-simplify-") as folder:
        path = Path(folder) / "graph.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        model = onnx.load(path)
    # ONNX Runtime lists every domain it knows; an engine must see only those in use.
    standard = [entry for entry in model.opset_import if entry.domain == ""]
    if foreign := sorted({node.domain for node in model.graph.node} - {""}):
        raise BackendError(f"simplification left operators of {', '.join(foreign)}")
    del model.opset_import[:]
    model.opset_import.extend(standard)
    return model
