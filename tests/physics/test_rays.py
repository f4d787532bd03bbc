from __future__ import annotations

import numpy as np
import pytest
import torch

from ldmpir_edge.physics.fbp import convolve_detectors, ramp_kernel
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.normal import gram_rays
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.physics.rays import ray_tables
from ldmpir_edge.physics.strips import back_project, project

SCANS = {
    "flat": RadonGeometry(
        "fan-equidistant",
        np.arange(11) * 0.6,
        37,
        detector_spacing_mm=1.9,
        detector_offset=0.25,
        source_origin_mm=60.0,
        origin_detector_mm=40.0,
    ),
    "arc, fine detectors": RadonGeometry(
        "fan-equiangular",
        np.arange(8) * np.pi / 4,
        90,
        detector_spacing_rad=0.006,
        source_origin_mm=60.0,
    ),
}


def tables_of(name, rng):
    op = RadonOp(SCANS[name], (24, 24), 1.1, center_mm=(0.2, -0.4))
    row_scale = rng.uniform(0.5, 1.5, op.range_shape).astype(np.float32)
    taps = ramp_kernel(op.range_shape[1], 1.1)
    return op, row_scale, taps, *ray_tables(op, row_scale, taps)


@pytest.mark.parametrize("name", SCANS)
def test_the_gram_is_filtering_between_the_pair(name, rng):
    op, _, taps, tables, _ = tables_of(name, rng)
    images = rng.standard_normal((2, 2, 24, 24)).astype(np.float32)
    sinograms = project(images[:, 0], tables).reshape(2, *op.range_shape)
    filtered = convolve_detectors(sinograms, taps).reshape(2, -1)
    expected = np.zeros_like(images)
    # Attenuation is real: the imaginary plane is not measured.
    expected[:, 0] = back_project(filtered, tables, 24)
    result = gram_rays(images, tables)
    np.testing.assert_allclose(result, expected, atol=2e-5 * np.abs(expected).max())
    torch_tables = {key: torch.from_numpy(value) for key, value in tables.items()}
    in_torch = gram_rays(torch.from_numpy(images), torch_tables)
    np.testing.assert_allclose(in_torch.numpy(), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", SCANS)
def test_a_smooth_image_has_the_energy_of_its_joseph_projections(name, rng):
    op, row_scale, taps, tables, norm = tables_of(name, rng)
    y, x = np.mgrid[:24, :24] - 11.5
    image = np.exp(-((x - 2) ** 2 + (y + 1) ** 2) / 18).astype(np.float32)
    weighted = row_scale * op.forward(image)
    expected = np.vdot(weighted, convolve_detectors(weighted, taps)) / norm
    result = gram_rays(np.stack([image, 0 * image])[None], tables)[0, 0]
    assert np.vdot(image, result) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", SCANS)
def test_the_largest_eigenvalue_is_one(name, rng):
    _, _, _, tables, _ = tables_of(name, rng)
    units = np.eye(576, dtype=np.float32).reshape(-1, 1, 24, 24)
    planes = np.concatenate([units, np.zeros_like(units)], axis=1)
    matrix = gram_rays(planes, tables)[:, 0].reshape(576, 576)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    eigenvalues = np.linalg.eigvalsh((matrix + matrix.T).astype(np.float64) / 2)
    # Lanczos' method approaches from below, so the tables' eigenvalue may exceed 1 a little.
    assert 0.99 < eigenvalues[-1] < 1.15
    assert eigenvalues[0] > -1e-5
