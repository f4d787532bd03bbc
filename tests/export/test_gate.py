"""The gate lets an honest variant through, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_problems import disc

from ldmpir_edge.bundle import LoadedVariant, ModelInfo
from ldmpir_edge.bundle.limits import LIMITS, psnr_db
from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.export import cases
from ldmpir_edge.export.blame import rank_layers
from ldmpir_edge.export.cases import (
    CASES,
    GateImages,
    GateSlice,
    load_gate_images,
    make_cases,
    timing_slice,
)
from ldmpir_edge.export.gate import reference_images, run_gate
from ldmpir_edge.export.int8 import activation_ranges, to_int8
from ldmpir_edge.export.lowering import lower
from ldmpir_edge.export.precision import network_layers, to_half
from ldmpir_edge.export.tensors import OUTPUTS, family_inputs
from ldmpir_edge.physics.problem import FAMILIES
from ldmpir_edge.training.acquisitions import simulate_denoise

N_STEPS = 2


@pytest.fixture(scope="module")
def examples():
    draws = np.random.default_rng(5)
    made = [simulate_denoise(disc(32), "mr", draws) for _ in range(2)]
    return [GateSlice("denoise", example.problem, example.target) for example in made]


@pytest.fixture(scope="module")
def references(model, examples):
    return reference_images(model, examples, N_STEPS)


@pytest.fixture
def judged(tmp_path, examples, references) -> Callable[..., list]:
    """Gate a graph as a bundle would deliver it."""

    def judge(graph, precision="fp32", backend="onnxruntime"):
        path = tmp_path / "candidate.onnx"
        path.write_bytes(graph.SerializeToString())
        variant = LoadedVariant(
            graph=path,
            family="pointwise",
            n_steps=N_STEPS,
            precision=precision,
            inputs=family_inputs("pointwise"),
            outputs=OUTPUTS,
            model=ModelInfo(id="candidate", version="0", n_parameters=1, licence="none"),
            source_hashes={},
        )
        return run_gate(variant, backend, examples, references)

    return judge


def altered(graph, change, layer="head"):
    """A copy with `change` made to the kernel of one layer."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    conv = next(n for n in copy.graph.node if n.op_type == "Conv" and f"/unet/{layer}" in n.name)
    kernel = next(t for t in copy.graph.initializer if t.name == conv.input[1])
    values = change(numpy_helper.to_array(kernel).copy())
    kernel.CopyFrom(numpy_helper.from_array(values.astype(np.float32), kernel.name))
    return copy


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_honest_variant_passes(traced, judged, backend):
    (result,) = judged(traced("pointwise", N_STEPS), backend=backend)
    assert result.passed
    assert (result.case, result.task) == ("denoise", "denoise")
    assert (result.backend, result.n_slices) == (backend, 2)
    assert abs(result.psnr_delta_worst_db) <= LIMITS["fp32"].worst_db
    assert result.max_abs_diff < 1e-4


def test_half_precision_passes_its_own_limits(traced, judged):
    (result,) = judged(to_half(traced("pointwise", N_STEPS)), "fp16")
    assert result.passed
    assert result.max_abs_diff > 0


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_passes_its_own_limits(traced, examples, judged, backend):
    graph = traced("pointwise", N_STEPS)
    ranges = activation_ranges(graph, [entry.problem for entry in examples], N_STEPS)
    (result,) = judged(to_int8(graph, ranges), "int8", backend)
    assert result.passed
    assert result.max_abs_diff > 1e-4


def test_int8_with_ranges_far_too_narrow_is_refused(traced, examples, judged):
    graph = traced("pointwise", N_STEPS)
    ranges = activation_ranges(graph, [entry.problem for entry in examples], N_STEPS)
    narrow = {name: 0.02 * top for name, top in ranges.items()}
    (result,) = judged(to_int8(graph, narrow), "int8")
    assert not result.passed


def test_an_image_that_is_infinite_only_when_bright_is_refused(traced, judged):
    """Finite on the gate's slices, where x1 stays near 1, and infinite at the manifest's 10."""
    graph = onnx.ModelProto()
    graph.CopyFrom(traced("pointwise", N_STEPS))
    limit = numpy_helper.from_array(np.array(9, np.float32), "limit")
    graph.graph.initializer.append(limit)
    last = graph.graph.node[-1]
    (image,) = last.output
    last.output[0] = "clean"
    make = onnx.helper.make_node
    graph.graph.node.extend(
        [
            make("Sub", ["limit", "x1"], ["room"]),
            make("Sqrt", ["room"], ["root"]),  # NaN where x1 is above 9
            make("Sub", ["root", "root"], ["nothing"]),
            make("Add", ["clean", "nothing"], [image]),
        ]
    )
    (result,) = judged(graph)
    assert not result.passed
    assert result.psnr_delta_worst_db == -1000


def test_one_kernel_five_per_cent_off_is_refused(traced, judged):
    (result,) = judged(altered(traced("pointwise", N_STEPS), lambda w: 1.05 * w))
    assert not result.passed
    assert result.max_abs_diff > LIMITS["fp32"].max_abs_diff


def test_an_image_that_got_better_is_refused_too(traced, judged):
    # |ΔPSNR|: a variant that differs is not what was trained, whichever way it differs.
    results = [
        judged(altered(traced("pointwise", N_STEPS), lambda w, s=s: s * w))[0] for s in (0, 2)
    ]
    assert any(result.psnr_delta_worst_db > 0 for result in results)
    assert not any(result.passed for result in results)


def test_nan_is_refused(traced, judged):
    def poison(w):
        w.flat[0] = np.nan
        return w

    (result,) = judged(altered(traced("pointwise", N_STEPS), poison))
    assert not result.passed
    # The manifest is strict JSON: the numbers must be.
    assert np.isfinite([result.psnr_delta_mean_db, result.max_abs_diff]).all()


def test_the_layer_that_half_precision_hurts_is_ranked_first(traced, examples):
    """Kernels of 1e-7 lose most of their digits in float16; the next layer's 1.5e5 bring it out."""
    graph = onnx.ModelProto()
    graph.CopyFrom(traced("pointwise", 1))
    first, second = (n for n in graph.graph.node if n.op_type == "Conv" and "/middle.0/" in n.name)
    for name, factor in ((first.input[1], 4e-6), (first.input[2], 4e-6), (second.input[1], 1.5e5)):
        tensor = next(t for t in graph.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    def rank(graph):
        lowering = lower(graph, "fp16", 1, calibration=[], judged_on=[])
        return rank_layers(graph, lowering, examples[0].problem, 1)

    ranking = rank(graph)
    assert sorted(layer for layer, _ in ranking) == sorted(network_layers(graph))
    assert ranking[0][0] == "middle.0"
    assert ranking[0][1] > 2 * ranking[1][1]
    damages = [damage for _, damage in ranking]
    assert damages == sorted(damages, reverse=True)
    # The network without the flaw has no such layer.
    assert rank(traced("pointwise", 1))[0][0] != "middle.0"


def test_psnr_in_closed_form():
    target = np.zeros((2, 4, 5), np.float32)
    target[0, 0, 0], target[1, 0, 0] = 3, 4  # largest modulus 5
    image = target.copy()
    image[0, 1, 1] += 2  # mean square error 4 / 20
    assert psnr_db(image, target) == pytest.approx(10 * np.log10(25 * 20 / 4))


def test_cases_cover_every_family():
    images = load_gate_images([])
    assert {stack.modality for stack in images.stacks} == {"mr", "ct"}
    assert "pydicom" in images.source
    made = make_cases(images, 32)
    assert set(made) == set(FAMILIES) == set(CASES)
    for family, slices in made.items():
        assert {entry.problem.family for entry in slices} == {family}
        assert {entry.case for entry in slices} == {case.name for case in CASES[family]}
        # The target is in the problem's units and on its grid.
        assert all(entry.target.shape == entry.problem.b.shape for entry in slices)


def test_the_cases_are_what_their_names_say():
    size = 96
    made = make_cases(load_gate_images([]), size)
    by_name = {entry.case: entry.problem for slices in made.values() for entry in slices}
    for name, acceleration in (("mri-r4", 4), ("mri-r8", 8), ("mri-single-coil-r4", 4)):
        n_columns = by_name[name].tables["cos"].shape[-1]
        assert n_columns == pytest.approx(size / acceleration, abs=5)  # beside the centre
    assert by_name["mri-r4-1e6"].scale / by_name["mri-r4-1e-6"].scale == pytest.approx(
        1e12, rel=0.5
    )
    # The engine sees no unit.
    for name in ("mri-r4-1e6", "mri-r4-1e-6"):
        assert 0.3 < float(np.abs(by_name[name].x1).max()) < 5
    assert by_name["ct-low-dose"].noise_level > 2 * by_name["ct-60-views"].noise_level
    assert timing_slice(load_gate_images([]), 64).case == "mri-r4"


def test_cases_repeat_and_other_seeds_give_other_ones(monkeypatch):
    monkeypatch.setattr(cases, "CASES", {"pointwise": CASES["pointwise"]})
    images = load_gate_images([])
    one, same, other = (make_cases(images, 32, seed)["pointwise"] for seed in (1, 1, 2))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a.problem.b, b.problem.b)
        assert not np.array_equal(a.problem.b, c.problem.b)


def test_one_modality_is_not_enough(tmp_path):
    np.save(tmp_path / "a.npy", disc(32))
    with pytest.raises(
        ScanDataError, match=r"needs MR and CT images and found mr; .*--gate-images"
    ):
        load_gate_images([tmp_path])


def test_images_may_be_given(tmp_path):
    np.save(tmp_path / "a.npy", disc(32))
    hu = (1000 * disc(32) - 1000)[None]
    np.savez(tmp_path / "b.npz", slices=hu, meta='{"unit": "HU"}')
    images = load_gate_images([tmp_path])
    assert isinstance(images, GateImages)
    assert images.source == "a, b"
