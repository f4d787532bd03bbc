"""From a model folder to a bundle that an appliance opens, and what must not get that far."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from datetime import UTC, datetime
from hashlib import sha256

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny_model import awake_model, save_model

from ldmpir_edge.bundle import SizeLimits, generate_key, load_signing_key, open_bundle
from ldmpir_edge.errors import BundleError, GateError, OutputError
from ldmpir_edge.export import bundle_writer, cases, fastest, lowering
from ldmpir_edge.export.bundle_writer import export_bundle
from ldmpir_edge.export.cases import CASES, load_gate_images, make_cases
from ldmpir_edge.export.precision import to_half
from ldmpir_edge.export.targets import Target
from ldmpir_edge.physics.problem import FAMILIES
from ldmpir_edge.runtimes import get_backend

CREATED = datetime(2026, 11, 22, 12, tzinfo=UTC)
TARGET = Target(
    name="tiny",
    description="for tests",
    n_steps=(1, 2),
    default_n_steps=2,
    gate_backends=("onnxruntime",),
    limits=SizeLimits(
        min_height=16, max_height=64, min_width=16, max_width=64, max_coils=8, max_views=90
    ),
)
PRECISIONS = ("fp32", "fp16", "int8")
ONE_STEP = TARGET.model_copy(update={"n_steps": (1,), "default_n_steps": 1})


@pytest.fixture(scope="module")
def small_cases():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_writer, "CASE_SIZE", 32)
        yield


@pytest.fixture
def pointwise_only(monkeypatch, small_cases):
    """What holds for one family holds for all, and takes a fifth of the time."""
    monkeypatch.setattr(bundle_writer, "FAMILIES", ("pointwise",))
    monkeypatch.setattr(cases, "CASES", {"pointwise": CASES["pointwise"]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), awake_model())


@pytest.fixture(scope="module")
def exported(folder, small_cases, tmp_path_factory):
    """Everything, signed: its path, manifest, progress calls and the file of its public key."""
    path = tmp_path_factory.mktemp("out") / "tiny.ldmpir"
    progress = []
    public = generate_key(path.parent / "works.pem")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDMPIR_CACHE_DIR", str(path.parent / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(path.parent / "config"))
        manifest = export_bundle(
            folder,
            path,
            ["fp32", "fp16", "int8"],
            TARGET,
            load_gate_images([]),
            created=CREATED,
            signing_key=load_signing_key(path.parent / "works.pem"),
            on_progress=lambda *call: progress.append(call),
        )
        yield path, manifest, progress, public


def test_the_bundle_holds_every_variant_and_its_gate(exported):
    path, manifest, _, _ = exported
    opened = open_bundle(path)
    assert opened.manifest == manifest
    assert manifest.verified
    keys = {variant.key for variant in manifest.variants}
    assert keys == {(f, n, p) for f in FAMILIES for n in (1, 2) for p in PRECISIONS}
    for variant in manifest.variants:
        assert {result.task for result in variant.gate} == set(bundle_writer.TASKS[variant.family])
        assert {result.case for result in variant.gate} == {c.name for c in CASES[variant.family]}
        assert all(result.passed for result in variant.gate)
    assert (manifest.model.id, manifest.model.version) == ("tiny", "0.0.1")
    assert manifest.created == CREATED
    assert manifest.limits == TARGET.limits
    assert manifest.sampler.default_n_steps == 2


def test_sources_and_tools_are_named(exported, folder):
    _, manifest, _, _ = exported
    for name in ("weights.safetensors", "model.toml"):
        assert manifest.source_hashes[name] == sha256((folder / name).read_bytes()).hexdigest()
    assert manifest.tool_versions["torch"] == torch.__version__
    assert manifest.tool_versions["onnx"] == onnx.__version__


def test_the_signature_holds(exported, monkeypatch, tmp_path):
    path, _, _, public = exported
    assert str(open_bundle(path).trust).startswith("untrusted key")
    shutil.copy(public, tmp_path / "works.pem")
    monkeypatch.setenv("LDMPIR_TRUSTED_KEYS", str(tmp_path))
    assert str(open_bundle(path).trust) == "trusted:works"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_golden_pair_replays(exported, family, precision):
    opened = open_bundle(exported[0])
    golden = opened.golden(family)
    with get_backend("onnxruntime").load(opened.extract(family, 2, precision), 1) as engine:
        image = engine.run(golden.inputs)["image"]
    if precision == "int8":  # of a network of random weights
        expected = golden.outputs["image"]
        assert np.linalg.norm(image - expected) < 0.25 * np.linalg.norm(expected)
        return
    tolerance = 1e-4 if precision == "fp32" else 1e-2
    np.testing.assert_allclose(image, golden.outputs["image"], atol=tolerance)


def test_progress_counts_up_to_the_end(exported):
    _, _, progress, _ = exported
    totals = {total for _, _, total in progress}
    assert len(totals) == 1
    assert [done for _, done, _ in progress] == list(range(totals.pop() + 1))
    assert progress[-1][0] == "done"


def test_weights_are_stored_once_a_precision(exported):
    _, manifest, _, _ = exported
    blobs = {name: e.size for name, e in manifest.entries.items() if name.endswith(".bin")}
    assert set(blobs) == {f"graphs/weights-{precision}.bin" for precision in PRECISIONS}
    stored = 4 * manifest.model.n_parameters
    # Every family and step shares them; fp16 holds the network's in two bytes.
    assert blobs["graphs/weights-fp32.bin"] < 1.3 * stored
    assert blobs["graphs/weights-fp16.bin"] < 0.75 * blobs["graphs/weights-fp32.bin"]


def test_without_the_gate_the_bundle_says_so(folder, tmp_path, pointwise_only):
    path = tmp_path / "a.ldmpir"
    export_bundle(
        folder, path, ["fp32"], ONE_STEP, load_gate_images([]), created=CREATED, gate=False
    )
    manifest = open_bundle(path).manifest
    assert not manifest.verified
    assert "without the gate" in manifest.notes
    assert all(variant.gate == () for variant in manifest.variants)
    assert str(open_bundle(path).trust) == "unsigned"


def attempt(folder, path, *precisions, **options):
    images = load_gate_images([])
    return export_bundle(folder, path, precisions, ONE_STEP, images, created=CREATED, **options)


@pytest.fixture
def timed(monkeypatch):
    """Set what `auto` will measure, in seconds a slice."""

    def set_seconds(**seconds):
        monkeypatch.setattr(fastest, "FAMILY", "pointwise")
        monkeypatch.setattr(
            fastest, "timing_slice", lambda images, size: make_cases(images, 32)["pointwise"][0]
        )
        monkeypatch.setattr(
            fastest,
            "time_variants",
            lambda variants, backend, problem: {name: seconds[name] for name in variants},
        )

    return set_seconds


@pytest.mark.parametrize("winner", PRECISIONS)
def test_auto_keeps_the_fastest_alone(folder, tmp_path, pointwise_only, timed, winner):
    timed(**{name: 0.1 if name == winner else 0.2 for name in PRECISIONS})
    manifest = attempt(folder, tmp_path / "a.ldmpir", *PRECISIONS, fastest_only=True)
    assert {variant.precision for variant in manifest.variants} == {winner}
    assert [spec.name for spec in manifest.precisions] == [winner]
    graphs = [name for name in manifest.entries if name.startswith("graphs/")]
    assert all(winner in name for name in graphs)
    assert f"auto chose {winner} of fp32 " in manifest.notes
    assert "100 ms" in manifest.notes


def test_auto_does_without_a_precision_that_is_refused(
    folder, tmp_path, pointwise_only, timed, monkeypatch
):
    monkeypatch.setattr(
        lowering,
        "activation_ranges",
        lambda graph, problems, n_steps: defaultdict(lambda: 1e-3),
    )
    timed(fp32=0.2, fp16=0.1, int8=0.01)
    manifest = attempt(folder, tmp_path / "a.ldmpir", *PRECISIONS, fastest_only=True)
    assert {variant.precision for variant in manifest.variants} == {"fp16"}
    assert "Refused: pointwise with 1 steps in int8" in manifest.notes
    with pytest.raises(GateError, match="most damaging layers"):
        attempt(folder, tmp_path / "b.ldmpir", "int8")


def test_precisions_are_timed_on_the_backend_that_a_run_would_choose(exported, tmp_path):
    opened = open_bundle(exported[0])
    variants = {name: opened.extract("pointwise", 2, name) for name in PRECISIONS}
    problem = make_cases(load_gate_images([]), 32)["pointwise"][0].problem
    seconds = fastest.time_variants(variants, "onnxruntime", problem)
    assert set(seconds) == set(PRECISIONS)
    assert all(0 < value < 1 for value in seconds.values())


def test_a_graph_that_differs_is_refused(folder, tmp_path, pointwise_only, monkeypatch):
    trace_all = bundle_writer.trace_all

    def wrong(*args):
        for family, n_steps, graph in trace_all(*args):
            kernel = next(t for t in graph.graph.initializer if len(t.dims) == 4)
            values = 1.05 * numpy_helper.to_array(kernel)
            kernel.CopyFrom(numpy_helper.from_array(values.astype(np.float32), kernel.name))
            yield family, n_steps, graph

    monkeypatch.setattr(bundle_writer, "trace_all", wrong)
    with pytest.raises(GateError, match=r"pointwise with 1 steps in fp32 on onnxruntime") as caught:
        attempt(folder, tmp_path / "a.ldmpir", "fp32")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_hopeless_precision_is_refused_by_the_layers_name(
    folder, tmp_path, pointwise_only, monkeypatch
):
    def wrong(graph, keep):
        half = to_half(graph, keep)
        for tensor in half.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT16:
                values = numpy_helper.to_array(tensor) * np.float16(np.nan)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return half

    monkeypatch.setattr(lowering, "to_half", wrong)
    with pytest.raises(GateError, match="; export fp32") as caught:
        attempt(folder, tmp_path / "a.ldmpir", "fp16")
    named = re.search(r"most damaging layers: (.*); export", str(caught.value))
    layers = [entry.split(" ")[0] for entry in named[1].split(", ")]
    assert len(set(layers)) == 3
    assert all(
        re.fullmatch(r"(stem|encoder|down|middle|up|decoder|head|skips)(\.\d)?", layer)
        for layer in layers
    )
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_half_precision_hurts_goes_back_to_fp32(
    folder, tmp_path, pointwise_only, monkeypatch
):
    def hurt_the_head(graph, keep=frozenset()):
        half = to_half(graph, keep)
        if "head" not in keep:
            (conv,) = (
                n for n in half.graph.node if "/unet/head/" in n.name and n.op_type == "Conv"
            )
            kernel = next(t for t in half.graph.initializer if t.name == conv.input[1])
            values = numpy_helper.to_array(kernel) * np.float16(1.5)
            kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
        return half

    monkeypatch.setattr(lowering, "to_half", hurt_the_head)
    manifest = attempt(folder, tmp_path / "a.ldmpir", "fp16")
    assert "pointwise-1-fp16 keep head in fp32." in manifest.notes
    assert all(result.passed for result in manifest.variants[0].gate)


def test_a_folder_without_a_model_is_refused(tmp_path, folder, pointwise_only):
    with pytest.raises(BundleError, match="cannot load weights"):
        attempt(tmp_path, tmp_path / "a.ldmpir", "fp32")
    (tmp_path / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    (tmp_path / "model.toml").write_text('name = "x"\nversion = "1"\n')
    with pytest.raises(BundleError, match="needs name, version and licence"):
        attempt(tmp_path, tmp_path / "a.ldmpir", "fp32")


def test_a_place_that_cannot_be_written_is_refused(folder, tmp_path, pointwise_only):
    with pytest.raises(OutputError, match="-o"):
        attempt(folder, tmp_path / "none" / "a.ldmpir", "fp32")
