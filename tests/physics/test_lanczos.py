from __future__ import annotations

import numpy as np
import pytest

from ldmpir_edge.physics.lanczos import largest_eigenvalue


def test_the_largest_eigenvalue_is_found_from_below(rng):
    basis = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    matrix = (basis * np.linspace(0, 3, 60) ** 2) @ basis.T

    def estimate(n_iterations):
        return largest_eigenvalue(
            lambda x: (matrix @ x.reshape(-1)).reshape(6, 10), (6, 10), n_iterations
        )

    assert estimate(60) == pytest.approx(9.0, rel=1e-9)
    assert 0.97 * 9 < estimate(10) < 9


def test_an_operator_with_few_eigenvalues_ends_the_search():
    assert largest_eigenvalue(lambda x: 4 * x, (3, 5), 10) == pytest.approx(4.0)
