"""The fan beam's operator of training is the one that is exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ldmpir_edge.models import ksm
from ldmpir_edge.models.ksm import normal_operator
from ldmpir_edge.models.sparse_rays import gram_rays_sparse
from ldmpir_edge.physics.fbp import convolve_detectors, ramp_kernel
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.normal import gram_rays
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.physics.rays import ray_tables

SIZE = 24


@pytest.fixture
def scan() -> tuple[RadonOp, np.ndarray, float, dict[str, torch.Tensor]]:
    geometry = RadonGeometry(
        "fan-equidistant",
        np.arange(9) * 0.7,
        41,
        detector_spacing_mm=1.7,
        source_origin_mm=60.0,
        origin_detector_mm=40.0,
    )
    op = RadonOp(geometry, (SIZE, SIZE), 1.1)
    taps = ramp_kernel(41, 1.1)
    tables, norm = ray_tables(op, np.ones(op.range_shape, np.float32), taps)
    return op, taps, norm, {name: torch.from_numpy(table) for name, table in tables.items()}


def test_it_projects_filters_and_projects_back(scan, rng):
    op, taps, norm, tables = scan
    image = rng.standard_normal((SIZE, SIZE))
    expected = op.adjoint(convolve_detectors(op.forward(image), taps)) / norm
    x = torch.from_numpy(np.stack([image, image])[None]).float()
    result = gram_rays_sparse(x, tables)
    np.testing.assert_allclose(result[0, 0], expected, atol=2e-5 * np.abs(expected).max())
    assert not result[0, 1].any()


def test_gradients_take_it_and_engines_do_not(scan, rng, monkeypatch):
    *_, tables = scan
    calls: list[str] = []

    def seen(vector: torch.Tensor, given: dict) -> torch.Tensor:
        calls.append("sparse")
        return gram_rays_sparse(vector, given)

    monkeypatch.setitem(ksm.TRAINING_OPERATORS, "rays", seen)
    gram = normal_operator("rays", tables)
    x = torch.from_numpy(rng.standard_normal((1, 2, SIZE, SIZE))).float()
    plain = gram(x)
    assert not calls
    learned = gram(x.requires_grad_())
    learned.sum().backward()
    assert calls == ["sparse", "sparse"], "forward and backward"
    torch.testing.assert_close(learned, plain, rtol=1e-4, atol=1e-5)
    # It is its own derivative.
    torch.testing.assert_close(
        x.grad, gram_rays(torch.ones_like(plain), tables), atol=1e-5, rtol=1e-4
    )
