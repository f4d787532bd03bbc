"""Engines compiled ahead of time by the real library, without a GPU, and put into a bundle."""

from __future__ import annotations

import importlib
import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
from command_line import ldmpir_edge
from tiny_model import awake_model, save_model
from tiny_problems import tiny_problem

from ldmpir_edge.bundle import LoadedVariant, ModelInfo, SizeLimits, TypicalScan, open_bundle
from ldmpir_edge.errors import BackendError, MissingExtraError, UsageError
from ldmpir_edge.export import bundle_writer, cases, engines
from ldmpir_edge.export.bundle_writer import export_bundle
from ldmpir_edge.export.cases import CASES, load_gate_images
from ldmpir_edge.export.engines import load_compiler
from ldmpir_edge.export.precision import to_half
from ldmpir_edge.export.targets import EngineTarget, Target, list_targets, read_target
from ldmpir_edge.export.tensors import OUTPUTS, family_inputs
from ldmpir_edge.export.trace import trace
from ldmpir_edge.models.engine import engine_inputs
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.physics.problem import FAMILIES, Family
from ldmpir_edge.runtimes.tensorrt.compile import build_engine, engine_validity
from ldmpir_edge.runtimes.tensorrt.install import engine_platform
from ldmpir_edge.runtimes.tensorrt.profiles import make_profile

tensorrt_rtx: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

CAPABILITIES = ("8.6", "8.9")
LIMITS = SizeLimits(
    min_height=16, max_height=64, min_width=16, max_width=64, max_coils=8, max_views=90
)
TARGET = Target(
    name="tiny-rtx",
    description="for tests",
    n_steps=(1, 2),
    default_n_steps=2,
    gate_backends=("onnxruntime",),
    limits=LIMITS,
    engine=EngineTarget(
        backend="tensorrt_rtx",
        parser="tensorrt-rtx-1.7",
        compute_capabilities=CAPABILITIES,
        families=("pointwise",),
        n_steps=(2,),
        typical=TypicalScan(height=32, width=32, coils=4, views=24, detectors=32),
    ),
)
ON_DEVICE = TARGET.model_copy(
    update={"engine": EngineTarget(backend="tensorrt", parser="tensorrt-10.3", workspace_mib=512)}
)


@pytest.fixture(scope="module")
def export(folder: Path) -> Any:
    """Export one family of the tiny model, traced once and in this process."""
    model = load_weights(folder / "weights.safetensors")
    traced = cache(lambda family, n_steps: trace(model, tiny_problem(family), n_steps))

    def trace_here(model: Any, problems: Any, n_steps: Any) -> Any:
        return ((family, n, traced(family, n)) for family in problems for n in n_steps)

    def run(path: Path, target: Target, precisions: Any, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bundle_writer, "CASE_SIZE", 32)
            patch.setattr(bundle_writer, "FAMILIES", ("pointwise",))
            patch.setattr(bundle_writer, "trace_all", trace_here)
            patch.setattr(cases, "CASES", {"pointwise": CASES["pointwise"]})
            created = datetime(2026, 11, 24, tzinfo=UTC)
            images = load_gate_images([])
            export_bundle(folder, path, precisions, target, images, created=created, **options)

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), awake_model())


@pytest.fixture(scope="module")
def exported(export: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A bundle of three precisions with engines, and the calls of its progress."""
    path = tmp_path_factory.mktemp("out") / "rtx.ldmpir"
    progress: list[Any] = []
    precisions = ["fp32", "fp16", "int8"]
    export(path, TARGET, precisions, on_progress=lambda *call: progress.append(call))
    return path, progress


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_compiles_for_two_kinds_of_gpu(
    traced: Any, tmp_path: Path, family: Family
) -> None:
    n_steps = 1
    graph = to_half(traced(family, n_steps))
    onnx.save(graph, tmp_path / "graph.onnx")
    names = engine_inputs(family, n_steps)
    variant = LoadedVariant(
        graph=tmp_path / "graph.onnx",
        family=family,
        n_steps=n_steps,
        precision="fp16",
        inputs=tuple(spec for spec in family_inputs(family) if spec.name in names),
        outputs=OUTPUTS,
        model=ModelInfo(id="tiny", version="0", n_parameters=1, licence="none"),
        source_hashes={},
    )
    assert TARGET.engine is not None
    profile = make_profile(variant, LIMITS, TARGET.engine.typical)
    built = build_engine(tensorrt_rtx, variant.graph, profile, compute_capabilities=CAPABILITIES)
    assert engine_validity(tensorrt_rtx, built.plan) in ("valid", "suboptimal", "unchecked")
    assert tiny_problem(family).b.shape[1] == TARGET.engine.typical.height


def test_the_bundle_holds_an_engine_of_every_precision(exported: tuple[Path, list[Any]]) -> None:
    opened = open_bundle(exported[0])
    found = [(e.family, e.n_steps, e.precision) for e in opened.manifest.engines]
    assert sorted(found) == [("pointwise", 2, p) for p in ("fp16", "fp32", "int8")]
    for engine in opened.manifest.engines:
        assert engine.backend == "tensorrt_rtx"
        assert engine.version == tensorrt_rtx.__version__
        assert engine.platform == engine_platform()
        assert engine.compute_capabilities == CAPABILITIES
        assert engine.validity in ("valid", "suboptimal", "unchecked")
        plan = opened.engine(engine)
        # Asked again of what came out of the file.
        assert engine_validity(tensorrt_rtx, plan) == engine.validity
        assert len(plan) == engine.size
    assert opened.manifest.recipe is not None
    assert opened.manifest.recipe.backend == "tensorrt_rtx"
    assert opened.manifest.recipe.typical.coils == 4


def test_progress_counts_the_engines(exported: tuple[Path, list[Any]]) -> None:
    _, progress = exported
    assert len({total for _, _, total in progress}) == 1
    assert [done for _, done, _ in progress] == list(range(len(progress)))
    assert progress[-1][1] == progress[-1][2]
    assert [what for what, _, _ in progress if what.startswith("compiling")] == [
        f"compiling pointwise, 2 steps, {precision}" for precision in ("fp16", "fp32", "int8")
    ]


def test_inspect_shows_the_engines(exported: tuple[Path, list[Any]]) -> None:
    text = ldmpir_edge("inspect", exported[0])
    assert text.code == 0
    for word in ("Engines compiled ahead of time", "8.6, 8.9"):
        assert word in text.out
    report = ldmpir_edge("inspect", exported[0], "--json").report
    assert len(report["manifest"]["engines"]) == 3


def test_a_target_that_compiles_on_the_device_stores_the_recipe(
    export: Any, tmp_path: Path
) -> None:
    export(tmp_path / "a.ldmpir", ON_DEVICE, ["fp16"], gate=False)
    manifest = open_bundle(tmp_path / "a.ldmpir").manifest
    assert manifest.engines == ()
    assert manifest.recipe is not None
    assert (manifest.recipe.backend, manifest.recipe.workspace_mib) == ("tensorrt", 512)
    assert manifest.recipe.timing_cache
    assert not any(name.startswith("engines/") for name in manifest.entries)


def test_an_absent_compiler_is_said_before_the_gating(
    export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = importlib.import_module

    def absent(name: str) -> Any:
        if name == "tensorrt_rtx":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    monkeypatch.setattr(bundle_writer, "VariantBuilder", lambda *_: pytest.fail("it began"))
    with pytest.raises(MissingExtraError, match=r"tiny-rtx.*'ldmpir-edge\[tensorrt\]'"):
        export(tmp_path / "a.ldmpir", TARGET, ["fp16"])
    assert load_compiler(ON_DEVICE) is None
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_its_own_library_finds_invalid_is_not_shipped(
    export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "engine_validity", lambda library, plan: "invalid")
    with pytest.raises(BackendError, match="does not take its own engine of pointwise, 2 steps"):
        export(tmp_path / "a.ldmpir", TARGET, ["fp16"], gate=False)
    assert list(tmp_path.iterdir()) == []


def test_the_targets_of_the_package_are_in_order() -> None:
    targets = {name: read_target(name) for name in list_targets()}
    assert {"cpu", "rtx", "workstation-gpu", "jetson-orin"} <= set(targets)
    assert targets["cpu"].engine is None
    rtx = targets["rtx"].engine
    assert rtx is not None
    assert len(rtx.compute_capabilities) >= 2
    assert rtx.n_steps == (targets["rtx"].default_n_steps,)
    for name in ("workstation-gpu", "jetson-orin"):
        engine = targets[name].engine
        assert engine is not None
        assert (engine.backend, engine.compute_capabilities) == ("tensorrt", ())
        assert engine.recipe.workspace_mib == engine.workspace_mib


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('backend = "tensorrt"\nparser = "tensorrt-9.0"', "tensorrt-10.3"),
        ('backend = "openvino"\nparser = "tensorrt-11.4"', "backend"),
        (
            'backend = "tensorrt"\nparser = "tensorrt-11.4"\ncompute_capabilities = ["8.6"]\n'
            "n_steps = [4]",
            "only tensorrt_rtx",
        ),
        ('backend = "tensorrt_rtx"\nparser = "tensorrt-rtx-1.7"\nn_steps = [4]', "belong together"),
        (
            'backend = "tensorrt_rtx"\nparser = "tensorrt-rtx-1.7"\n'
            'compute_capabilities = ["8.6"]\nn_steps = [3]',
            "3",
        ),
        ('backend = "tensorrt"\nparser = "tensorrt-11.4"\nsurprise = 1', "surprise"),
    ],
)
def test_a_target_that_cannot_be_is_refused(tmp_path: Path, lines: str, words: str) -> None:
    known = list_targets()["cpu"].read_text()
    (tmp_path / "odd.toml").write_text(f"{known}\n[engine]\n{lines}\n")
    with pytest.raises(UsageError, match=words):
        read_target(str(tmp_path / "odd.toml"))


def test_the_shipped_graphs_compile_for_the_gpus_of_the_target(tmp_path: Path) -> None:
    """What `export --target rtx` adds to a bundle, from the graphs of the one that is shipped."""
    target, shipped = read_target("rtx"), open_bundle("ldmpir-2m")
    variants = [shipped.extract(family, 4, "fp16") for family in FAMILIES]
    compiled = engines.compile_engines(
        load_compiler(target), tmp_path, variants, target, lambda _: None
    )
    assert {engine.family for engine in compiled} == set(FAMILIES)
    for engine in compiled:
        assert len(engine.compute_capabilities) >= 2
        assert engine.validity in ("valid", "suboptimal", "unchecked")


@pytest.mark.slow
def test_the_shipped_model_compiles_ahead_of_time(tmp_path: Path) -> None:
    """`export --target rtx --precision fp16` as a user runs it: about ten minutes."""
    path = tmp_path / "rtx.ldmpir"
    report = ldmpir_edge(
        "export", "ldmpir-2m", "--target", "rtx", "--precision", "fp16", "-o", path, "--json"
    ).report
    assert report["outputs"] == [str(path)]
    opened = open_bundle(path)
    assert opened.manifest.verified
    assert {e.family for e in opened.manifest.engines} == set(FAMILIES)
    for engine in opened.manifest.engines:
        assert len(engine.compute_capabilities) >= 2
        assert engine_validity(tensorrt_rtx, opened.engine(engine)) == engine.validity
        assert engine.validity in ("valid", "suboptimal", "unchecked")
    assert json.loads(opened.manifest.to_bytes())["recipe"]["backend"] == "tensorrt_rtx"
