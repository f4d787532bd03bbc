"""Preparation keeps scale, noise and anatomy: checked against plain numpy reconstructions."""

from __future__ import annotations

import numpy as np
import pytest

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.scans.prepare_mri import prepare_mri


def fft2c(image):
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=axes), norm="ortho"), axes=axes)


def ifft2c(kspace):
    axes = (-2, -1)
    shifted = np.fft.ifftshift(kspace, axes=axes)
    return np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=axes)


def ifft1c(kspace):
    shifted = np.fft.ifftshift(kspace, axes=-1)
    return np.fft.fftshift(np.fft.ifft(shifted, norm="ortho"), axes=-1)


def rss(images):
    return np.sqrt(np.sum(np.abs(images) ** 2, axis=0))


def complex_normal(rng, shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def oversampled(acquisition):
    """The acquisition with twice the readout field of view, and object only in its centre."""
    height = acquisition.image.shape[0]
    images = acquisition.maps * acquisition.image
    wide = np.zeros((len(images), 2 * height, images.shape[2]), complex)
    wide[:, height // 2 : height // 2 + height] = images
    return fft2c(wide).astype(np.complex64)


def matched_filter(prepared):
    """Combine a fully sampled preparation and crop: |x| on the input's scale."""
    images = ifft1c(prepared.data) if prepared.is_hybrid else ifft2c(prepared.data)
    combined = np.abs(np.sum(prepared.csm.conj() * images, axis=0)) * prepared.rss_scale
    top, left, height, width = prepared.crop
    return combined[top : top + height, left : left + width]


def test_full_sampling_returns_the_root_sum_of_squares_image(acquisition):
    prepared = prepare_mri(acquisition.kspace, None, None, (96, 80))
    assert prepared.is_hybrid
    assert prepared.mask.shape == (80,)
    expected = rss(acquisition.maps * acquisition.image)
    error = np.abs(matched_filter(prepared) - expected)[acquisition.support]
    assert error.max() < 0.02 * expected.max()


def test_readout_oversampling_is_removed_as_numpy_would(acquisition):
    kspace = oversampled(acquisition)
    prepared = prepare_mri(kspace, None, None, (96, 80))
    line = np.fft.fftshift(
        np.fft.ifft(np.fft.ifftshift(kspace, axes=1), axis=1, norm="ortho"), axes=1
    )
    np.testing.assert_allclose(prepared.data, line[:, 48:144], atol=1e-5)
    expected = rss(ifft2c(kspace))[48:144]
    error = np.abs(matched_filter(prepared) - expected)[acquisition.support]
    assert error.max() < 0.02 * expected.max()


@pytest.mark.parametrize("odd", [False, True])
def test_phase_encode_is_cropped_after_reconstruction(acquisition, odd):
    prepared = prepare_mri(acquisition.kspace, None, None, (95 if odd else 96, 60))
    assert prepared.data.shape == (6, 95 if odd else 96, 80)
    assert prepared.crop == (0, 10, 95 if odd else 96, 60)


def test_whitening_keeps_the_scale_and_unit_noise(acquisition, rng):
    gains = np.diag(rng.uniform(0.5, 2.0, 6)) + 0.3 * complex_normal(rng, (6, 6))
    mixing = 0.01 * gains
    noise = np.einsum("dc,cxy->dxy", mixing, complex_normal(rng, acquisition.kspace.shape))
    kspace = (acquisition.kspace + noise).astype(np.complex64)
    scan = (mixing @ complex_normal(rng, (6, 4096))).astype(np.complex64)
    prepared = prepare_mri(kspace, None, scan, (96, 80))
    assert prepared.noise_level == 1.0
    white = prepare_mri(noise.astype(np.complex64), None, scan, (96, 80)).data
    assert white.real.std() == pytest.approx(1.0, abs=0.02)
    expected = rss(acquisition.maps * acquisition.image)
    error = (matched_filter(prepared) - expected)[acquisition.support]
    assert abs(error.mean()) < 0.01 * expected.max()
    assert error.std() < 0.06 * expected.max()


def test_many_coils_become_eight_without_changing_the_image(simulate):
    acquisition = simulate((64, 64), 20)
    prepared = prepare_mri(acquisition.kspace, None, None, (64, 64))
    assert prepared.data.shape[0] == prepared.csm.shape[0] == 8
    assert any("20 coils" in note for note in prepared.notes)
    expected = rss(acquisition.maps * acquisition.image)
    error = np.abs(matched_filter(prepared) - expected)[acquisition.support]
    assert error.max() < 0.03 * expected.max()


def test_undersampled_columns_stay_empty_and_maps_come_from_the_centre(acquisition):
    columns = np.zeros(80, bool)
    columns[::4] = True
    columns[30:50] = True
    prepared = prepare_mri(acquisition.kspace * columns, None, None, (96, 80))
    np.testing.assert_array_equal(prepared.mask, columns)
    assert not prepared.data[:, :, ~columns].any()
    cosine = np.abs(np.sum(prepared.csm.conj() * acquisition.maps, axis=0))
    assert np.sqrt(1 - np.clip(cosine, 0, 1) ** 2)[acquisition.support].mean() < 0.02
    assert prepared.notes == ()


def test_a_two_dimensional_mask_keeps_k_space(acquisition, rng):
    mask = rng.random((96, 80)) < 0.3
    mask[36:60, 28:52] = True
    kspace = acquisition.kspace * mask
    prepared = prepare_mri(kspace, None, None, (96, 80))
    assert not prepared.is_hybrid
    np.testing.assert_array_equal(prepared.mask, mask)
    np.testing.assert_array_equal(prepared.data, kspace)


def test_few_calibration_lines_fall_back_and_say_so(acquisition):
    columns = np.zeros(80, bool)
    columns[::2] = True
    columns[38:43] = True
    prepared = prepare_mri(acquisition.kspace * columns, None, None, (96, 80))
    assert any("Walsh" in note for note in prepared.notes)


def test_a_separate_calibration_scan_serves_the_maps(acquisition):
    columns = np.zeros(80, bool)
    columns[1::2] = True
    columns[40] = False
    calibration = np.zeros_like(acquisition.kspace)
    calibration[:, :, 28:52] = acquisition.kspace[:, :, 28:52]
    kspace = acquisition.kspace * columns
    prepared = prepare_mri(kspace, None, None, (96, 80), calibration)
    assert prepared.notes == ()
    cosine = np.abs(np.sum(prepared.csm.conj() * acquisition.maps, axis=0))
    assert np.sqrt(1 - np.clip(cosine, 0, 1) ** 2)[acquisition.support].mean() < 0.02
    without = prepare_mri(kspace, None, None, (96, 80))
    assert any("unreliable" in note for note in without.notes)


def test_a_larger_matrix_is_reached_by_zero_filling(acquisition):
    prepared = prepare_mri(acquisition.kspace, None, None, (96, 100))
    assert prepared.mask.shape == (100,)
    assert prepared.mask.sum() == 80
    padded = np.pad(acquisition.kspace, ((0, 0), (0, 0), (10, 10)))
    expected = rss(ifft2c(padded))
    assert np.abs(matched_filter(prepared) - expected).max() < 0.1 * expected.max()


def test_single_coil_has_unit_map(acquisition):
    prepared = prepare_mri(acquisition.kspace[:1], None, None, (96, 80))
    np.testing.assert_array_equal(prepared.csm, 1)


@pytest.mark.parametrize(
    ("kspace", "noise", "matrix"),
    [
        (np.ones((8, 8), "c8"), None, (8, 8)),
        (np.ones((0, 8, 8), "c8"), None, (8, 8)),
        (np.ones((2, 8, 8), "c8"), np.ones((3, 50), "c8"), (8, 8)),
        (np.ones((2, 8, 8), "c8"), None, (0, 8)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(kspace, noise, matrix):
    with pytest.raises(ShapeError):
        prepare_mri(kspace, None, noise, matrix)


def test_an_empty_mask_is_refused(acquisition):
    with pytest.raises(ScanDataError, match="no k-space sample"):
        prepare_mri(acquisition.kspace, np.zeros(80), None, (96, 80))


def test_real_brain_becomes_a_plain_image(shared_data):
    """Real 8-coil data, 12 % sampled with a two-dimensional mask: maps must explain the data."""
    kspace = np.load(shared_data / "raw" / "brain8ch_kspace.npy")
    prepared = prepare_mri(kspace, None, None, (230, 180))
    assert not prepared.is_hybrid
    assert prepared.mask.mean() == pytest.approx(0.124, abs=0.002)
    centre = np.zeros_like(kspace)
    centre[:, 103:127, 78:102] = kspace[:, 103:127, 78:102]
    images = ifft2c(centre)
    projected = prepared.csm * np.sum(prepared.csm.conj() * images, axis=0)
    bright = rss(images) > 0.2 * rss(images).max()
    left = np.linalg.norm((images - projected)[:, bright]) / np.linalg.norm(images[:, bright])
    assert left < 0.06
