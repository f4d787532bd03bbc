"""Export a trained model: trace, change precision, gate, and write the signed bundle."""

from __future__ import annotations

import hashlib
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ldmpir_edge.bundle import (
    FamilySpec,
    GateResult,
    GoldenPair,
    LoadedVariant,
    Manifest,
    ModelInfo,
    Precision,
    PrecisionSpec,
    SamplerPreset,
    SamplerSpec,
    VariantSpec,
    describe_entries,
    pack_golden,
    write_bundle,
)
from ldmpir_edge.errors import BundleError, GateError
from ldmpir_edge.export.blame import rank_layers
from ldmpir_edge.export.cases import SLICES_PER_TASK, GateImages, make_cases
from ldmpir_edge.export.gate import Planes, reference_image, reference_images, run_gate
from ldmpir_edge.export.overflow import overflowing_layers
from ldmpir_edge.export.precision import network_layers, to_half
from ldmpir_edge.export.targets import Target
from ldmpir_edge.export.tensors import OUTPUTS, family_inputs
from ldmpir_edge.export.trace import OPSET
from ldmpir_edge.export.trace_all import trace_all
from ldmpir_edge.export.weight_pool import WeightPool
from ldmpir_edge.models.engine import engine_inputs
from ldmpir_edge.models.ldmpir import n_parameters
from ldmpir_edge.models.sampler import schedule
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import FAMILIES, Family, Task
from ldmpir_edge.runtimes import get_backend

if TYPE_CHECKING:
    import onnx
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from ldmpir_edge.models.ldmpir import LdmPir
    from ldmpir_edge.training.acquisitions import Example

CASE_SIZE = 96
GOLDEN_SIZE = 32
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
}

Progress = Callable[[str, int, int], None]


@dataclass
class _Build:
    """What is being collected for one bundle."""

    folder: Path
    pools: dict[Precision, WeightPool] = field(default_factory=dict)
    variants: list[VariantSpec] = field(default_factory=list)
    kept: dict[str, frozenset[str]] = field(default_factory=dict)


def export_bundle(
    model_folder: Path,
    output: Path,
    precisions: Sequence[Precision],
    target: Target,
    images: GateImages,
    *,
    created: datetime,
    gate: bool = True,
    signing_key: Ed25519PrivateKey | None = None,
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
        `fp32` and/or `fp16`.
    target, images
        What to export, and the held-out images of the gate.
    created
        Time of the export, with its zone.
    gate
        False marks the bundle as unverified.
    on_progress
        Called with (what is being done, steps done, steps in all).

    Raises
    ------
    BundleError
        The weights cannot be loaded.
    GateError
        A variant changes the image and no mixture with fp32 layers helps.
    OutputError
        The bundle cannot be written.
    """
    model = load_weights(model_folder / WEIGHTS)
    info = _model_info(model_folder, model)
    cases = make_cases(images, CASE_SIZE)
    small = make_cases(images, GOLDEN_SIZE)
    small["rays"] = make_cases(images, RAYS_GOLDEN_SIZE)["rays"]
    total = len(FAMILIES) * len(target.n_steps) * len(precisions) + 2
    done = 0

    def tick(what: str) -> None:
        nonlocal done
        on_progress(what, done, total)
        done += 1

    with tempfile.TemporaryDirectory(prefix="ldmpir-export-") as temporary:
        build = _Build(Path(temporary))
        (build.folder / "graphs").mkdir()
        problems = {family: small[family][0].problem for family in FAMILIES}
        tick("tracing")
        for family, n_steps, graph in trace_all(model, problems, target.n_steps):
            references = reference_images(model, cases[family], n_steps) if gate else []
            for precision in precisions:
                tick(f"gating {family}, {n_steps} steps, {precision}")
                _add_variant(
                    build, graph, family, n_steps, precision, target, cases[family], references
                )
        tick("writing the bundle")
        files = {
            path.relative_to(build.folder).as_posix(): path.read_bytes()
            for path in sorted(build.folder.rglob("*"))
            if path.is_file()
        }
        files |= _golden_pairs(model, small, target)
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
            precisions=tuple(PrecisionSpec(name=p, parts=PARTS[p]) for p in precisions),
            variants=tuple(build.variants),
            source_hashes={
                name: hashlib.sha256((model_folder / name).read_bytes()).hexdigest()
                for name in (WEIGHTS, "model.toml")
            },
            tool_versions={
                name: version(name) for name in ("ldmpir-edge", "torch", "onnx", "onnxruntime")
            },
            notes=_notes(build, images, gate),
            entries=describe_entries(files),
        )
        write_bundle(output, manifest, files, signing_key)
        on_progress("done", total, total)
    return manifest


def _add_variant(
    build: _Build,
    graph: onnx.ModelProto,
    family: Family,
    n_steps: int,
    precision: Precision,
    target: Target,
    examples: Sequence[Example],
    references: Sequence[Planes],
) -> None:
    """Write one variant and gate it; put damaging layers back to fp32 until it passes."""
    layers = network_layers(graph)
    keep: frozenset[str] = frozenset()
    if precision == "fp16" and references:
        keep = overflowing_layers(graph, [example.problem for example in examples], n_steps)
        if 2 * len(keep) > len(layers):
            raise GateError(
                f"{family} with {n_steps} steps does not fit fp16: {len(keep)} of {len(layers)} "
                f"layers come near its largest value, {', '.join(sorted(keep)[:3])} among them; "
                "export fp32"
            )
    damage: list[tuple[str, float]] = []
    while True:
        variant = _write_variant(build, graph, family, n_steps, precision, keep)
        results = _gate(build, variant, target, examples, references) if references else []
        failed = [result for result in results if not result.passed]
        if not failed:
            build.variants.append(variant.model_copy(update={"gate": tuple(results)}))
            if keep:
                build.kept[f"{family}-{n_steps}-{precision}"] = keep
            return
        if precision == "fp32" or len(keep) * 2 >= len(layers):
            raise GateError(_refusal(variant, failed, damage))
        damage = damage or rank_layers(graph, examples[0].problem, n_steps)
        keep |= {next(layer for layer, _ in damage if layer not in keep)}


def _write_variant(
    build: _Build,
    graph: onnx.ModelProto,
    family: Family,
    n_steps: int,
    precision: Precision,
    keep: frozenset[str],
) -> VariantSpec:
    blob = f"weights-{precision}.bin"
    pool = build.pools.setdefault(precision, WeightPool(blob))
    typed = graph if precision == "fp32" else to_half(graph, keep)
    name = f"graphs/{family}-{n_steps}-{precision}.onnx"
    (build.folder / name).write_bytes(pool.externalise(typed))
    (build.folder / "graphs" / blob).write_bytes(pool.to_bytes())
    return VariantSpec(
        family=family,
        n_steps=n_steps,
        precision=precision,
        graph=name,
        weights=(f"graphs/{blob}",),
        inputs=engine_inputs(family, n_steps),
        opset=OPSET,
        gate=(),
    )


def _gate(
    build: _Build,
    variant: VariantSpec,
    target: Target,
    examples: Sequence[Example],
    references: Sequence[Planes],
) -> list[GateResult]:
    loaded = LoadedVariant(
        graph=build.folder / variant.graph,
        family=variant.family,
        n_steps=variant.n_steps,
        precision=variant.precision,
        inputs=tuple(s for s in family_inputs(variant.family) if s.name in variant.inputs),
        outputs=OUTPUTS,
        model=ModelInfo(id="candidate", version="0", n_parameters=1, licence="none"),
        source_hashes={},
    )
    results: list[GateResult] = []
    for number, backend in enumerate(target.gate_backends):
        if number and variant.n_steps != target.default_n_steps:
            continue
        if number and not get_backend(backend).availability().ok:
            continue
        # OpenVINO compiles for each shape: one slice of each task is enough to see a wrong op.
        every = SLICES_PER_TASK if number else 1
        results += run_gate(loaded, backend, examples[::every], references[::every])
    return results


def _refusal(
    variant: VariantSpec, failed: Sequence[GateResult], damage: Sequence[tuple[str, float]]
) -> str:
    worst = max(failed, key=lambda r: abs(r.psnr_delta_worst_db))
    text = (
        f"{variant.family} with {variant.n_steps} steps in {variant.precision} on "
        f"{worst.backend} changes the image of {worst.task}: mean {worst.psnr_delta_mean_db:+.3f} "
        f"dB, worst {worst.psnr_delta_worst_db:+.3f} dB, largest difference "
        f"{worst.max_abs_diff:.2e}"
    )
    if damage:
        names = ", ".join(f"{layer} ({change:.1e})" for layer, change in damage[:3])
        return f"{text}; most damaging layers: {names}; export fp32, or --no-gate to look at it"
    return f"{text}; the graph does not compute what PyTorch does: report it, or use --no-gate"


def _golden_pairs(
    model: LdmPir, cases: Mapping[Family, Sequence[Example]], target: Target
) -> dict[str, bytes]:
    files = {}
    for family in FAMILIES:
        problem = cases[family][0].problem
        arrays = engine_arrays(problem, target.default_n_steps)
        image = reference_image(model, problem, target.default_n_steps)[None]
        files[f"golden/{family}.npz"] = pack_golden(GoldenPair(arrays, {"image": image}))
    return files


def _family_spec(family: Family) -> FamilySpec:
    return FamilySpec(
        name=family,
        tasks=TASKS[family],
        inputs=family_inputs(family),
        outputs=OUTPUTS,
        golden=f"golden/{family}.npz",
    )


def _model_info(folder: Path, model: LdmPir) -> ModelInfo:
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


def _notes(build: _Build, images: GateImages, gate: bool) -> str:
    notes = [f"Gate images: {images.source}." if gate else "Exported without the gate."]
    notes += [
        f"{variant} keeps {', '.join(sorted(layers))} in fp32."
        for variant, layers in sorted(build.kept.items())
    ]
    return " ".join(notes)
