from __future__ import annotations

import numpy as np
import pytest
from operator_battery import assert_adjoint, assert_linear

from ldmpir_edge.errors import ShapeError
from ldmpir_edge.physics.sampling import IdentityOp, InpaintingOp
from ldmpir_edge.physics.superresolution import BlurDecimateOp


@pytest.mark.parametrize("shape", [(16, 24), (17, 9)])
def test_pointwise_operators(shape, rng):
    for op in (IdentityOp(shape), InpaintingOp((rng.random(shape) < 0.7).astype(float))):
        assert_adjoint(op, rng, complex_=False, batch=(3,))
        assert_linear(op, rng, complex_=False)


@pytest.mark.parametrize(("shape", "factor"), [((16, 24), 2), ((20, 36), 4), ((15, 9), 3)])
def test_blur_and_decimate(shape, factor, rng):
    op = BlurDecimateOp(shape, factor)
    assert_adjoint(op, rng, complex_=False, batch=(2,))
    assert_linear(op, rng, complex_=False)
    np.testing.assert_allclose(op.forward(np.full(shape, 7.0)), 7.0, rtol=1e-12)


def test_blur_moves_nothing():
    # A linear ramp is its own blur: coarse pixel j must read the ramp at its own centre.
    ramp = np.tile(np.arange(32.0), (32, 1))
    coarse = BlurDecimateOp((32, 32), 2).forward(ramp)
    np.testing.assert_allclose(coarse[:, 4:12], np.tile(np.arange(8, 24, 2) + 0.5, (16, 1)))


def test_refuses_a_size_that_the_factor_does_not_divide():
    with pytest.raises(ShapeError, match="33"):
        BlurDecimateOp((32, 33), 2)
