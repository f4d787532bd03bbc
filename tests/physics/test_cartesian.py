from __future__ import annotations

import numpy as np
import pytest
import torch
from operator_battery import assert_adjoint, assert_linear, draw

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.physics.fourier import centred_fft, centred_ifft, dft_matrix
from ldmpir_edge.physics.masks import column_mask, partial_fourier, variable_density_mask

SHAPES = [(16, 16), (17, 24), (32, 15), (9, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_coils", [1, 5])
@pytest.mark.parametrize("kind", ["columns", "2d", "partial", "hybrid"])
def test_adjoint_and_linearity(shape, n_coils, kind, rng):
    csm = draw((n_coils, *shape), True, rng)
    mask = (rng.random(shape if kind == "2d" else shape[1:]) < 0.5).astype(float)
    mask[..., shape[1] // 2] = 1
    if kind == "partial":
        mask = partial_fourier(np.ones(shape[1]), 0.6)
    op = CartesianOp(csm, mask, hybrid=kind == "hybrid")
    assert_adjoint(op, rng, complex_=True)
    assert_adjoint(op, rng, complex_=True, batch=(2,))
    assert_linear(op, rng, complex_=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_fourier_is_numpys_with_the_centre_in_the_middle(shape, rng):
    x = draw(shape, True, rng)
    expected = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x), norm="ortho"))
    np.testing.assert_allclose(centred_fft(x, (-2, -1)), expected, atol=1e-12)
    np.testing.assert_allclose(centred_ifft(expected, (-2, -1)), x, atol=1e-12)


@pytest.mark.parametrize("n", [8, 15, 320])
def test_dense_dft_block_is_the_transform(n, rng):
    x = draw((n,), True, rng)
    np.testing.assert_allclose(dft_matrix(n) @ x, centred_fft(x, (0,)), atol=2e-5)


def test_sense_agrees_with_sigpy(rng):
    from sigpy.mri.linop import Sense

    csm = draw((4, 24, 20), True, rng)
    mask = (rng.random((24, 20)) < 0.4).astype(float)
    x, y = draw((24, 20), True, rng), draw((4, 24, 20), True, rng)
    ours, theirs = CartesianOp(csm, mask), Sense(csm, weights=mask)
    np.testing.assert_allclose(ours.forward(x), theirs(x), atol=1e-10)
    np.testing.assert_allclose(ours.adjoint(y), theirs.H(y), atol=1e-10)


def test_torch_gives_what_numpy_gives(rng):
    csm, mask = draw((3, 12, 10), True, rng), (rng.random(10) < 0.5).astype(float)
    mask[5] = 1
    x = draw((12, 10), True, rng)
    torch_op = CartesianOp(torch.from_numpy(csm), torch.from_numpy(mask))
    np.testing.assert_allclose(
        torch_op.gram(torch.from_numpy(x)).numpy(), CartesianOp(csm, mask).gram(x), atol=1e-12
    )


def test_unit_maps_give_a_norm_of_at_most_one(rng):
    csm = draw((4, 16, 16), True, rng)
    csm /= np.sqrt((np.abs(csm) ** 2).sum(0))
    op = CartesianOp(csm, np.ones(16))
    x = draw((16, 16), True, rng)
    # A fully sampled acquisition with unit maps is an isometry.
    np.testing.assert_allclose(op.gram(x), x, atol=1e-12)


def test_refuses_what_does_not_fit(rng):
    csm = np.ones((2, 8, 8), complex)
    with pytest.raises(ScanDataError, match="empty"):
        CartesianOp(csm, np.zeros(8))
    with pytest.raises(ShapeError, match=r"\(9,\)"):
        CartesianOp(csm, np.ones(9))
    with pytest.raises(ShapeError, match="coils"):
        CartesianOp(csm[0], np.ones(8))
    with pytest.raises(ShapeError, match="trailing"):
        CartesianOp(csm, np.ones(8)).forward(np.ones((8, 9), complex))


@pytest.mark.parametrize("kind", ["random", "equispaced"])
@pytest.mark.parametrize("acceleration", [2, 4, 8])
def test_column_masks_have_the_asked_acceleration(kind, acceleration, rng):
    mask = column_mask(320, acceleration, 20, kind, rng)
    assert abs(mask.sum() - 320 / acceleration) <= 1
    assert mask[150:170].all()


def test_variable_density_mask_is_denser_in_the_middle(rng):
    mask = variable_density_mask((128, 96), 6, 16, rng)
    assert mask.mean() == pytest.approx(1 / 6, rel=0.15)
    assert mask[56:72, 40:56].all()
    assert mask[:20].mean() < 0.5 * mask[40:60, 30:66].mean()
