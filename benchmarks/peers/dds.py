"""A DDS-style diffusion sampler around our own network: 50 small steps instead of four.

Decomposed Diffusion Sampling (Chung et al., ICLR 2024) repeats, 50 times: the network's estimate
of the clean image; 5 conjugate-gradient iterations towards the data; a DDIM step back to the next
noise level. Its published weights are those of large unconditional networks of other images, which
would compare trainings. Here the scheme is theirs and the network is ours: it sees the bridge
state, the classical image and the data's residual, walks the bridge's time in place of the
variance-preserving one, and starts from the classical image, which helps it. Instead of the
network's learned λ there is DDS's fixed γ = 1/λ, tuned, and η is DDIM's share of fresh noise.

A network trained for few steps has hardly seen times near 0: in evenly spaced steps it loses 7 dB
to its own four. So the walk goes evenly from time 1 to `t_last`, which is tuned, and from there to
0 in one step: the sampler's best foot.

One step costs one network and `n_cg` + 1 applications of AᴴA.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ldmpir_edge.errors import UsageError
from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.models.ksm import data_consistency, krylov_features, normal_operator
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.normal import NORMAL_OPERATORS, TABLES, batch_of_one
from ldmpir_edge.physics.problem import Family, Problem

N_STEPS = 50
N_CG = 5

Step = Callable[[dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]


class DdsStep(nn.Module):
    """One step from time t to s: `(x_t, residual)` to `(x_s, residual)`, residual = b − AᴴA x."""

    def __init__(self, model: LdmPir, family: Family, n_cg: int = N_CG) -> None:
        super().__init__()
        self.model = model
        self.family: Family = family
        self.n_cg = n_cg
        self.names = (*_STATE, "b", "x1", "noise_level", "condition", *TABLES[family])

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Take the tensors that `names` lists: `t`, `s` and `lam` have shape `(1, 1)`."""
        given = dict(zip(self.names, tensors, strict=True))
        tables = {name: given[name] for name in TABLES[self.family]}
        x_t, residual, t, s = given["x_t"], given["residual"], given["t"], given["s"]
        gram = normal_operator(self.family, tables)
        features = krylov_features(residual, gram, self.model.config.n_krylov)
        embedding = self.model.embed(t, given["noise_level"], given["condition"])
        seen = torch.cat([x_t, given["x1"], *features], dim=1)
        x0_hat = x_t + self.model.correct(seen, embedding)[0]
        lam = given["lam"][:, :, None, None]
        clean, its_residual = data_consistency(
            x0_hat, given["b"], lam, self.family, tables, self.n_cg
        )
        keep = (s / t)[:, :, None, None]
        return keep * x_t + (1 - keep) * clean, keep * residual + (1 - keep) * its_residual


_STATE = ("x_t", "residual", "t", "s", "lam")


def load_step(folder: Path, problem: Problem, backend: str, threads: int) -> Step:
    """Make the step of a model for problems of one family and size.

    Parameters
    ----------
    folder
        Holds `weights.safetensors`.
    problem
        An example: engines are compiled for its sizes.
    backend
        "torch" (eager), "onnxruntime" or "openvino": the same graph path as the product's.
    threads
        Of the engine; for torch those of the process.

    Raises
    ------
    UsageError
        There is no such backend.
    BundleError
        The weights cannot be loaded.
    """
    module = DdsStep(load_weights(folder / "weights.safetensors"), problem.family).eval()
    if backend == "torch":
        torch.set_num_threads(threads)

        @torch.no_grad()
        def eager(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            x, residual = module(*(torch.from_numpy(arrays[name]) for name in module.names))
            return x.numpy(), residual.numpy()

        return eager
    if backend not in ("onnxruntime", "openvino"):
        raise UsageError(f"no backend {backend!r}: torch, onnxruntime or openvino")
    graph = _trace(module, problem)
    if backend == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        taken = {entry.name for entry in session.get_inputs()}

        def run_ort(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            x, residual = session.run(None, {name: arrays[name] for name in taken})
            return x, residual

        return run_ort
    import openvino as ov

    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    core = ov.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", properties)
    # A port has several names where OpenVINO folded an operation into it.
    inputs = [(port.get_names() & set(module.names)).pop() for port in compiled.inputs]

    def run_openvino(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        results = compiled([arrays[name] for name in inputs])
        return np.array(results[0]), np.array(results[1])

    return run_openvino


def dds(
    problem: Problem,
    step: Step,
    *,
    lam: float,
    t_last: float,
    eta: float = 0.0,
    sigma: float = ModelConfig().sigma_bridge,
    n_steps: int = N_STEPS,
    seed: int = 0,
) -> np.ndarray:
    """Sample `(2, H, W)` engine planes from a problem; `PreparedSlice.to_scan` makes the image.

    Parameters
    ----------
    lam
        1/γ of DDS, in (AᴴA + λ) x = b + λ x̂₀ with ‖A‖ ≤ 1.
    t_last
        Time of the last call of the network, in (0, 1); 1 / n_steps is DDIM's even spacing.
    eta
        Share of the bridge's fresh noise at each step; 0 is the deterministic walk (DDIM).
    sigma
        The bridge's noise, `sigma_bridge` of the model.
    """
    arrays = _first_arrays(problem)
    arrays["lam"] = np.full((1, 1), lam, np.float32)
    rng = np.random.default_rng(seed)
    times = (*np.linspace(1, t_last, n_steps), 0.0)
    for t, s in pairwise(times):
        arrays["t"], arrays["s"] = (np.full((1, 1), value, np.float32) for value in (t, s))
        x, arrays["residual"] = step(arrays)
        if eta and s > 0:
            spread = eta * sigma * np.sqrt(s * (t - s) / t)
            x = x + np.float32(spread) * rng.standard_normal(x.shape, np.float32)
        arrays["x_t"] = x
    image: np.ndarray = arrays["x_t"][0]
    return image


def _first_arrays(problem: Problem) -> dict[str, np.ndarray]:
    arrays = engine_arrays(problem, 1)
    x1 = arrays["x1"]
    gram = NORMAL_OPERATORS[problem.family]
    residual = arrays["b"] - gram(x1, batch_of_one(problem.tables))
    return arrays | {"x_t": x1, "residual": residual.astype(np.float32)}


def _trace(module: DdsStep, problem: Problem) -> bytes:
    """Bring a step to ONNX as `ldmpir_edge.export.trace` does the unrolled sampler."""
    import warnings

    from ldmpir_edge.export.trace import OPSET, simplify

    arrays = _first_arrays(problem)
    arrays |= {
        name: np.full((1, 1), value, np.float32)
        for name, value in (("t", 1.0), ("s", 0.5), ("lam", 0.1))
    }
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(arrays[n])) for n in module.names)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The TorchScript exporter warns of its age and of every shape taken as a constant.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tensors,
            buffer,  # type: ignore[arg-type]  # accepts any binary file, says the documentation
            input_names=list(module.names),
            output_names=["x_s", "residual_s"],
            opset_version=OPSET,
            dynamo=False,
        )
    graph: bytes = simplify(buffer.getvalue()).SerializeToString()
    return graph
