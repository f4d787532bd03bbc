from __future__ import annotations

import numpy as np
import pytest
from ellipses import PHANTOM, analytic_sinogram, pixelated
from scipy.ndimage import binary_erosion
from scipy.signal import convolve

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.fbp import (
    CONSISTENT,
    TABULATED,
    ViewFilter,
    _table,
    back_projections,
    convolve_detectors,
    fbp,
    finer,
    hann_ramp_kernel,
    ramp_kernel,
    redundancy_weights,
    view_weights,
)
from ldmpir_edge.physics.geometry import RadonGeometry

TURN = np.linspace(0, 2 * np.pi, 360, endpoint=False)
GOLDEN = np.pi * (np.sqrt(5) - 1)


def scan(kind, angles, offset=0.25):
    """260 rays, 0.45 mm apart at the rotation centre."""
    spacing = {
        "parallel": {"detector_spacing_mm": 0.45},
        "fan-equidistant": {
            "detector_spacing_mm": 0.8,
            "source_origin_mm": 150.0,
            "origin_detector_mm": 120.0,
        },
        "fan-equiangular": {"detector_spacing_rad": 0.003, "source_origin_mm": 150.0},
    }[kind]
    return RadonGeometry(kind, angles, 280, detector_offset=offset, **spacing)


SCANS = {
    "half turn": scan("parallel", TURN[:180]),
    "half turn, backwards": scan("parallel", -TURN[:180]),
    "whole turn": scan("parallel", TURN),
    "golden angle": scan("parallel", np.arange(233) * GOLDEN, 0.0),
    "flat fan": scan("fan-equidistant", TURN),
    "flat fan, two turns": scan("fan-equidistant", np.concatenate([TURN[::2], TURN[::2] + 7.0])),
    "flat fan, short scan": scan("fan-equidistant", TURN[:230] + 4),
    "arc fan": scan("fan-equiangular", TURN),
    "arc fan, short scan": scan("fan-equiangular", TURN[:270] + 2),
    "arc fan, short scan backwards": scan("fan-equiangular", 1 - TURN[:226]),
}


@pytest.mark.parametrize("name", SCANS)
def test_ellipses_come_back_with_their_attenuation(name):
    geometry = SCANS[name]
    image = fbp(analytic_sinogram(geometry), geometry, (200, 212), 0.5)
    truth = pixelated((200, 212), 0.5)
    row, column = np.mgrid[:200, :212]
    # The corners lie outside what every view of the fans sees.
    field_of_view = np.hypot(row - 99.5, column - 105.5) * 0.5 < 50
    for level in (0.0, 0.014, 0.02, 0.03):
        inside = binary_erosion(np.abs(truth - level) < 1e-9, iterations=4) & field_of_view
        assert inside.sum() > 200
        assert image[inside].mean() == pytest.approx(level, abs=0.0002)
    assert np.linalg.norm(image - truth) < 0.06 * np.linalg.norm(truth)


def test_a_shifted_grid_shows_the_same_slice():
    geometry = SCANS["arc fan"]
    sinogram = analytic_sinogram(geometry)
    whole = fbp(sinogram, geometry, (121, 120), 0.5)
    part = fbp(sinogram, geometry, (100, 90), 0.5, center_mm=(2.5, -0.75))
    # Centre of rows 12…111 and columns 20…109 of the whole grid.
    np.testing.assert_allclose(part, whole[12:112, 20:110], atol=1e-9)


def test_a_missing_wedge_does_not_brighten_the_rest():
    geometry = scan("parallel", TURN[:120])
    assert view_weights(geometry.angles_rad, np.pi) == pytest.approx(np.pi / 180, rel=1e-9)


def test_repeated_views_share_their_angle():
    weights = view_weights(np.array([0.0, 0.0, 1.0, 2.0, 2.0 + np.pi, 3.0]), np.pi)
    assert weights.sum() == pytest.approx(np.pi)
    assert weights[0] + weights[1] == pytest.approx((1 + np.pi - 3) / 2)
    assert weights[3] + weights[4] == pytest.approx(1.0)


def test_views_that_an_encoder_repeats_are_the_same_views(rng):
    turn = np.arange(90) * np.pi / 90
    angles = np.concatenate([turn, turn, turn]) + 1e-7 * rng.random(270)
    np.testing.assert_allclose(
        view_weights(angles, np.pi).reshape(3, 90).sum(axis=0), np.pi / 90, rtol=1e-4
    )


@pytest.mark.parametrize("views", [2260, 2700])
def test_opposite_rays_of_a_short_scan_share_one_measurement(views):
    beta = np.arange(views) * np.pi / 1800
    geometry = scan("fan-equiangular", beta, 0.0)
    gamma = geometry.detector_positions
    weights = redundancy_weights(geometry)
    assert weights.min() >= 0
    assert weights.max() <= 1
    # The ray (β, γ) runs back along (β + π − 2γ, −γ).
    for d in (20, 139, 200):
        opposite = beta + np.pi - 2 * gamma[d]
        found = np.interp(opposite, beta, weights[:, -1 - d], right=0.0)
        seen = opposite <= beta[-1]
        assert seen.any()
        np.testing.assert_allclose((weights[:, d] + found)[seen], 1.0, atol=5e-4)


@pytest.mark.parametrize("kernel", [ramp_kernel, hann_ramp_kernel])
@pytest.mark.parametrize("n_detectors", [1, 2, 31, 64])
def test_detector_filter_is_the_linear_convolution(kernel, n_detectors, rng):
    views = rng.standard_normal((3, n_detectors))
    taps = kernel(n_detectors, 0.7)
    full = np.concatenate([taps[:0:-1], taps])
    expected = np.stack([convolve(view, full, mode="full", method="direct") for view in views])
    expected = expected[:, n_detectors - 1 : 2 * n_detectors - 1]
    np.testing.assert_allclose(convolve_detectors(views, taps), expected, atol=1e-12)
    single = convolve_detectors(views.astype(np.float32), taps)
    assert single.dtype == np.float32


@pytest.mark.parametrize("spacing", [0.5, 2.0])
def test_ramp_taps_have_the_ramps_spectrum(spacing):
    frequency = np.linspace(0, 0.5, 11) / spacing
    n = np.arange(1, 20_000)

    def spectrum(taps):
        waves = np.cos(2 * np.pi * spacing * frequency[:, None] * n)
        return taps[0] + 2 * waves @ taps[1:]

    ramp = spectrum(ramp_kernel(20_000, spacing))
    np.testing.assert_allclose(ramp, frequency, atol=2e-5 / spacing)
    hann = spectrum(hann_ramp_kernel(20_000, spacing))
    window = np.cos(np.pi * frequency * spacing) ** 2
    np.testing.assert_allclose(hann, frequency * window, atol=2e-5 / spacing)


def test_a_sinogram_of_another_scan_is_refused():
    with pytest.raises(ShapeError, match=r"\(5, 280\).*\(180, 280\)"):
        fbp(np.zeros((5, 280)), SCANS["half turn"], (16, 16), 1.0)


@pytest.mark.parametrize("name", ["flat fan", "arc fan"])
def test_a_source_within_the_image_is_refused(name):
    with pytest.raises(ScanDataError, match="source_origin_mm is 150"):
        fbp(np.zeros((360, 280)), SCANS[name], (220, 220), 1.0)


@pytest.mark.parametrize("factor", [1, 8])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_table_is_the_linear_interpolation_between_the_samples(n, factor, rng):
    samples = rng.standard_normal(n * factor)
    table = _table(samples, factor)
    detector = np.arange(len(table)) / TABULATED - 1
    places = np.arange(-1, n * factor + 1) / factor
    expected = np.interp(detector, places, np.pad(samples, 1), left=0, right=0)
    np.testing.assert_allclose(table, expected, atol=1e-12)
    assert detector[-1] >= n
    assert table[0] == table[-1] == 0


def test_the_phantom_is_inside_every_fan():
    reach = max(np.hypot(e.x, e.y) + max(e.a, e.b) for e in PHANTOM)
    assert all(
        g.source_distance_mm * np.sin(g.fan_angles_rad.max()) > reach
        for g in SCANS.values()
        if g.is_fan
    )


@pytest.mark.parametrize("factor", [2, 5])
def test_finer_samples_are_those_of_the_same_wave(factor):
    n = 24
    wave = lambda x: 1 + np.cos(2 * np.pi * 3 * x / n) + 0.5 * np.sin(2 * np.pi * 11 * x / n)  # noqa: E731
    between = finer(wave(np.arange(n)), factor)
    np.testing.assert_allclose(between, wave(np.arange(n * factor) / factor), atol=1e-12)
    # The highest frequency is a cosine, and stays one.
    highest = finer((-1.0) ** np.arange(n), factor)
    np.testing.assert_allclose(highest, np.cos(np.pi * np.arange(n * factor) / factor), atol=1e-12)


@pytest.mark.parametrize(("frequency", "stays"), [(0.3, True), (0.7, False)])
def test_waves_that_pixels_cannot_hold_do_not_fold_into_them(frequency, stays):
    """In cycles a pixel of detectors of half a pixel; 0.7 would show as 0.3."""
    geometry = RadonGeometry("parallel", np.zeros(1), 256, detector_spacing_mm=0.5)
    u = (np.arange(256) - 127.5) * 0.5
    view = (np.hanning(256) * np.cos(2 * np.pi * frequency * u))[None]
    folded, kept = (
        np.linalg.norm(image)
        for image in back_projections(
            view, geometry, (64, 64), 1.0, (ViewFilter(hann_ramp_kernel, False), CONSISTENT)
        )
    )
    assert kept > 0.8 * folded if stays else kept < 0.01 * folded
