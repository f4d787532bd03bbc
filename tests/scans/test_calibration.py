"""Masks are inferred as sampled, and the calibration block is the fully sampled centre."""

from __future__ import annotations

import numpy as np
import pytest

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.scans.calibration import central_block, sampled_positions


def bounds(block):
    return [(s.start, s.stop) for s in block]


@pytest.mark.parametrize("n", [40, 41])
def test_columns_are_inferred_from_samples(rng, n):
    columns = rng.random(n) < 0.4
    columns[n // 2] = True
    kspace = (rng.standard_normal((3, 24, n)) * columns).astype(np.complex64)
    np.testing.assert_array_equal(sampled_positions(kspace, None), columns)


def test_a_mask_that_varies_along_readout_stays_two_dimensional(rng):
    mask = rng.random((30, 40)) < 0.3
    kspace = (rng.standard_normal((2, 30, 40)) * mask).astype(np.complex64)
    np.testing.assert_array_equal(sampled_positions(kspace, None), mask)


def test_a_file_mask_removes_columns_but_invents_none(rng):
    kspace = rng.standard_normal((2, 8, 6)).astype(np.complex64)
    kspace[:, :, 0] = 0
    mask = np.array([1, 1, 0, 1, 1, 1], np.float32)
    found = sampled_positions(kspace, mask)
    np.testing.assert_array_equal(found, [False, True, False, True, True, True])


def test_one_exact_zero_does_not_change_the_kind_of_mask(rng):
    kspace = rng.standard_normal((2, 64, 8)).astype(np.complex64)
    kspace[:, 5, 3] = 0
    assert sampled_positions(kspace, None).shape == (8,)


def test_nothing_sampled_is_refused():
    with pytest.raises(ScanDataError, match="no k-space sample"):
        sampled_positions(np.ones((1, 8, 8), np.complex64), np.zeros(8))


def test_a_mask_of_another_width_is_refused():
    with pytest.raises(ShapeError, match=r"\(7,\)"):
        sampled_positions(np.ones((1, 8, 8), np.complex64), np.ones(7))


def test_block_of_a_column_mask_spans_the_readout():
    columns = np.zeros(64, bool)
    columns[::4] = True
    columns[32 - 10 : 32 + 10] = True
    rows, found = central_block(np.broadcast_to(columns, (48, 64)))
    assert bounds((rows, found)) == [(0, 48), (22, 42)]


def test_block_of_a_two_dimensional_mask_is_the_square():
    mask = np.zeros((60, 50), bool)
    mask[::3, ::2] = True
    mask[30 - 8 : 30 + 8, 25 - 8 : 25 + 8] = True
    rows, columns = central_block(mask)
    assert bounds((rows, columns)) == [(22, 38), (17, 33)]


def test_partial_fourier_keeps_the_symmetric_part():
    columns = np.zeros(64, bool)
    columns[32 - 6 :] = True
    _, found = central_block(np.broadcast_to(columns, (32, 64)))
    assert found.start >= 26
    assert found.stop - found.start in (12, 13)


def test_an_unsampled_centre_gives_an_empty_block():
    mask = np.ones((16, 16), bool)
    mask[8, 8] = False
    rows, columns = central_block(mask)
    assert rows.stop - rows.start == 0
    assert columns.stop - columns.start == 0
