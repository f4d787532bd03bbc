"""Coil maps against the maps that made the data, and against sigpy's ESPIRiT."""

from __future__ import annotations

import numpy as np
import pytest
import sigpy.mri

from ldmpir_edge.errors import ShapeError
from ldmpir_edge.scans.coil_maps import estimate_coil_maps


def centre(kspace, rows, columns):
    top, left = kspace.shape[1] // 2 - rows // 2, kspace.shape[2] // 2 - columns // 2
    return kspace[:, top : top + rows, left : left + columns]


def subspace_error(maps, truth):
    """Sine of the angle between estimated and true map at each pixel."""
    cosine = np.abs(np.sum(maps.conj() * truth, axis=0))
    return np.sqrt(np.clip(1.0 - cosine**2, 0.0, 1.0))


def test_espirit_recovers_the_maps_that_made_the_data(acquisition, rng):
    shape = acquisition.kspace.shape
    noise = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    kspace = (acquisition.kspace + 0.004 * noise).astype(np.complex64)
    maps = estimate_coil_maps(centre(kspace, 24, 24), shape[1:])
    error = subspace_error(maps, acquisition.maps)[acquisition.support]
    assert error.mean() < 0.01
    assert np.quantile(error, 0.99) < 0.04


def test_espirit_is_as_good_as_sigpy(acquisition, rng):
    shape = acquisition.kspace.shape
    noise = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    kspace = (acquisition.kspace + 0.004 * noise).astype(np.complex64)
    theirs = sigpy.mri.app.EspiritCalib(kspace, calib_width=24, crop=0, show_pbar=False).run()
    ours = estimate_coil_maps(centre(kspace, 24, 24), shape[1:])
    support = acquisition.support
    angle = subspace_error(ours, theirs)[support]
    assert angle.mean() < 0.02
    # The projection onto the maps must leave no more of the coil images behind than theirs does.
    images = acquisition.maps * acquisition.image

    def residual(maps):
        left = images - maps * np.sum(maps.conj() * images, axis=0)
        return np.linalg.norm(left[:, support]) / np.linalg.norm(images[:, support])

    assert residual(ours) < 1.3 * residual(theirs) + 1e-3


@pytest.mark.parametrize("block", [(24, 4), (1, 1)])
def test_maps_of_few_lines_have_unit_norm_everywhere(acquisition, block):
    maps = estimate_coil_maps(centre(acquisition.kspace, *block), (95, 81))
    assert maps.dtype == np.complex64
    np.testing.assert_allclose(np.sum(np.abs(maps) ** 2, axis=0), 1.0, atol=1e-4)


@pytest.mark.parametrize("lines", [24, 10, 8])
def test_the_support_holds_all_of_the_object_and_leaves_out_the_far_background(acquisition, lines):
    shape = acquisition.kspace.shape[1:]
    maps = estimate_coil_maps(centre(acquisition.kspace, 24, lines), shape)
    norm = np.sum(np.abs(maps) ** 2, axis=0)
    inside = norm > 0.5
    np.testing.assert_allclose(norm[inside], 1.0, atol=1e-4)
    np.testing.assert_array_equal(norm[~inside], 0.0)
    assert inside[acquisition.support].all()
    assert not inside[:3, :3].any()
    assert inside.mean() < 0.95


@pytest.mark.parametrize("lines", [24, 6])
def test_tissue_far_from_coils_on_one_side_is_kept(lines):
    """The far side is a tenth as bright as the near one, in every coil."""
    y, x = np.mgrid[:96, :96] - 47.5
    body = (x / 40) ** 2 + (y / 30) ** 2 < 1
    places = np.linspace(-40, 40, 6)
    coils = np.stack([np.exp(1j * k - np.hypot(x + 50, y - p) / 40) for k, p in enumerate(places)])
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(coils * body, axes=(1, 2))), axes=(1, 2))
    maps = estimate_coil_maps(centre(kspace.astype(np.complex64), 24, lines), (96, 96))
    assert np.any(maps != 0, axis=0)[body].mean() > 0.99


def test_the_support_has_no_holes_and_keeps_a_bright_island():
    # A ring with a dark middle, and a small object far from it.
    y, x = np.mgrid[:96, :96] - 48.0
    radius = np.hypot(y, x)
    image = ((radius > 14) & (radius < 26)) + 1.0 * (np.hypot(y - 36, x - 36) < 4)
    coils = np.stack([np.exp((1j - 0.3) * x / 40), np.exp((0.5j + 0.3) * y / 40)])
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(coils * image, axes=(1, 2))), axes=(1, 2))
    maps = estimate_coil_maps(centre(kspace.astype(np.complex64), 24, 24), (96, 96))
    inside = np.any(maps != 0, axis=0)
    assert inside[radius < 26].all()
    assert inside[np.hypot(y - 36, x - 36) < 4].all()


def test_few_lines_still_follow_smooth_sensitivities(acquisition):
    maps = estimate_coil_maps(centre(acquisition.kspace, 24, 6), acquisition.kspace.shape[1:])
    error = subspace_error(maps, acquisition.maps)[acquisition.support]
    # Constant maps are off by 0.4 here; Walsh from six lines must do far better.
    assert error.mean() < 0.15


def test_maps_vary_smoothly_inside_the_object(acquisition):
    maps = estimate_coil_maps(centre(acquisition.kspace, 24, 24), acquisition.kspace.shape[1:])
    inner = acquisition.support[:, 1:] & acquisition.support[:, :-1]
    step = np.abs(np.diff(maps, axis=2))[:, inner]
    truth = np.abs(np.diff(acquisition.maps, axis=2))[:, inner]
    assert step.max() < 3 * truth.max() + 0.02


def test_one_coil_has_the_map_one(acquisition):
    maps = estimate_coil_maps(centre(acquisition.kspace[:1], 16, 16), (32, 40))
    np.testing.assert_array_equal(maps, np.ones((1, 32, 40)))


def test_a_silent_block_gives_equal_maps():
    maps = estimate_coil_maps(np.zeros((4, 16, 16), np.complex64), (32, 32))
    np.testing.assert_allclose(maps, 0.5)


@pytest.mark.parametrize("shape", [(4, 16), (4, 40, 16), (4, 0, 16)])
def test_a_block_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(ShapeError, match="calibration"):
        estimate_coil_maps(np.ones(shape, np.complex64), (32, 32))
