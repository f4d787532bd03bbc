from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.signal import fftconvolve

from ldmpir_edge.physics.fbp import fbp, hann_ramp_kernel
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.normal import gram_toeplitz
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.physics.toeplitz import ToeplitzTables, point_spread, toeplitz_tables


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


def projected(image, geometry, spacing_mm):
    """Project and filter back: the operator that the tables stand for."""
    sinogram = RadonOp(geometry, image.shape, spacing_mm).forward(image)
    return fbp(sinogram, geometry, image.shape, spacing_mm, kernel=hann_ramp_kernel)


def blobs(shape):
    y, x = ((np.arange(n) - (n - 1) / 2) / min(shape) for n in shape)
    y = y[:, None]
    return sum(
        a * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * s**2))
        for u, v, s, a in [(0, 0, 0.12, 1), (0.12, 0.08, 0.08, -0.4), (-0.15, 0.05, 0.08, 0.5)]
    )


@pytest.mark.parametrize("n_views", [60, 120, 720])
@pytest.mark.parametrize("pitch", [1.0, 1.3])
@pytest.mark.parametrize("shape", [(64, 64), (48, 80)])
def test_smooth_images_pass_as_through_the_projector(n_views, pitch, shape):
    spacing_mm = 0.8
    geometry = scan(n_views, pitch * spacing_mm, spacing_mm * max(shape))
    tables = toeplitz_tables(geometry, shape, spacing_mm)
    image = blobs(shape)
    expected = projected(image, geometry, spacing_mm) / tables.norm
    error = np.linalg.norm(gram(image, tables) - expected) / np.linalg.norm(expected)
    assert error < 2e-3


@pytest.mark.parametrize(("n_views", "pitch"), [(60, 1.0), (120, 1.3), (720, 1.0)])
def test_a_real_slice_passes_as_through_the_projector(n_views, pitch, shared_data):
    with np.load(shared_data / "ct" / "train" / "lidc0001.npz") as archive:
        spacing_mm = 4 * 0.7
        assert json.loads(str(archive["meta"]))
        hounsfield = archive["slices"][3].reshape(128, 4, 128, 4).mean((1, 3))
    image = np.maximum(hounsfield + 1000, 0) / 2000
    geometry = scan(n_views, pitch * spacing_mm, spacing_mm * 128)
    tables = toeplitz_tables(geometry, image.shape, spacing_mm)
    expected = projected(image, geometry, spacing_mm) / tables.norm
    error = np.linalg.norm(gram(image, tables) - expected) / np.linalg.norm(expected)
    assert error < 0.02


def test_engine_tables_are_the_convolution_with_the_point_spread(rng):
    geometry, shape = scan(30, 1.0, 32.0), (16, 32)
    tables = toeplitz_tables(geometry, shape, 1.0)
    image = rng.standard_normal(shape)
    psf = np.fft.fftshift(point_spread(geometry, shape, 1.0))[1:, 1:]
    expected = fftconvolve(image, psf, mode="full")[15:31, 31:63] / tables.norm
    np.testing.assert_allclose(gram(image, tables), expected, atol=2e-6)


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
