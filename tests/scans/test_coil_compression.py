"""Compression keeps the signal's energy and never more than the best possible."""

from __future__ import annotations

import numpy as np

from ldmpir_edge.scans.coil_compression import compress, compression_matrix


def test_energy_kept_is_that_of_the_singular_values(rng):
    low_rank = rng.standard_normal((20, 6)) @ rng.standard_normal((6, 300))
    samples = (low_rank + 0.01 * rng.standard_normal((20, 300))).astype(np.complex64)
    matrix, kept = compression_matrix(samples.reshape(20, 15, 20), 8)
    values = np.linalg.svd(samples, compute_uv=False) ** 2
    assert abs(kept - values[:8].sum() / values.sum()) < 1e-5
    energy = np.linalg.norm(compress(samples, matrix)) ** 2 / np.linalg.norm(samples) ** 2
    assert abs(energy - kept) < 1e-4
    assert kept > 0.999


def test_rows_are_orthonormal_so_white_noise_stays_white(rng):
    samples = (rng.standard_normal((12, 99)) + 1j * rng.standard_normal((12, 99))).astype("c8")
    matrix, _ = compression_matrix(samples, 5)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(5), atol=1e-5)


def test_the_first_virtual_coil_is_the_strongest(acquisition):
    matrix, _ = compression_matrix(acquisition.kspace, 4)
    energies = np.linalg.norm(compress(acquisition.kspace, matrix).reshape(4, -1), axis=1)
    assert (np.diff(energies) <= 1e-6).all()


def test_all_coils_is_lossless(acquisition):
    matrix, kept = compression_matrix(acquisition.kspace, 6)
    restored = np.tensordot(matrix.conj().T, compress(acquisition.kspace, matrix), axes=1)
    np.testing.assert_allclose(restored, acquisition.kspace, atol=1e-4)
    assert abs(kept - 1) < 1e-6
