"""Export a trained model: trace, change precision, gate, and write the signed bundle."""

from __future__ import annotations

import hashlib
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldmpir_edge.bundle import (
    FamilySpec,
    FinetuningSpec,
    GoldenPair,
    LoadedVariant,
    Manifest,
    ModelInfo,
    Precision,
    PrecisionSpec,
    SamplerPreset,
    SamplerSpec,
    describe_entries,
    pack_golden,
    write_bundle,
)
from ldmpir_edge.errors import BundleError, GateError
from ldmpir_edge.export.cases import GateImages, GateSlice, make_cases
from ldmpir_edge.export.engines import compile_engines, load_compiler, n_engines
from ldmpir_edge.export.fastest import keep_fastest
from ldmpir_edge.export.gate import golden_margins_db, reference_image, reference_images
from ldmpir_edge.export.targets import Target
from ldmpir_edge.export.tensors import OUTPUTS, family_inputs
from ldmpir_edge.export.trace_all import trace_all
from ldmpir_edge.export.variants import VariantBuilder
from ldmpir_edge.models.ldmpir import n_parameters
from ldmpir_edge.models.sampler import schedule
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import FAMILIES, Family, Task

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from ldmpir_edge.models.ldmpir import LdmPir

CASE_SIZE = 96
GOLDEN_SIZE = 32
CALIBRATION_SEED = 1926
"""Not the gate's: where both have the same images they still see other views and masks."""
RAYS_GOLDEN_SIZE = 16
"""Ray tables grow with the cube of the size; at 32 they were a quarter of the wheel."""
WEIGHTS = "weights.safetensors"

SCALING = (
    "An engine value v stands for v * scale + offset in the scan's unit. MRI and MR images: "
    "scale is the 99.5th percentile of the classical estimate's magnitude, offset 0. CT: scale "
    "2000, offset -1000 (HU). noise_level is the standard deviation per real component of the "
    "measurement after scaling, for an operator of norm 1."
)

TASKS: dict[Family, tuple[Task, ...]] = {
    "cartesian1d": ("mri",),
    "separable": ("mri", "super-resolve"),
    "pointwise": ("denoise", "inpaint"),
    "toeplitz": ("ct",),
    "rays": ("ct",),
}

PARTS: dict[Precision, dict[str, str]] = {
    "fp32": {"network": "fp32", "physics": "fp32", "conditioning": "fp32"},
    "fp16": {"network": "fp16", "physics": "fp32", "conditioning": "fp32"},
    "int8": {
        "network": "int8",
        "first-and-last-layer": "fp32",
        "physics": "fp32",
        "conditioning": "fp32",
    },
}

Progress = Callable[[str, int, int], None]


def export_bundle(
    model_folder: Path,
    output: Path,
    precisions: Sequence[Precision],
    target: Target,
    images: GateImages,
    *,
    created: datetime,
    calibration_images: GateImages | None = None,
    gate: bool = True,
    fastest_only: bool = False,
    signing_key: Ed25519PrivateKey | None = None,
    finetuning: FinetuningSpec | None = None,
    on_progress: Progress = lambda what, done, total: None,
) -> Manifest:
    """Write a bundle with every family, number of steps and precision of the target.

    Parameters
    ----------
    model_folder
        Holds weights.safetensors and model.toml.
    output
        The .ldmpir file.
    precisions
        Of `fp32`, `fp16` and `int8`.
    target, images
        What to export, and the held-out images of the gate.
    created
        Time of the export, with its zone.
    calibration_images
        What int8 takes its ranges from; None takes other views of the gate's images.
    gate
        False marks the bundle as unverified.
    fastest_only
        Keep only that of `precisions` which is fastest on this machine; one that the gate refuses
        is left out instead of being an error. `precisions` must hold fp32.
    finetuning
        Where the weights come from, of a fine-tuned model.
    on_progress
        Called with (what is being done, steps done, steps in all).

    Raises
    ------
    BundleError
        The weights cannot be loaded.
    GateError
        A variant changes the image and no mixture with fp32 layers helps.
    MissingExtraError, BackendError
        The library that compiles the target's engines is absent, or refuses a graph.
    OutputError
        The bundle cannot be written.
    """
    calibration_images = calibration_images or images
    model = load_weights(model_folder / WEIGHTS)
    info = read_model_info(model_folder, model)
    cases = make_cases(images, CASE_SIZE)
    calibration = make_cases(calibration_images, CASE_SIZE, CALIBRATION_SEED)
    small = make_cases(images, GOLDEN_SIZE)
    small["rays"] = make_cases(images, RAYS_GOLDEN_SIZE)["rays"]
    compiler = load_compiler(target)
    total = len(FAMILIES) * len(target.n_steps) * len(precisions) + 2
    total += n_engines(target, len(precisions))
    done = 0

    def tick(what: str) -> None:
        nonlocal done
        on_progress(what, done, total)
        done += 1

    with tempfile.TemporaryDirectory(prefix="ldmpir-export-") as temporary:
        folder = Path(temporary)
        builder = VariantBuilder(
            folder,
            target,
            lambda what: on_progress(what, done, total),
            shared=not fastest_only,
        )
        problems = {family: small[family][0].problem for family in FAMILIES}
        refusals: dict[Precision, str] = {}
        tick("tracing")
        for family, n_steps, graph in trace_all(model, problems, target.n_steps):
            references = reference_images(model, cases[family], n_steps) if gate else []
            for precision in precisions:
                tick(f"gating {family}, {n_steps} steps, {precision}")
                if precision in refusals:
                    continue
                try:
                    builder.add(
                        graph,
                        family,
                        n_steps,
                        precision,
                        calibration[family],
                        cases[family],
                        references,
                    )
                except GateError as err:
                    if not fastest_only or precision == "fp32":
                        raise
                    refusals[precision] = str(err)
        chosen = ""
        if fastest_only:
            chosen = keep_fastest(builder, target, images, refusals)
        quantized = any(variant.precision == "int8" for variant in builder.variants)
        loaded = [builder.load(variant) for variant in builder.variants]
        engines = compile_engines(compiler, folder, loaded, target, tick)
        tick("writing the bundle")
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        files |= golden_pairs(model, small, target, loaded, must_pass=gate)
        manifest = Manifest(
            model=info,
            created=created,
            verified=gate,
            sampler=SamplerSpec(
                presets=tuple(
                    SamplerPreset(n_steps=n, times=schedule(n, model.config.t_last))
                    for n in target.n_steps
                ),
                default_n_steps=target.default_n_steps,
                sigma_bridge=model.config.sigma_bridge,
            ),
            scaling=SCALING,
            limits=target.limits,
            families=tuple(_family_spec(family) for family in FAMILIES),
            precisions=tuple(
                PrecisionSpec(name=p, parts=PARTS[p])
                for p in precisions
                if any(variant.precision == p for variant in builder.variants)
            ),
            variants=tuple(builder.variants),
            engines=engines,
            recipe=target.engine.recipe if target.engine else None,
            finetuning=finetuning,
            source_hashes={
                name: hashlib.sha256((model_folder / name).read_bytes()).hexdigest()
                for name in (WEIGHTS, "model.toml")
            },
            tool_versions={
                name: version(name) for name in ("ldmpir-edge", "torch", "onnx", "onnxruntime")
            },
            notes=_notes(builder, images, calibration_images if quantized else None, gate, chosen),
            entries=describe_entries(files),
        )
        write_bundle(output, manifest, files, signing_key)
        on_progress("done", total, total)
    return manifest


def golden_pairs(
    model: LdmPir,
    cases: Mapping[Family, Sequence[GateSlice]],
    target: Target,
    variants: Sequence[LoadedVariant],
    *,
    must_pass: bool,
) -> dict[str, bytes]:
    """Make each family's golden pair, of the slice that its variants reproduce best.

    The slices are tiny, and on some of them int8 is off by more than on any image of a scan's size:
    as a golden pair that would condemn every engine.

    Raises
    ------
    GateError
        `must_pass`, and no slice is reproduced by every variant at the PSNR that `verify` asks for.
    """
    n_steps, files = target.default_n_steps, {}
    for family in FAMILIES:
        pairs = []
        for entry in cases[family]:
            image = reference_image(model, entry.problem, n_steps)[None]
            pairs.append(GoldenPair(engine_arrays(entry.problem, n_steps), {"image": image}))
        replayed = [v for v in variants if v.family == family and v.n_steps == n_steps]
        to_spare = np.min([golden_margins_db(variant, pairs) for variant in replayed], axis=0)
        best = int(np.argmax(to_spare))
        if must_pass and to_spare[best] < 0:
            raise GateError(
                f"no golden pair of {family} is reproduced in every precision: the nearest differs "
                f"by {-to_spare[best]:.1f} dB too much; leave out a precision"
            )
        files[f"golden/{family}.npz"] = pack_golden(pairs[best])
    return files


def _family_spec(family: Family) -> FamilySpec:
    return FamilySpec(
        name=family,
        tasks=TASKS[family],
        inputs=family_inputs(family),
        outputs=OUTPUTS,
        golden=f"golden/{family}.npz",
    )


def read_model_info(folder: Path, model: LdmPir) -> ModelInfo:
    """Read what `folder/model.toml` calls a model.

    Raises
    ------
    BundleError
        It does not name the model.
    """
    path = folder / "model.toml"
    try:
        document = tomllib.loads(path.read_text())
        return ModelInfo(
            id=document["name"],
            version=document["version"],
            n_parameters=n_parameters(model),
            licence=document["licence"],
        )
    except (OSError, KeyError, ValueError) as err:
        raise BundleError(
            f"{path} does not name the model: {err}; it needs name, version and licence"
        ) from err


def _notes(
    builder: VariantBuilder,
    images: GateImages,
    calibration_images: GateImages | None,
    gate: bool,
    chosen: str,
) -> str:
    notes = [f"Gate images: {images.source}." if gate else "Exported without the gate."]
    if calibration_images is not None:
        notes.append(f"int8 ranges from: {calibration_images.source}.")
    if chosen:
        notes.append(chosen)
    by_layers: dict[str, list[str]] = defaultdict(list)
    for variant, layers in sorted(builder.kept.items()):
        by_layers[", ".join(sorted(layers))].append(variant)
    notes += [f"{', '.join(names)} keep {layers} in fp32." for layers, names in by_layers.items()]
    return " ".join(notes)
