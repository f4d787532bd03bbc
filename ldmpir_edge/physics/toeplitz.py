"""The filtered normal operator of a parallel-beam scan as a convolution.

With F the windowed ramp filter along the detectors (angular quadrature included) and B the
back-projection that interpolates the views band-limited, B F A is nearly invariant to shifts. Its
point-spread function has a closed form, so an engine applies it by a few DFT products in place of
two projections. B is Aᵀ up to how it interpolates and up to `adjoint_scale`.

A takes the pixels for samples of a band-limited object, of which the rays are samples, too.
Joseph's projector interpolates between the pixels linearly, which dims fine detail (by a fifth at
half the Nyquist frequency) that a scanner does not dim; back-projection that interpolates between
the detectors linearly folds their noise and aliasing into the image, and hides what lies between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.fbp import finer, hann_ramp_kernel, pixel_band, view_weights
from ldmpir_edge.physics.fourier import fft_module
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.power_iteration import largest_eigenvalue

OVERSAMPLING = 64
"""Table samples across a detector; linear interpolation then errs by 1e-4."""

N_POWER_ITERATIONS = 30


@dataclass(frozen=True)
class ToeplitzTables:
    """The convolution on the doubled grid, ready for `gram_toeplitz`.

    Attributes
    ----------
    kernel
        `(2H, W+1)` float32, real half spectrum. The weights of the half spectrum (1, 2, …, 2, 1)
        and 1/(4HW) of the inverse DFT are folded in. With few views it dips below zero where
        the doubled grid cuts a view's streak; the operator on H × W images stays positive, and
        clipping the dips would only make it less accurate (0.7 % of xᵀ B F A x at 60 views).
    dft_h, dft_w
        `(2H, H, 2)` and `(W, W+1, 2)` float32, real and imaginary parts of the DFT blocks.
    norm
        What the point-spread function was divided by (no unit), so that the largest eigenvalue
        is 1: B F A = norm · gram.
    """

    kernel: NDArray[np.float32]
    dft_h: NDArray[np.float32]
    dft_w: NDArray[np.float32]
    norm: float


def toeplitz_tables(
    geometry: RadonGeometry, image_shape: tuple[int, int], pixel_spacing_mm: float
) -> ToeplitzTables:
    """Build the tables of x → B F A x / norm for a parallel-beam scan.

    The detectors must see the whole image; the result does not depend on where the grid lies
    relative to the rotation centre.

    Parameters
    ----------
    geometry
        Parallel-beam scan.
    image_shape
        `(H, W)`.
    pixel_spacing_mm
        Edge of the square pixels.
    """
    height, width = image_shape
    psf = point_spread(geometry, image_shape, pixel_spacing_mm)
    spectrum = np.fft.rfft2(psf).real

    def gram(x: NDArray[np.float64]) -> NDArray[np.float64]:
        padded = np.fft.rfft2(x, psf.shape) * spectrum
        return np.fft.irfft2(padded, psf.shape)[:height, :width]

    norm = largest_eigenvalue(gram, image_shape, N_POWER_ITERATIONS)
    return ToeplitzTables(
        kernel=(spectrum * _fold(width) / (norm * psf.size)).astype(np.float32),
        dft_h=_dft_block(2 * height, np.arange(2 * height), np.arange(height)),
        dft_w=_dft_block(2 * width, np.arange(width), np.arange(width + 1)),
        norm=norm,
    )


def convolution(
    kernel: NDArray[np.float32],
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return x → B F A x / norm for `(H, W)` float32 images, by fast transforms.

    `kernel` is that of the tables. It takes half the time of the engine's matrix products.
    """
    padded = kernel.shape[0], 2 * (kernel.shape[1] - 1)
    height, width = (n // 2 for n in padded)
    spectrum = kernel * np.float32(padded[0] * padded[1]) / _fold(width)

    def gram(x: NDArray[np.float32]) -> NDArray[np.float32]:
        fft = fft_module(x)
        whole: NDArray[np.float32] = fft.irfft2(fft.rfft2(x, padded) * spectrum, padded)
        return whole[:height, :width]

    return gram


def _fold(width: int) -> NDArray[np.float32]:
    """Return how often the full spectrum has each column of the half one, `(width + 1,)`."""
    fold = np.full(width + 1, 2.0, np.float32)
    fold[[0, -1]] = 1.0
    return fold


def adjoint_scale(geometry: RadonGeometry, pixel_spacing_mm: float) -> float:
    """Return Aᵀ / B in mm: a ray reads a pixel's area, a pixel reads one detector."""
    return pixel_spacing_mm**2 / geometry.spacing


def point_spread(
    geometry: RadonGeometry, image_shape: tuple[int, int], pixel_spacing_mm: float
) -> NDArray[np.float64]:
    """Return the point-spread function of B F A on the doubled grid, `(2H, 2W)`, no unit.

    Shifts are in DFT order (0 first, negative shifts behind).
    """
    height, width = image_shape
    h = pixel_spacing_mm
    reach_mm = float(np.hypot(height, width)) * h
    step = geometry.spacing / OVERSAMPLING
    # Views have one band unless detectors are finer than the pixels.
    profile_of = lru_cache(maxsize=1)(partial(_view_profile, geometry, reach_mm))
    rows = np.arange(height + 1)[:, None]
    columns = np.arange(-width, width)[None, :]
    half = np.zeros((height + 1, 2 * width))
    for theta, weight in zip(
        geometry.angles_rad, view_weights(geometry.angles_rad, np.pi), strict=True
    ):
        profile = profile_of(pixel_band(geometry, float(theta), h))
        # Rows count downwards, y upwards.
        shift = np.abs(columns * (h * np.cos(theta) / step) - rows * (h * np.sin(theta) / step))
        index = shift.astype(np.intp)
        half += weight * (profile[index] + (shift - index) * np.diff(profile)[index])
    half = np.fft.ifftshift(half * h**2, axes=1)
    # The function is even: shift (−r, c) equals (r, −c).
    mirrored = np.roll(half[:, ::-1], 1, axis=1)
    half[[0, -1]] = (half[[0, -1]] + mirrored[[0, -1]]) / 2
    return np.concatenate([half, mirrored[-2:0:-1]])


def _view_profile(geometry: RadonGeometry, reach_mm: float, band: float) -> NDArray[np.float64]:
    """Tabulate the ramp filter between its taps, in 1/mm², against the shift along û.

    From 0 to `reach_mm` at least, `OVERSAMPLING` values a detector; without its frequencies above
    the share `band`.
    """
    pitch = geometry.spacing
    taps = hann_ramp_kernel(int(reach_mm / pitch) + 3, pitch)
    period = np.concatenate([taps, np.zeros(1), taps[:0:-1]])
    table = finer(period, OVERSAMPLING, band)[: taps.size * OVERSAMPLING].astype(np.float64)
    return table / pitch


def _dft_block(n: int, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
    phase = -2 * np.pi * (np.outer(rows, columns) % n) / n
    return np.stack([np.cos(phase), np.sin(phase)], axis=-1).astype(np.float32)
