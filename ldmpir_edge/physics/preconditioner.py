"""What brings the conjugate gradients of phase-encoded MRI to their end in half the iterations.

AᴴA is nearly a convolution along the phase encode: each frequency of the image meets the samples
near it, as far as the spectra of the coil maps reach. The inverse of that convolution and of a
typical λ preconditions; where λ differs from it, a scaling on both sides of the inverse follows.

Source: Koolstra et al., "Accelerating compressed sensing in parallel imaging reconstructions using
an efficient circulant preconditioner", MRM 81(1), 2019.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.fft
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ldmpir_edge.physics.linear_op import Array

EVERY_ROW = 8
"""Rows of the maps, which are smooth, from one whose spectrum is looked at to the next."""
TYPICAL_DIAGONAL = 0.3
"""Of AᴴA: between 1 / R of an accelerated scan and 1 of filtered CT."""
TINY = 1e-9

Preconditioner = Callable[[Array], Array]


def sampling_density(csm: NDArray[np.complex64], mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of each frequency along the phase encode that the samples hold.

    The diagonal of AᴴA in k-space: the mask, smoothed by the power spectrum of the coil maps.

    Parameters
    ----------
    csm
        `(coils, H, W)` complex.
    mask
        `(W,)`, 1 at the sampled phase encodes.

    Returns
    -------
        `(W,)` in [0, 1], in the order of the fast Fourier transform: frequency 0 first.
    """
    spectrum = scipy.fft.fft(csm[:, ::EVERY_ROW], axis=-1)
    power = np.sum(np.abs(spectrum) ** 2, axis=(0, 1))
    sampled = scipy.fft.fft(np.fft.ifftshift(mask))
    met = scipy.fft.ifft(sampled * np.conj(scipy.fft.fft(power))).real
    density: NDArray[np.float32] = np.clip(met / max(float(power.sum()), TINY), 0, 1)
    return density.astype(np.float32)


def density_of_halves(density: NDArray[np.float32], padded_width: int) -> NDArray[np.float32]:
    """Return a density `(W,)` at the frequencies ±(j + ½) of the padded image, `(2, W'/2)`."""
    width = len(density)
    frequency = (np.arange(padded_width // 2) + 0.5) * width / padded_width
    known = np.fft.fftfreq(width, 1 / width)
    both = [np.interp(sign * frequency, known, density, period=width) for sign in (1, -1)]
    return np.stack(both).astype(np.float32)


def half_transforms(padded_width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the orthonormal cosine and sine transforms of half a row, `(W / 2, W / 2)` each.

    From positions, the outermost first, to the frequencies j + ½; both are counted from the middle.
    """
    half = padded_width // 2
    position, frequency = half - 0.5 - np.arange(half), np.arange(half) + 0.5
    angle = np.pi / half * np.outer(position, frequency)
    scale = np.sqrt(2 / half)
    return (scale * np.cos(angle)).astype(np.float32), (scale * np.sin(angle)).astype(np.float32)


def diagonal(weight: Array, of_gram: float = TYPICAL_DIAGONAL) -> Preconditioner:
    """Return r → r / (`of_gram` + λ), for λ in the shape of r and the diagonal of AᴴA."""
    inverse = 1 / (of_gram + weight)
    return lambda residual: residual * inverse


def circulant(
    weight: Array, light: Array, density: Array, cosines: Array, sines: Array
) -> Preconditioner:
    """Return r → S Fᴴ (D + λ̄)⁻¹ F S r on folded rows, `(B, 4, H, W/2)`.

    F is the DFT along the row, D the sampling density, λ̄ a typical λ and
    S² = (diagonal + λ̄) / (diagonal + λ): symmetric and positive definite.

    Parameters
    ----------
    weight
        λ, `(B, 4, H, W/2)`, positive.
    light
        Like `weight`: an image, whose magnitudes weigh λ for its mean.
    density
        `(B, 2, W/2)`, of `density_of_halves`.
    cosines, sines
        `(W/2, W/2)`, of `half_transforms`.
    """
    xp = array_namespace(weight)
    typical, scale = _typical(weight, light, TYPICAL_DIAGONAL)
    inverse = 1 / (density[:, None] + typical)
    plus, minus = inverse[:, :, :1], inverse[:, :, 1:]
    # Halves, for the two transforms there and back are twice the DFT.
    same, cross = (plus + minus) / 4, (plus - minus) / 4

    def turned(planes: Array) -> Array:
        return xp.concat([-planes[:, 1:], planes[:, :1]], axis=1)

    def apply(residual: Array) -> Array:
        scaled = scale * residual
        left, right = scaled[:, :2], scaled[:, 2:]
        # The spectrum is even ∓ i odd at ±(j + ½).
        even, odd = (right + left) @ cosines, (right - left) @ sines
        even, odd = same * even - cross * turned(odd), same * odd + cross * turned(even)
        even, odd = even @ cosines.T, odd @ sines.T
        return scale * xp.concat([even - odd, even + odd], axis=1)

    return apply


def circulant_of_pixels(
    weight: NDArray[np.float32],
    light: NDArray[np.float32],
    density: NDArray[np.float32],
    of_gram: float,
) -> Preconditioner:
    """Return the map of `circulant` for complex images, by fast transforms.

    Parameters
    ----------
    weight, light
        As there, `(1, H, W, 2)`: the last axis has the real and imaginary parts.
    density
        `(W,)`, of `sampling_density`.
    of_gram
        The diagonal of AᴴA.
    """
    typical, scale = _typical(weight, light, of_gram)
    inverse = 1 / (density + typical[..., 0])

    def apply(residual: NDArray[np.float32]) -> NDArray[np.float32]:
        spectrum = scipy.fft.fft((scale * residual).view(np.complex64)[..., 0], axis=-1)
        solved: NDArray[np.complex64] = scipy.fft.ifft(spectrum * inverse, axis=-1)
        parts: NDArray[np.float32] = scale * solved[..., None].view(np.float32)
        return parts

    return apply


def _typical(weight: Array, light: Array, of_gram: float) -> tuple[Array, Array]:
    """Return the mean of λ over the light, and S of `circulant`."""
    xp = array_namespace(weight)
    light = xp.abs(light) + TINY
    over = (1, 2, 3)
    typical = xp.sum(weight * light, axis=over, keepdims=True) / xp.sum(
        light, axis=over, keepdims=True
    )
    return typical, xp.sqrt((of_gram + typical) / (of_gram + weight))
