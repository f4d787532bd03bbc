"""Compression keeps the signal's energy and never more than the best possible."""

from __future__ import annotations

import numpy as np

from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.scans.coil_compression import (
    ROW_COILS,
    compress,
    compress_rows,
    compression_matrix,
)


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


def smooth_maps(rng, shape, n_coils, n_terms):
    """Maps whose rows are combinations of `n_terms` profiles, other ones in each row."""
    height, width = shape
    profiles = rng.standard_normal((height, n_terms, width)) + 1j * rng.standard_normal(
        (height, n_terms, width)
    )
    weights = rng.standard_normal((height, n_coils, n_terms))
    maps = (weights @ profiles).transpose(1, 0, 2)
    return (maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))).astype(np.complex64)


def test_rows_compressed_keep_the_normal_equations(rng):
    """A^H A x and A^H y by numpy's FFT with all coils, and by the product with the few."""
    n_coils, height, width = 8, 16, 32
    csm = smooth_maps(rng, (height, width), n_coils, ROW_COILS)
    mask = (np.arange(width) % 3 == 0).astype(np.float32)
    image = rng.standard_normal((2, height, width)).astype(np.float32)
    x = image[0] + 1j * image[1]
    data = np.fft.fftshift(
        np.fft.fft(np.fft.ifftshift(csm * x, axes=-1), axis=-1, norm="ortho"), axes=-1
    )
    data = (mask * data).astype(np.complex64)
    back = np.fft.fftshift(
        np.fft.ifft(np.fft.ifftshift(data, axes=-1), axis=-1, norm="ortho"), axes=-1
    )
    expected = np.sum(csm.conj() * back, axis=0)

    few_data, few_maps = compress_rows(data, csm)
    assert few_data.shape == few_maps.shape == (ROW_COILS, height, width)
    few = CartesianOp(few_maps, mask, hybrid=True)
    np.testing.assert_allclose(few.adjoint(few_data), expected, atol=1e-5)
    np.testing.assert_allclose(few.gram(x), expected, atol=1e-5)


def test_rows_compressed_keep_noise_white(rng):
    csm = smooth_maps(rng, (6, 40), 9, ROW_COILS)
    shape = (9, 6, 20_000)
    noise = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    kept, _ = compress_rows(noise.astype(np.complex64), csm)
    covariance = np.einsum("chw,dhw->hcd", kept, kept.conj()) / (2 * shape[-1])
    np.testing.assert_allclose(
        covariance, np.broadcast_to(np.eye(ROW_COILS), (6, ROW_COILS, ROW_COILS)), atol=0.05
    )


def test_rows_that_need_all_coils_keep_them(rng):
    csm = smooth_maps(rng, (4, 40), 8, ROW_COILS)
    csm[:, 2] = smooth_maps(rng, (1, 40), 8, 8)[:, 0]
    data = np.ones_like(csm)
    kept_data, kept_maps = compress_rows(data, csm)
    assert kept_data is data
    assert kept_maps is csm


def test_an_empty_row_needs_no_coil(rng):
    csm = smooth_maps(rng, (4, 40), 8, ROW_COILS)
    csm[:, 1] = 0
    _, maps = compress_rows(np.ones_like(csm), csm)
    assert len(maps) == ROW_COILS
    np.testing.assert_allclose(np.sum(np.abs(maps) ** 2, axis=0)[1], 0, atol=1e-6)
