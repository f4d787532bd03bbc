"""Cartesian MRI: coil sensitivity maps, Fourier transform and sampling mask."""

from __future__ import annotations

from array_api_compat import array_namespace

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.fourier import centred_fft, centred_ifft, fft_module
from ldmpir_edge.physics.linear_op import Array, LinearOp


class CartesianOp(LinearOp):
    """SENSE forward model y = M F S x for one slice.

    Partial Fourier is a mask like any other; a single coil is `csm` of one map of ones.

    Parameters
    ----------
    csm
        `(coils, readout, phase_encode)` complex coil sensitivity maps. With Σ|S|² ≤ 1 at each
        pixel the operator norm is at most 1.
    mask
        `(readout, phase_encode)` or `(phase_encode,)`, real, 1 where sampled.
    hybrid
        The measurement is already inverse transformed along readout, so only the phase-encode
        axis is transformed; asks for a mask of shape `(phase_encode,)`.

    Raises
    ------
    ShapeError
        Maps and mask do not fit together.
    ScanDataError
        The mask samples nothing.

    Source: Pruessmann et al., "SENSE", MRM 42(5), 1999.
    """

    def __init__(self, csm: Array, mask: Array, *, hybrid: bool = False) -> None:
        xp = array_namespace(csm, mask)
        if len(csm.shape) != 3 or csm.shape[0] < 1:
            raise ShapeError(
                f"csm has shape {tuple(csm.shape)}; expected (coils, readout, phase_encode)"
            )
        height, width = csm.shape[-2:]
        allowed = {(width,)} if hybrid else {(width,), (height, width)}
        if tuple(mask.shape) not in allowed:
            raise ShapeError(
                f"mask has shape {tuple(mask.shape)}; expected one of {sorted(allowed)}"
            )
        if not bool(xp.any(mask != 0)):
            raise ScanDataError(
                "the sampling mask is empty: no k-space sample to reconstruct from; "
                "check that the scan was written completely"
            )
        self.csm = csm
        self.mask = xp.astype(mask, csm.real.dtype)
        self.axes: tuple[int, ...] = (-1,) if hybrid else (-2, -1)
        self._mask_axes = tuple(range(-len(mask.shape), 0))
        self._shifted_mask = xp.fft.ifftshift(self.mask, axes=self._mask_axes)
        self._conjugate = xp.conj(csm)
        self.domain_shape = (int(height), int(width))
        self.range_shape = (int(csm.shape[0]), int(height), int(width))

    def gram(self, x: Array) -> Array:
        """Apply AᴴA to `x` of shape `(..., *domain_shape)`, without moving the centre about.

        FᴴMF is a circular convolution, and shifts commute with it: they are made once, to the
        mask. Along readout it is the identity where the mask does not vary.
        """
        fft, axes = fft_module(x), self._mask_axes
        # One coil after the other: its image stays in the cache, and no stack is allocated.
        return sum(
            conjugate * fft.ifftn(self._shifted_mask * fft.fftn(csm * x, axes=axes), axes=axes)
            for csm, conjugate in zip(self.csm, self._conjugate, strict=True)
        )

    def _forward(self, x: Array) -> Array:
        return self.mask * centred_fft(x[..., None, :, :] * self.csm, self.axes)

    def _adjoint(self, y: Array) -> Array:
        return sum(
            conjugate * centred_ifft(self.mask * y[..., coil, :, :], self.axes)
            for coil, conjugate in enumerate(self._conjugate)
        )
