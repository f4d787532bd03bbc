"""The two-stage projector against line integrals in closed form and against its own adjoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ldmpir_edge.physics.geometry import RadonGeometry, pixel_centres
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.physics.rays import ray_tables
from ldmpir_edge.physics.strips import MARGIN, back_project, line_length, project, shear_kernel

SIZE, SPACING_MM = 48, 0.8
# Angles that are no multiples of one another, so that every slope comes; detectors wider than
# the grid, so that some rays miss it.
ARC = RadonGeometry(
    "fan-equiangular",
    np.arange(31) * 2.03 * np.pi / 31,
    120,
    detector_spacing_rad=0.011,
    source_origin_mm=60.0,
)
BLOBS = ((0.0, 0.0, 3.0, 1.0), (7.5, -4.0, 2.0, -0.6), (-6.0, 8.0, 1.6, 0.8))


@pytest.fixture(scope="module")
def tables():
    op = RadonOp(ARC, (SIZE, SIZE), SPACING_MM)
    ones = np.ones(op.range_shape, np.float32)
    tables, norm = ray_tables(op, ones, np.eye(1, op.range_shape[1])[0])
    # As they were before the division by the norm: plain line integrals in mm.
    return {**tables, "ray_weight": tables["ray_weight"] * np.float32(np.sqrt(norm))}


def test_gaussians_have_their_line_integrals(tables):
    x, y = pixel_centres((SIZE, SIZE), SPACING_MM, (0.0, 0.0))
    phi, s = ARC.lines()
    image = np.zeros((SIZE, SIZE), np.float32)
    expected = np.zeros((ARC.n_views, ARC.n_detectors))
    for u, v, sigma, height in BLOBS:
        image += height * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2))
        distance = s - u * np.cos(phi) - v * np.sin(phi)
        across = height * sigma * np.sqrt(2 * np.pi)
        expected += across * np.exp(-(distance**2) / (2 * sigma**2))
    result = project(image[None], tables).reshape(expected.shape)
    np.testing.assert_allclose(result, expected, atol=0.012 * np.abs(expected).max())
    error = np.linalg.norm(result - expected) / np.linalg.norm(expected)
    assert error < 0.005
    # No worse than Joseph's method on the same grid.
    joseph = RadonOp(ARC, (SIZE, SIZE), SPACING_MM).forward(image)
    assert error < np.linalg.norm(joseph - expected) / np.linalg.norm(expected)


def test_the_pair_is_matched(tables, rng):
    images = rng.standard_normal((2, SIZE, SIZE)).astype(np.float32)
    rays = rng.standard_normal((2, ARC.n_views * ARC.n_detectors)).astype(np.float32)
    forward, backward = project(images, tables), back_project(rays, tables, SIZE)
    assert forward.shape == rays.shape
    assert backward.shape == images.shape
    for k in range(2):
        gap = np.vdot(forward[k].astype(float), rays[k]) - np.vdot(
            images[k].astype(float), backward[k]
        )
        assert abs(gap) < 1e-5 * np.linalg.norm(forward[k]) * np.linalg.norm(rays[k])
    in_torch = {name: torch.from_numpy(table) for name, table in tables.items()}
    np.testing.assert_allclose(
        project(torch.from_numpy(images), in_torch).numpy(), forward, atol=1e-4
    )
    np.testing.assert_allclose(
        back_project(torch.from_numpy(rays), in_torch, SIZE).numpy(), backward, atol=1e-4
    )


def test_strip_weights_keep_the_mass_of_a_pixel():
    # Cubic convolution reproduces a constant: each row adds up to one wherever it is read.
    np.testing.assert_allclose(shear_kernel().sum(axis=2), 1.0, atol=1e-6)


def test_rays_off_the_grid_read_nothing(tables):
    bright = np.ones((1, SIZE, SIZE), np.float32)
    _, s = ARC.lines()
    missing = np.broadcast_to(np.abs(s) > SPACING_MM * (SIZE / np.sqrt(2) + MARGIN), (31, 120))
    assert missing.any()
    assert not project(bright, tables)[0][missing.reshape(-1)].any()


def test_tables_stay_within_their_arrays(tables):
    n_rays, n_strips = ARC.n_views * ARC.n_detectors, SIZE // 8
    n_cells = 2 * n_strips * 14 * line_length(SIZE)
    forward, adjoint = tables["forward_index"], tables["adjoint_index"]
    assert forward.dtype == adjoint.dtype == np.int32
    assert forward.shape == tables["forward_fraction"].shape == (n_strips, n_rays)
    assert adjoint.shape == tables["adjoint_fraction"].shape
    assert adjoint.shape[1] == n_cells
    assert forward.min() >= 0
    # The second place of a cell is its neighbour in the flattened array.
    assert forward.max() + 1 < n_cells
    assert adjoint.min() >= 0
    assert adjoint.max() <= n_rays
    for name in ("forward_fraction", "adjoint_fraction"):
        assert tables[name].min() >= 0
        assert tables[name].max() <= 1
    assert not tables["adjoint_fraction"][adjoint == n_rays].any()
