"""Engines side by side on a scan: the figures are those of the images that `run` delivers."""

from __future__ import annotations

import pytest
from small_scans import write_dicom, write_fastmri, write_sinogram

from ldmpir_edge.bundle import SizeLimits
from ldmpir_edge.errors import UnsupportedSizeError
from ldmpir_edge.reconstruct import scan_comparison
from ldmpir_edge.reconstruct.combinations import Combination
from ldmpir_edge.reconstruct.scan_comparison import compare_on_scan, prepare_slices
from ldmpir_edge.report.metrics import psnr, ssim
from ldmpir_edge.runtimes import get_backend
from ldmpir_edge.scans.detect import open_scan

ORT32 = Combination("onnxruntime", "fp32")
ORT16 = Combination("onnxruntime", "fp16")


def compare(bundle, path, *combinations):
    with open_scan(path) as scan:
        slices = prepare_slices(bundle, scan)
    return slices, list(compare_on_scan(bundle, slices, combinations))


def test_the_figures_are_those_of_the_delivered_images(bundle, real, tmp_path):
    rss = write_fastmri(tmp_path / "a.h5", n_slices=6, acceleration=3)
    slices, (full, half) = compare(bundle, tmp_path / "a.h5", ORT32, ORT16)
    assert (slices.task, slices.indices) == ("mri", (1, 2, 3))
    delivered = real(tmp_path / "a.h5")
    ours, theirs = delivered.image[1:4], rss[1:4]
    assert full.reference_psnr_db == pytest.approx(psnr(ours, theirs, "mr"), abs=1e-3)
    assert full.reference_ssim == pytest.approx(ssim(ours, theirs, "mr"), abs=1e-5)
    residuals = [check["residual"] for check in delivered.checks[1:4]]
    assert full.residual == pytest.approx(max(residuals), rel=1e-3)
    # The first is what the second is held against, and has nothing to be held against itself.
    assert (full.difference, full.psnr_db, full.ssim) == (None, None, None)
    assert not full.is_equal
    assert 50 < half.psnr_db < 130
    assert 0.999 < half.ssim <= 1
    assert 0 < half.difference.p999_abs <= half.difference.max_abs < 0.01
    assert half.reference_psnr_db == pytest.approx(full.reference_psnr_db, abs=0.05)
    assert full.seconds > 0
    assert full.reason == half.reason == ""


def test_the_same_engine_makes_the_same_image(bundle, tmp_path):
    write_sinogram(tmp_path / "a.h5")
    slices, (_, again) = compare(bundle, tmp_path / "a.h5", ORT32, ORT32)
    assert slices.prepared[0].problem.family == "toeplitz"
    assert again.is_equal
    assert again.difference.max_abs == 0
    assert again.psnr_db is None
    assert again.ssim == pytest.approx(1)


def test_an_image_has_no_reference(bundle, tmp_path, rng):
    write_dicom(tmp_path / "a.dcm", rng)
    slices, (only,) = compare(bundle, tmp_path / "a.dcm", ORT32)
    assert (slices.task, slices.indices, slices.references) == ("denoise", (0,), None)
    assert (only.reference_psnr_db, only.reference_ssim) == (None, None)


def test_the_next_engine_is_the_first_where_one_cannot_run(bundle, tmp_path, rng, monkeypatch):
    write_dicom(tmp_path / "a.dcm", rng)
    monkeypatch.setattr(type(get_backend("openvino")), "_load", _broken)
    lost = Combination("openvino", "fp32")
    _, results = compare(bundle, tmp_path / "a.dcm", lost, ORT32, ORT32)
    assert "the device is gone" in results[0].reason
    assert (results[0].seconds, results[0].residual) == (None, None)
    assert results[1].difference is None
    assert results[2].is_equal


def test_a_slice_that_would_fall_back_is_named(bundle, tmp_path, monkeypatch):
    write_fastmri(tmp_path / "a.h5", n_slices=2)
    monkeypatch.setattr("ldmpir_edge.reconstruct.checks.MAX_ENGINE_VALUE", 0.1)
    _, (result,) = compare(bundle, tmp_path / "a.h5", ORT32)
    assert "slice 0 would be the classical image" in result.reason
    assert "slice 1 would be the classical image" in result.reason


def test_a_scan_beyond_the_bundle_s_limits_is_refused(bundle, tmp_path, monkeypatch):
    write_fastmri(tmp_path / "a.h5")
    wide = bundle.manifest
    narrow = SizeLimits(**wide.limits.model_dump() | {"max_coils": 2})
    monkeypatch.setattr(type(bundle), "manifest", wide.model_copy(update={"limits": narrow}))
    with pytest.raises(UnsupportedSizeError, match="coils is 4"):
        compare(bundle, tmp_path / "a.h5", ORT32)


def test_only_some_slices_are_held(bundle, tmp_path, monkeypatch):
    write_fastmri(tmp_path / "a.h5", n_slices=5)
    monkeypatch.setattr(scan_comparison, "MAX_SLICES", 2)
    slices, _ = compare(bundle, tmp_path / "a.h5")
    assert slices.indices == (1, 2)
    assert len(slices.prepared) == len(slices.references) == 2


def _broken(*_):
    raise RuntimeError("the device is gone")
