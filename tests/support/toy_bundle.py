"""Toy bundles and ONNX graphs whose answer a reader can compute by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ldmpir_edge.bundle import (
    FamilySpec,
    GateResult,
    GoldenPair,
    LoadedVariant,
    Manifest,
    ModelInfo,
    PrecisionSpec,
    SamplerPreset,
    SamplerSpec,
    SizeLimits,
    TensorSpec,
    VariantSpec,
    describe_entries,
    pack_golden,
)

MIX = np.array([[2.0, 0.0], [0.0, 3.0]], np.float32)
"""The toy network: real plane times 2, imaginary plane times 3."""

INPUTS = (
    TensorSpec(name="x1", dtype="float32", shape=("B", 2, "H", "W"), range=(-2.0, 2.0)),
    TensorSpec(name="mask", dtype="float32", shape=("B", "H", "W"), range=(0.0, 1.0)),
    TensorSpec(name="noise", dtype="float32", shape=("B", "n_steps-1", 2, "H", "W")),
)
OUTPUTS = (TensorSpec(name="image", dtype="float32", shape=("B", 2, "H", "W")),)


def golden_pair() -> GoldenPair:
    """Inputs of one step and the answer that MIX and the mask give."""
    x1 = np.arange(2 * 4 * 6, dtype=np.float32).reshape(1, 2, 4, 6)
    mask = (np.arange(24, dtype=np.float32).reshape(1, 4, 6) % 3 == 0).astype(np.float32)
    return GoldenPair({"x1": x1, "mask": mask}, {"image": toy_answer(x1, mask)})


def toy_answer(x1: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What the toy graph must compute, by numpy alone."""
    return (np.einsum("oc,bchw->bohw", MIX, x1) + mask[:, None]).astype(np.float32)


def toy_files() -> dict[str, bytes]:
    """Content of a small bundle; the graphs are not ONNX, which a bundle does not mind."""
    return {
        "graphs/pointwise-1-fp32.onnx": b"graph one",
        "graphs/pointwise-4-fp32.onnx": b"graph four",
        "graphs/weights-fp32.bin": MIX.tobytes(),
        "golden/pointwise.npz": pack_golden(golden_pair()),
    }


def toy_manifest(files: dict[str, bytes], **changes: Any) -> Manifest:
    """A valid manifest for `files`, with top-level fields replaced by `changes`."""
    gate = GateResult(
        task="denoise",
        backend="onnxruntime",
        n_slices=4,
        psnr_delta_mean_db=0.0,
        psnr_delta_worst_db=-0.001,
        max_abs_diff=1e-6,
        passed=True,
    )
    variants = tuple(
        VariantSpec(
            family="pointwise",
            n_steps=n_steps,
            precision="fp32",
            graph=f"graphs/pointwise-{n_steps}-fp32.onnx",
            weights=("graphs/weights-fp32.bin",),
            inputs=inputs,
            opset=18,
            gate=(gate,),
        )
        for n_steps, inputs in ((1, ("x1", "mask")), (4, ("x1", "mask", "noise")))
    )
    fields: dict[str, Any] = {
        "model": ModelInfo(id="toy", version="1.0", n_parameters=4, licence="Apache-2.0"),
        "created": datetime(2026, 11, 22, tzinfo=UTC),
        "verified": True,
        "sampler": SamplerSpec(
            presets=(
                SamplerPreset(n_steps=1, times=(1.0, 0.0)),
                SamplerPreset(n_steps=4, times=(1.0, 0.75, 0.5, 0.25, 0.0)),
            ),
            default_n_steps=4,
            sigma_bridge=0.05,
        ),
        "scaling": "values are divided by the 99.5th percentile of |x1|",
        "limits": SizeLimits(
            min_height=16, max_height=64, min_width=16, max_width=48, max_coils=8, max_views=90
        ),
        "families": (
            FamilySpec(
                name="pointwise",
                tasks=("denoise", "inpaint"),
                inputs=INPUTS,
                outputs=OUTPUTS,
                golden="golden/pointwise.npz",
            ),
        ),
        "precisions": (PrecisionSpec(name="fp32", parts={"network": "fp32", "physics": "fp32"}),),
        "variants": variants,
        "source_hashes": {"weights.safetensors": "0" * 64},
        "tool_versions": {"torch": "2.13.0"},
        "entries": describe_entries(files),
    }
    return Manifest(**fields | changes)


def toy_graph(*, poison: float = 0.0) -> bytes:
    """ONNX for image = MIX · x1 + mask, its weights in weights-fp32.bin.

    With `poison`, √(min(mask) − poison) is added, which is NaN where a mask value is below it.
    """
    from onnx import TensorProto, helper

    weight = TensorProto(
        name="mix",
        data_type=TensorProto.FLOAT,
        dims=(2, 2, 1, 1),
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", "weights-fp32.bin"), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("Conv", ["x1", "mix"], ["mixed"]),
        helper.make_node("Unsqueeze", ["mask", "axis"], ["mask4"]),
        helper.make_node("Add", ["mixed", "mask4"], ["clean" if poison else "image"]),
    ]
    constants = [weight, helper.make_tensor("axis", TensorProto.INT64, [1], [1])]
    if poison:
        constants.append(helper.make_tensor("poison", TensorProto.FLOAT, [], [poison]))
        nodes += [
            helper.make_node("ReduceMin", ["mask"], ["least"], keepdims=0),
            helper.make_node("Sub", ["least", "poison"], ["gap"]),
            helper.make_node("Sqrt", ["gap"], ["root"]),
            helper.make_node("Add", ["clean", "root"], ["image"]),
        ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            info("x1", TensorProto.FLOAT, ["B", 2, "H", "W"]),
            info("mask", TensorProto.FLOAT, ["B", "H", "W"]),
        ],
        [info("image", TensorProto.FLOAT, ["B", 2, "H", "W"])],
        constants,
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    return bytes(model.SerializeToString())


def toy_variant(folder: Path, graph: bytes | None = None, **changes: Any) -> LoadedVariant:
    """A one-step toy variant on disk in `folder`, with fields replaced by `changes`."""
    (folder / "toy.onnx").write_bytes(toy_graph() if graph is None else graph)
    (folder / "weights-fp32.bin").write_bytes(MIX.tobytes())
    fields: dict[str, Any] = {
        "graph": folder / "toy.onnx",
        "family": "pointwise",
        "n_steps": 1,
        "precision": "fp32",
        "inputs": INPUTS[:2],
        "outputs": OUTPUTS,
        "model": ModelInfo(id="toy", version="1.0", n_parameters=4, licence="Apache-2.0"),
        "source_hashes": {},
    }
    return LoadedVariant(**fields | changes)
