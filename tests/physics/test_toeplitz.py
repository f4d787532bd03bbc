from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.signal import fftconvolve

from ldmpir_edge.physics.fbp import CONSISTENT, back_projections
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.normal import gram_toeplitz
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.physics.toeplitz import (
    ToeplitzTables,
    convolution,
    point_spread,
    toeplitz_tables,
)


def scan(n_views, pitch_mm, size_mm):
    angles = 0.05 + np.arange(n_views) * np.pi / n_views
    n_detectors = int(np.ceil(1.45 * size_mm / pitch_mm)) + 2
    return RadonGeometry("parallel", angles, n_detectors, detector_spacing_mm=pitch_mm)


def gram(image, tables: ToeplitzTables):
    planes = np.stack([image, 0.5 * image])[None].astype(np.float32)
    arrays = {"kernel": tables.kernel, "dft_h": tables.dft_h, "dft_w": tables.dft_w}
    result = gram_toeplitz(planes, arrays)[0]
    # Attenuation is real: whatever stands in the imaginary plane is not measured.
    assert not result[1].any()
    return result[0]


def projected(image, geometry, spacing_mm, finer=1):
    """Project an image of a finer grid and filter back: what the tables stand for."""
    shape = tuple(n // finer for n in image.shape)
    sinogram = RadonOp(geometry, image.shape, spacing_mm / finer).forward(image)
    return back_projections(sinogram, geometry, shape, spacing_mm, (CONSISTENT,))[0]


def relative(result, expected):
    return np.linalg.norm(result - expected) / np.linalg.norm(expected)


def blobs(shape, finer=1):
    fine = [n * finer for n in shape]
    y, x = ((np.arange(n) - (n - 1) / 2) / min(fine) for n in fine)
    y = y[:, None]
    return sum(
        a * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * s**2))
        for u, v, s, a in [(0, 0, 0.12, 1), (0.12, 0.08, 0.08, -0.4), (-0.15, 0.05, 0.08, 0.5)]
    )


@pytest.mark.parametrize("n_views", [60, 120, 720])
@pytest.mark.parametrize("pitch", [0.6, 1.0, 1.3])
@pytest.mark.parametrize("shape", [(64, 64), (48, 80)])
def test_smooth_images_pass_as_through_the_projector(n_views, pitch, shape):
    spacing_mm = 0.8
    geometry = scan(n_views, pitch * spacing_mm, spacing_mm * max(shape))
    tables = toeplitz_tables(geometry, shape, spacing_mm)
    expected = projected(blobs(shape, 6), geometry, spacing_mm, 6) / tables.norm
    assert relative(gram(blobs(shape), tables), expected) < 2e-3


@pytest.mark.parametrize(
    ("n_views", "pitch", "gain"),
    [(60, 1.0, 0.7), (120, 1.3, 1.0), (720, 1.0, 0.5), (60, 0.6, 0.7), (360, 0.5, 0.7)],
)
def test_a_real_slice_passes_better_than_through_the_projector(n_views, pitch, gain, shared_data):
    """What a finer grid makes of a slice: nearer to the tables than to Joseph's exact pair."""
    with np.load(shared_data / "ct" / "train" / "lidc0001.npz") as archive:
        spacing_mm = 2 * 0.7
        assert json.loads(str(archive["meta"]))
        fine = np.maximum(archive["slices"][3] + 1000.0, 0) / 2000
    image = fine.reshape(256, 2, 256, 2).mean((1, 3))
    geometry = scan(n_views, pitch * spacing_mm, spacing_mm * 256)
    tables = toeplitz_tables(geometry, image.shape, spacing_mm)
    expected = projected(fine, geometry, spacing_mm, 2) / tables.norm
    error = relative(gram(image, tables), expected)
    # Finer detectors see more of what lies between the pixels.
    assert error < (0.015 if pitch >= 1 else 0.02)
    joseph = projected(image, geometry, spacing_mm) / tables.norm
    assert error < gain * relative(joseph, expected)


def test_engine_tables_are_the_convolution_with_the_point_spread(rng):
    geometry, shape = scan(30, 1.0, 32.0), (16, 32)
    tables = toeplitz_tables(geometry, shape, 1.0)
    image = rng.standard_normal(shape)
    psf = np.fft.fftshift(point_spread(geometry, shape, 1.0))[1:, 1:]
    expected = fftconvolve(image, psf, mode="full")[15:31, 31:63] / tables.norm
    np.testing.assert_allclose(gram(image, tables), expected, atol=2e-6)
    by_transforms = convolution(tables.kernel)(image.astype(np.float32))
    np.testing.assert_allclose(by_transforms, expected, atol=2e-6)


def test_tables_have_the_engines_shapes():
    tables = toeplitz_tables(scan(20, 1.0, 48.0), (32, 48), 1.0)
    assert tables.kernel.shape == (64, 49)
    assert tables.dft_h.shape == (64, 32, 2)
    assert tables.dft_w.shape == (48, 49, 2)
    assert {t.dtype for t in (tables.kernel, tables.dft_h, tables.dft_w)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("n_views", [12, 60, 300])
def test_the_operator_is_positive_with_largest_eigenvalue_one(n_views):
    geometry, shape = scan(n_views, 1.0, 16.0), (16, 16)
    tables = toeplitz_tables(geometry, shape, 1.0)
    columns = [gram(unit.reshape(shape), tables).reshape(-1) for unit in np.eye(256)]
    matrix = np.stack(columns)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    eigenvalues = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    assert eigenvalues[-1] == pytest.approx(1.0, abs=0.03)
    assert eigenvalues[0] > -2e-3
