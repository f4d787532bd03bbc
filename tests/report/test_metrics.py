"""Scores against closed forms and the stated range conventions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.report.metrics import nmse, psnr, score, ssim


def test_mr_psnr_takes_the_maximum_of_the_reference(rng):
    reference = rng.uniform(0, 3, (2, 16, 16))
    reference[0, 0, 0] = 4.0
    image = reference + 0.01
    assert psnr(image, reference, "mr") == pytest.approx(20 * math.log10(4.0 / 0.01), abs=1e-9)


def test_ct_psnr_takes_the_window_of_2000_hu():
    reference = np.zeros((16, 16))
    assert psnr(reference + 20, reference, "ct") == pytest.approx(40.0, abs=1e-9)


def test_ct_differences_outside_the_window_do_not_count():
    reference = np.zeros((16, 16))
    reference[0, :2] = [3000, -2000]
    image = reference.copy()
    image[0, :2] = [1500, -1024]
    assert psnr(image, reference, "ct") == math.inf
    assert ssim(image, reference, "ct") == pytest.approx(1.0)
    assert nmse(image, reference, "ct") == 0.0


def test_nmse_is_the_energy_of_the_error(rng):
    reference = rng.uniform(0, 1, (3, 16, 16))
    assert nmse(1.1 * reference, reference, "mr") == pytest.approx(0.01)
    assert nmse(0 * reference, reference, "mr") == pytest.approx(1.0)


def test_ct_nmse_counts_from_air():
    reference = np.zeros((16, 16))  # water: 1000 above air
    assert nmse(reference + 100, reference, "ct") == pytest.approx(0.01)


def test_ssim_of_constant_images_is_its_luminance_term():
    # With no variance SSIM is (2ab + C1)/(a² + b² + C1), C1 = (0.01 L)²; here L = max = 2.
    reference, image = np.full((16, 16), 2.0), np.full((16, 16), 1.0)
    c1 = (0.01 * 2.0) ** 2
    assert ssim(image, reference, "mr") == pytest.approx((4 + c1) / (5 + c1), abs=1e-9)


def test_ssim_of_a_volume_is_the_mean_over_slices_with_one_range(rng):
    reference = rng.uniform(0, 1, (2, 16, 16))
    reference[1] *= 0.1
    image = reference + rng.normal(0, 0.02, reference.shape)
    peak = reference.max()
    from skimage.metrics import structural_similarity

    expected = np.mean(
        [
            structural_similarity(r, i, data_range=peak)
            for r, i in zip(reference, np.abs(image), strict=True)
        ]
    )
    assert ssim(image, reference, "mr") == pytest.approx(expected)


def test_complex_images_are_scored_by_magnitude(rng):
    reference = rng.uniform(0.1, 1, (16, 16))
    image = (reference * np.exp(0.7j)).astype(np.complex128)
    assert nmse(image, reference, "mr") == pytest.approx(0.0, abs=1e-24)


def test_equal_images_score_perfectly(rng):
    reference = rng.uniform(0, 1, (16, 16)).astype(np.float32)
    scores = score(reference, reference, "mr")
    assert (scores.psnr, scores.nmse) == (math.inf, 0.0)
    assert scores.ssim == pytest.approx(1.0)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match=r"\(8, 9\).*\(9, 8\)"):
        psnr(np.ones((8, 9)), np.ones((9, 8)), "mr")
    with pytest.raises(ShapeError, match=r"\(8,\)"):
        nmse(np.ones(8), np.ones(8), "mr")
    with pytest.raises(ShapeError, match=r"7x7.*got 6x20"):
        ssim(np.ones((6, 20)), np.ones((6, 20)), "mr")


def test_values_that_cannot_be_scored():
    broken = np.ones((8, 8))
    broken[0, 0] = np.nan
    with pytest.raises(ScanDataError, match="image holds NaN"):
        psnr(broken, np.ones((8, 8)), "mr")
    with pytest.raises(ScanDataError, match="reference holds no signal"):
        psnr(np.ones((8, 8)), np.zeros((8, 8)), "mr")
