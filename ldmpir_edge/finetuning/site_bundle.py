"""From fine-tuned weights to a bundle like any other, which says where they come from."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ldmpir_edge.bundle import FinetuningSpec, Manifest, Precision, open_bundle, packaged_bundles
from ldmpir_edge.export.bundle_writer import (
    GOLDEN_SIZE,
    WEIGHTS,
    Progress,
    export_bundle,
    read_model_info,
)
from ldmpir_edge.export.cases import GateImages, make_cases
from ldmpir_edge.export.targets import Target
from ldmpir_edge.finetuning.loop import Outcome
from ldmpir_edge.finetuning.recipe import FinetuneRecipe
from ldmpir_edge.finetuning.scans import SiteScans
from ldmpir_edge.finetuning.site_gate import run_site_gate
from ldmpir_edge.models.weights import load_weights, save_weights

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MODEL_TOML = 'name = "{id}"\nversion = "{version}+finetuned"\nlicence = "{licence}"\n'


def write_site_bundle(
    outcome: Outcome,
    base_folder: Path,
    output: Path,
    scans: SiteScans,
    recipe: FinetuneRecipe,
    precisions: Sequence[Precision],
    target: Target,
    images: GateImages,
    *,
    created: datetime,
    signing_key: Ed25519PrivateKey | None,
    on_progress: Progress,
) -> Manifest:
    """Gate an improved model on the site's scans and export it.

    Parameters
    ----------
    outcome
        Improved.
    base_folder
        Weights and model.toml of the base.
    output
        The .ldmpir file.
    scans, recipe
        What was learned from, and how.
    precisions, target, images, created, signing_key, on_progress
        As for `export_bundle`.

    Raises
    ------
    GateError
        The model fails the gate of `run_site_gate`, or the export's.
    BundleError, BackendError, OutputError
        As for `export_bundle`.
    """
    weights = base_folder / WEIGHTS
    base = load_weights(weights)
    info = read_model_info(base_folder, base)
    base_digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory(prefix="ldmpir-finetune-") as temporary:
        folder = Path(temporary)
        save_weights(outcome.model, folder / WEIGHTS)
        (folder / "model.toml").write_text(MODEL_TOML.format(**info.model_dump()))
        # What is written is what is judged: weights on disk are rounded.
        model = load_weights(folder / WEIGHTS)
        golden = make_cases(images, GOLDEN_SIZE).values()
        gate = run_site_gate(
            model,
            base,
            [entry.measured.problem for entry in scans.slices],
            [cases[0].problem for cases in golden],
            target.default_n_steps,
        )
        spec = FinetuningSpec(
            base=info,
            base_weights=base_digest,
            base_bundle=_packaged_digest(info.id, base_digest),
            scans=scans.digests,
            loss=recipe.loss,
            seed=recipe.seed,
            rank=recipe.rank,
            n_updates=outcome.n_updates,
            held_out=outcome.held_out,
            residual=gate.residual,
            base_residual=gate.base_residual,
            golden_rms=gate.golden_rms,
        )
        return export_bundle(
            folder,
            output,
            precisions,
            target,
            images,
            created=created,
            signing_key=signing_key,
            finetuning=spec,
            on_progress=on_progress,
        )


def _packaged_digest(name: str, weights_sha256: str) -> str | None:
    """Return the digest of the packaged bundle that holds these weights, if there is one."""
    if name not in packaged_bundles():
        return None
    bundle = open_bundle(name)
    same = bundle.manifest.source_hashes.get(WEIGHTS) == weights_sha256
    return bundle.digest if same else None
