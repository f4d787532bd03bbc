"""A difference at the limit moves the PSNR by what the gate allows, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from ldmpir_edge.bundle.limits import LIMITS, REFERENCE_QUALITY_DB, psnr_db


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_difference_at_its_limit_moves_the_psnr_by_the_gate_s_worst(precision, rng):
    limits = LIMITS[precision]
    truth = np.zeros((2, 512, 512))
    truth[:, 0, 0] = 0.6, 0.8

    def with_error(image, decibels):
        error = rng.standard_normal(image.shape)
        return image + error * 10 ** (-decibels / 20) / np.sqrt(2)

    reference = with_error(truth, REFERENCE_QUALITY_DB)
    variant = with_error(reference, limits.difference_db)
    moved = psnr_db(reference, truth) - psnr_db(variant, truth)
    assert psnr_db(reference, truth) == pytest.approx(REFERENCE_QUALITY_DB, abs=0.05)
    assert moved == pytest.approx(limits.worst_db, rel=0.2)


def test_the_psnr_of_equal_images_is_a_number():
    image = np.ones((2, 4, 4), np.float32)
    assert psnr_db(image, image) > 190
