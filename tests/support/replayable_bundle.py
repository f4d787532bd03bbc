"""A toy bundle whose graphs really run, right or wrong, beside its golden pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from toy_bundle import MIX, golden_pair, toy_graph, toy_manifest

from ldmpir_edge.bundle import (
    PrecisionSpec,
    SamplerPreset,
    SamplerSpec,
    VariantSpec,
    describe_entries,
    pack_golden,
    write_bundle,
)


def write_replayable(path: Path, **mixtures: np.ndarray) -> Path:
    """Write a one-step bundle with a variant for each precision, of these mixing weights.

    `fp32=MIX` alone is right. Weights that are all NaN give an image of NaN.
    """
    files = {"golden/pointwise.npz": pack_golden(golden_pair())}
    variants = []
    for precision, mix in (mixtures or {"fp32": MIX}).items():
        weights = f"graphs/weights-{precision}.bin"
        graph = f"graphs/pointwise-1-{precision}.onnx"
        files[weights] = mix.astype(np.float32).tobytes()
        files[graph] = toy_graph().replace(b"weights-fp32.bin", Path(weights).name.encode())
        variants.append(
            VariantSpec(
                family="pointwise",
                n_steps=1,
                precision=precision,
                graph=graph,
                weights=(weights,),
                inputs=("x1", "mask"),
                opset=18,
                gate=(),
            )
        )
    manifest = toy_manifest(
        files,
        verified=False,
        variants=tuple(variants),
        sampler=SamplerSpec(
            presets=(SamplerPreset(n_steps=1, times=(1.0, 0.0)),),
            default_n_steps=1,
            sigma_bridge=0.05,
        ),
        precisions=tuple(
            PrecisionSpec(name=v.precision, parts={"network": v.precision}) for v in variants
        ),
        entries=describe_entries(files),
    )
    write_bundle(path, manifest, files, None)
    return path
