"""A golden pair shows an engine or a graph that does not make the promised image."""

from __future__ import annotations

import numpy as np
import pytest
from replayable_bundle import write_replayable
from toy_bundle import MIX, golden_pair, toy_answer

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.bundle.limits import LIMITS
from ldmpir_edge.bundle.paths import cache_root
from ldmpir_edge.reconstruct.combinations import Combination
from ldmpir_edge.reconstruct.verify import replay_golden

GRAPHS = ("openvino", "onnxruntime")
LARGEST_INPUT = 23  # of the real plane, which the first weight multiplies


def altered(by: float) -> np.ndarray:
    """Weights that make the real plane wrong by `by` at its largest value."""
    return MIX + np.array([[by / LARGEST_INPUT, 0], [0, 0]], np.float32)


def replay(tmp_path, backend="onnxruntime", precision="fp32", **mixtures):
    bundle = open_bundle(write_replayable(tmp_path / "toy.ldmpir", **mixtures))
    (result,) = replay_golden(bundle, [Combination(backend, precision)])
    assert (result.family, result.backend, result.precision) == ("pointwise", backend, precision)
    return result


@pytest.mark.parametrize("backend", GRAPHS)
def test_the_right_graph_passes_on_every_engine(tmp_path, backend):
    result = replay(tmp_path, backend)
    assert result.passed
    assert result.reason == ""
    assert result.difference.max_abs < 1e-4
    assert result.margin_db > 20


@pytest.mark.parametrize(("share", "passed"), [(0.8, True), (1.2, False)])
def test_fp32_may_be_wrong_by_less_than_one_grey_level(tmp_path, share, passed):
    result = replay(tmp_path, fp32=altered(share / 4096))
    assert result.passed is passed
    assert result.difference.max_abs == pytest.approx(share / 4096, rel=0.05)
    assert ("differs by more than 2.4e-04" in result.reason) is not passed
    assert (result.margin_db > 0) is passed


def test_the_difference_is_what_numpy_says(tmp_path):
    inputs, golden = golden_pair().inputs, golden_pair().outputs["image"][0]
    wrong = altered(3.0)
    result = replay(tmp_path, fp32=wrong)
    apart = np.zeros_like(golden)
    apart[0] = inputs["x1"][0, 0] * (wrong - MIX)[0, 0]
    assert result.difference.max_abs == pytest.approx(np.abs(apart).max(), rel=1e-4)
    assert result.difference.p999_abs == pytest.approx(np.percentile(apart, 99.9), rel=1e-4)
    modulus = np.hypot(*toy_answer(inputs["x1"], inputs["mask"])[0])
    power = np.mean(np.hypot(*apart) ** 2)
    expected = 20 * np.log10(modulus.max()) - 10 * np.log10(power)
    assert result.difference.psnr_db == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(("above_db", "passed"), [(1.0, True), (-1.0, False)])
def test_lower_precisions_are_judged_in_decibels(tmp_path, precision, above_db, passed):
    one = replay(tmp_path, precision=precision, **{precision: altered(1.0)})
    by = 10 ** ((one.difference.psnr_db - LIMITS[precision].difference_db - above_db) / 20)
    result = replay(tmp_path, precision=precision, **{precision: altered(by)})
    assert result.margin_db == pytest.approx(above_db, abs=0.01)
    assert result.passed is passed
    assert (f"PSNR below {LIMITS[precision].difference_db:.1f} dB" in result.reason) is not passed


@pytest.mark.parametrize("backend", GRAPHS)
def test_an_image_of_nan_fails(tmp_path, backend):
    result = replay(tmp_path, backend, fp32=MIX * np.nan)
    assert result.passed is False
    assert result.difference is None
    assert "NaN" in result.reason
    assert result.margin_db == -np.inf


def test_an_engine_that_cannot_be_loaded_was_not_compared(tmp_path):
    # The toy model has no weights that PyTorch could load.
    result = replay(tmp_path, "torch")
    assert result.passed is None
    assert "weights" in result.reason


def test_every_family_is_replayed_on_every_combination(bundle):
    combinations = [Combination("onnxruntime", "fp32"), Combination("onnxruntime", "fp16")]
    results = list(replay_golden(bundle, combinations))
    assert [(r.family, r.precision) for r in results] == [
        (family.name, precision)
        for family in bundle.manifest.families
        for precision in ("fp32", "fp16")
    ]
    assert all(result.passed for result in results)
    # Half precision differs, and is found to.
    assert all(
        half.difference.psnr_db < full.difference.psnr_db - 10
        for full, half in zip(results[::2], results[1::2], strict=True)
    )


def test_the_small_image_is_not_taken_for_the_next_scan_s(tmp_path, monkeypatch):
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    replay(tmp_path, "openvino")
    assert cache_root().is_dir()
    assert not list(cache_root().glob("compiled*/*"))
