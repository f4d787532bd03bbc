from __future__ import annotations

import numpy as np
import pytest
import torch

from ldmpir_edge.physics.fbp import convolve_detectors, ramp_kernel
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.normal import gram_rays
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.physics.rays import SparseRays, _as_matrix, ray_tables

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
def test_gathering_equals_projecting(name, rng):
    op, row_scale, taps, tables, norm = tables_of(name, rng)
    images = rng.standard_normal((1, 2, 24, 24))
    sinograms = op.forward(images) * row_scale
    filtered = convolve_detectors(sinograms, taps) * row_scale
    expected = op.adjoint(filtered) / norm
    # Attenuation is real: the imaginary plane is not measured.
    expected[:, 1] = 0
    result = gram_rays(images.astype(np.float32), tables)
    np.testing.assert_allclose(result, expected, atol=2e-5 * np.abs(expected).max())
    torch_tables = {key: torch.from_numpy(value) for key, value in tables.items()}
    sparse = SparseRays(
        *(tables["adjoint_index"], tables["adjoint_weight"], tables["filter"]),
        op.range_shape[0],
        op.domain_shape,
    )
    by_products = sparse.gram(images[0, 0].astype(np.float32))
    np.testing.assert_allclose(by_products, expected[0, 0], atol=2e-5 * np.abs(expected).max())
    back = sparse.adjoint(sinograms[0, 0].astype(np.float32))
    projected = op.adjoint(row_scale * sinograms)[0, 0] / np.sqrt(norm)
    np.testing.assert_allclose(back, projected, atol=2e-5 * np.abs(projected).max())
    in_torch = gram_rays(torch.from_numpy(images.astype(np.float32)), torch_tables)
    np.testing.assert_allclose(in_torch.numpy(), expected, atol=2e-5 * np.abs(expected).max())


def test_sparse_products_need_no_copy_of_the_tables(rng):
    _, _, _, tables, _ = tables_of("flat", rng)
    index, weight = tables["adjoint_index"], tables["adjoint_weight"]
    matrix = _as_matrix(index, weight, tables["forward_weight"].size)
    assert np.shares_memory(matrix.indices, index)
    assert np.shares_memory(matrix.data, weight)


@pytest.mark.parametrize("name", SCANS)
def test_the_largest_eigenvalue_is_one(name, rng):
    _, _, _, tables, _ = tables_of(name, rng)
    units = np.eye(576, dtype=np.float32).reshape(-1, 1, 24, 24)
    planes = np.concatenate([units, np.zeros_like(units)], axis=1)
    matrix = gram_rays(planes, tables)[:, 0].reshape(576, 576)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    eigenvalues = np.linalg.eigvalsh((matrix + matrix.T).astype(np.float64) / 2)
    # Power iteration approaches from below, so the tables' eigenvalue may exceed 1 a little.
    assert 0.99 < eigenvalues[-1] < 1.15
    assert eigenvalues[0] > -1e-5


@pytest.mark.parametrize("name", SCANS)
def test_tables_stay_within_their_arrays(name, rng):
    op, _, _, tables, _ = tables_of(name, rng)
    n_rays, length = op.range_shape[0] * op.range_shape[1], 2 * 24 * 26
    assert tables["forward_index"].dtype == tables["adjoint_index"].dtype == np.int32
    assert tables["forward_index"].shape == tables["forward_fraction"].shape == (n_rays, 24)
    assert tables["forward_index"].min() >= 0
    assert tables["forward_index"].max() + 1 < length
    assert tables["forward_fraction"].min() >= 0
    assert tables["forward_fraction"].max() <= 1
    assert tables["adjoint_index"].min() >= 0
    assert tables["adjoint_index"].max() <= n_rays
    assert tables["adjoint_weight"].min() >= 0


@pytest.mark.parametrize("name", SCANS)
def test_unused_entries_repeat_the_pixel_s_own_rays(name, rng):
    """Were they all of one ray, products that scatter would wait for one another there."""
    op, _, _, tables, _ = tables_of(name, rng)
    n_rays = op.range_shape[0] * op.range_shape[1]
    rows = zip(tables["adjoint_index"], tables["adjoint_weight"], strict=True)
    for index, weight in rows:
        used = index[weight > 0]
        assert len(np.unique(used)) == len(used)
        assert set(index[weight == 0]) <= (set(used) if used.size else {n_rays})
    counts = np.bincount(tables["adjoint_index"].reshape(-1), minlength=n_rays + 1)
    assert counts[-1] % tables["adjoint_index"].shape[1] == 0
