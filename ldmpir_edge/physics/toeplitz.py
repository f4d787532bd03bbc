"""The filtered normal operator of a parallel-beam scan as a convolution.

With F the windowed ramp filter along the detectors (angular quadrature included) and B the
back-projection that interpolates between detectors, B F A is nearly invariant to shifts. Its
point-spread function has a closed form, so an engine applies it by a few DFT products in place of
two projections. B is Aᵀ up to how it interpolates and up to `adjoint_scale`.

A takes the pixels for samples of a band-limited object. Joseph's projector interpolates between
them linearly, which dims fine detail (by a fifth at half the Nyquist frequency) that a scanner
does not dim: on data of a finer grid the residual of the true image is up to 2.4 times as large
with it, also where the pair is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.fbp import hann_ramp_kernel, view_weights
from ldmpir_edge.physics.fourier import fft_module
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.power_iteration import largest_eigenvalue

OVERSAMPLING = 64
"""Table samples across a pixel or detector; linear interpolation then errs by 1e-4."""

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

    Shifts are in DFT order (0 first, negative shifts behind). Averaged over where a pixel lies
    between two detectors; that average is what makes it a convolution.
    """
    joseph = _joseph_point_spread(geometry, image_shape, pixel_spacing_mm)
    # The triangle that a pixel casts in a view along f has the spectrum sinc² of the larger of
    # f's components, which is that of linear interpolation.
    rows, columns = joseph.shape
    larger = np.maximum(np.abs(np.fft.fftfreq(rows))[:, None], np.fft.rfftfreq(columns))
    return np.fft.irfft2(np.fft.rfft2(joseph) / np.sinc(larger) ** 2, joseph.shape)


def _joseph_point_spread(
    geometry: RadonGeometry, image_shape: tuple[int, int], pixel_spacing_mm: float
) -> NDArray[np.float64]:
    """Return the same for Joseph's A, which interpolates between the pixels linearly."""
    height, width = image_shape
    h = pixel_spacing_mm
    rows = np.arange(height + 1)[:, None]
    columns = np.arange(-width, width)[None, :]
    half = np.zeros((height + 1, 2 * width))
    for theta, weight in zip(
        geometry.angles_rad, view_weights(geometry.angles_rad, np.pi), strict=True
    ):
        profile, step = _view_profile(geometry, theta, h, float(np.hypot(height, width)) * h)
        # Rows count downwards, y upwards.
        shift = np.abs(columns * (h * np.cos(theta) / step) - rows * (h * np.sin(theta) / step))
        index = shift.astype(np.intp)
        half += weight * (profile[index] + (shift - index) * np.diff(profile)[index])
    half = np.fft.ifftshift(half, axes=1)
    # The function is even: shift (−r, c) equals (r, −c).
    mirrored = np.roll(half[:, ::-1], 1, axis=1)
    half[[0, -1]] = (half[[0, -1]] + mirrored[[0, -1]]) / 2
    return np.concatenate([half, mirrored[-2:0:-1]])


def _view_profile(
    geometry: RadonGeometry, theta: float, h: float, reach_mm: float
) -> tuple[NDArray[np.float64], float]:
    """Tabulate one view's contribution against the shift along û; return it and its step in mm.

    A pixel casts a triangle of half width `foot` on the detector; back-projection interpolates
    with a triangle of the detector pitch; the ramp's taps repeat their product at the pitch.
    """
    foot = h * float(max(abs(np.cos(theta)), abs(np.sin(theta))))
    pitch = geometry.spacing
    # The table's step divides the pitch: shifting by a detector is shifting by whole samples.
    per_pitch = int(np.ceil(OVERSAMPLING * pitch / min(foot, pitch)))
    step = pitch / per_pitch
    span = int(np.ceil(foot / pitch)) + 2
    offsets = np.arange(-span, span + 1)
    sample = offsets[:, None] * per_pitch + np.arange(per_pitch)
    footprint = _footprint(step * sample.astype(np.float64), foot, pitch)
    n_detectors = int(reach_mm / pitch) + 3
    taps = hann_ramp_kernel(n_detectors + span, pitch)
    shifted = taps[np.abs(np.arange(n_detectors)[:, None] - offsets)]
    return (shifted @ footprint).reshape(-1) * h**2, step


def _footprint(u: NDArray[np.float64], foot: float, pitch: float) -> NDArray[np.float64]:
    """Convolve triangles of half widths `foot` and `pitch`, each of area 1; in 1/mm.

    A triangle is the second difference of |u|/2, so this is that of |u|³/12 with both steps.
    """
    result = np.zeros_like(u)
    for i, first in ((-1, 1.0), (0, -2.0), (1, 1.0)):
        for j, second in ((-1, 1.0), (0, -2.0), (1, 1.0)):
            result += first * second * np.abs(u - i * foot - j * pitch) ** 3
    return result / (12 * foot**2 * pitch**2)


def _dft_block(n: int, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
    phase = -2 * np.pi * (np.outer(rows, columns) % n) / n
    return np.stack([np.cos(phase), np.sin(phase)], axis=-1).astype(np.float32)
