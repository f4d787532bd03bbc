"""Bundles that say that they were fine-tuned: of the toy network, or of the shipped one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from toy_bundle import golden_pair, toy_files, toy_graph, toy_manifest

from ldmpir_edge.bundle import (
    Archive,
    FinetuningSpec,
    GoldenPair,
    find_bundle,
    generate_key,
    load_signing_key,
    pack_golden,
    write_bundle,
)

TOY_WEIGHTS = "0" * 64
"""What the toy's manifest calls the hash of its weights."""


def trust_new_key(folder: Path, name: str = "ours") -> Path:
    """Make a signing key and put its public half into `folder/keys`; gives the private one."""
    (folder / "keys").mkdir(exist_ok=True)
    private = folder / f"{name}.pem"
    generate_key(private).rename(folder / "keys" / f"{name}.pem")
    return private


def tuned_from(weights: str, manifest_model: object) -> FinetuningSpec:
    """Say that a model was fine-tuned from others with these weights."""
    return FinetuningSpec(
        base=manifest_model,
        base_weights=weights,
        scans=("a" * 64,),
        loss="equivariant",
        seed=0,
        rank=0,
        n_updates=20,
        held_out=0.9,
        residual=0.1,
        base_residual=0.1,
        golden_rms=0.01,
    )


def write_toy_bundle(
    path: Path,
    key: Path | None = None,
    *,
    tuned: bool = True,
    base: str = TOY_WEIGHTS,
    seed: int = 0,
    answer: float = 1.0,
    weights: str = TOY_WEIGHTS,
) -> Path:
    """Write a toy that runs; its golden answer is `answer` times what the graph gives.

    Fine-tuned or not: `base` or `weights` is what it calls the hash of the base's weights.
    """
    pair = golden_pair()
    outputs = {"image": np.float32(answer) * pair.outputs["image"]}
    files = toy_files() | {
        "graphs/pointwise-1-fp32.onnx": toy_graph(),
        "graphs/pointwise-4-fp32.onnx": toy_graph(),
        "golden/pointwise.npz": pack_golden(GoldenPair(pair.inputs, outputs)),
    }
    manifest = toy_manifest(files)
    changes: dict[str, object] = {
        "variants": tuple(
            v.model_copy(update={"inputs": ("x1", "mask")}) for v in manifest.variants
        ),
        "notes": f"seed {seed}",
        "source_hashes": {"weights.safetensors": weights},
    }
    if tuned:
        changes["finetuning"] = tuned_from(base, manifest.model)
        changes["source_hashes"] = {"weights.safetensors": f"{seed + 1:064x}"}
        changes["model"] = manifest.model.model_copy(update={"version": "1.0+finetuned"})
    signing_key = load_signing_key(key) if key else None
    write_bundle(path, manifest.model_copy(update=changes), files, signing_key)
    return path


def write_tuned_shipped(path: Path, key: Path) -> Path:
    """Write the shipped bundle once more, as if fine-tuning had made it from the shipped one."""
    archive = Archive(find_bundle("ldmpir-2m"))
    told = archive.manifest
    version = f"{told.model.version}+finetuned"
    manifest = told.model_copy(
        update={
            "model": told.model.model_copy(update={"version": version}),
            "finetuning": tuned_from(told.source_hashes["weights.safetensors"], told.model),
            "source_hashes": {**told.source_hashes, "weights.safetensors": "b" * 64},
        }
    )
    files = {name: archive.read(name) for name in told.entries}
    write_bundle(path, manifest, files, load_signing_key(key))
    return path
