"""White noise in a real image: its level, and the bias that it leaves in a magnitude."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.noise import NORMAL_MEDIAN

RAYLEIGH_DEVIATION = float(np.sqrt(2 - np.pi / 2))
"""Standard deviation of a magnitude where there is no signal, for noise of 1 in each component."""
RAYLEIGH_MEAN = float(np.sqrt(np.pi / 2))
BACKGROUND_WINDOW = 7
DARK = 1.3 * RAYLEIGH_MEAN
"""Means over a window that are below this many noise levels are background."""
LEAST_BACKGROUND = 0.01
"""Share of the pixels that must be background for it to be measured."""
NOISE_ALONE = (0.95, 1.2)
"""How bright a background may be, where the magnitude of noise alone is 1. Uniform noise, as in the
background of maps and phases, is at 0.91."""
NOISE_POWER = 1.4
"""Power of the noise to take off, in units of the variance of a component. Twice the variance is
unbiased in the power, once in a bright magnitude; between them, the root is nearest to the signal
over all brightnesses: within 0.32 of the noise, where a magnitude is up to 1.25 too bright."""


def noise_response(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Filter a real `(H, W)` image so that of locally planar structure nothing is left.

    White noise keeps its standard deviation. Source: Immerkaer, CVIU 64(2), 1996.
    """
    from scipy import ndimage  # slow to import, and needed for images only

    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float64) / 6
    response = ndimage.convolve(image.astype(np.float64), kernel, mode="reflect")
    return cast("NDArray[np.float64]", response)


def estimate_noise_level(image: NDArray[np.floating]) -> float:
    """Estimate the standard deviation of white noise in a real `(H, W)` image, in its unit.

    The median absolute response of a filter that removes locally planar structure: edges are
    outliers to a median. Source: Immerkaer, CVIU 64(2), 1996; Donoho, IEEE TIT 41(3), 1995.
    """
    return _typical(np.abs(noise_response(image)))


def _typical(response: NDArray[np.float64]) -> float:
    # Exact zeros come from clipped background, which would hide the noise of the object.
    alive = response[response > 0]
    if alive.size == 0:
        return 0.0
    return float(np.median(alive) / NORMAL_MEDIAN)


def rician_noise_level(magnitude: NDArray[np.floating]) -> float | None:
    """Estimate the noise of a magnitude image from its background, or return None.

    Where there is no signal, a magnitude is Rayleigh distributed: 0.655 times as noisy as one of
    its components. None where values are negative (it is no magnitude), where a scanner has
    blanked the background, or where what is dark is not noise: its mean tells.

    Parameters
    ----------
    magnitude
        Real `(H, W)`.

    Returns
    -------
        The standard deviation of the noise in each component of the complex image, in its unit.

    Source: Gudbjartsson and Patz, MRM 34(6), 1995.
    """
    from scipy import ndimage  # slow to import, and needed for images only

    if (magnitude < 0).any():
        return None
    response = np.abs(noise_response(magnitude))
    most = _typical(response) / RAYLEIGH_DEVIATION
    mean = ndimage.uniform_filter(magnitude.astype(np.float64), BACKGROUND_WINDOW)
    least = ndimage.minimum_filter(magnitude, BACKGROUND_WINDOW)
    background = (mean < DARK * most) & (least > 0)
    if background.mean() < LEAST_BACKGROUND:
        return None
    spread = np.median(response[background]) / NORMAL_MEDIAN
    level = float(spread / RAYLEIGH_DEVIATION)
    darkest, brightest = NOISE_ALONE
    brightness = float(magnitude[background].mean())
    if not darkest * level < brightness / RAYLEIGH_MEAN < brightest * level:
        return None
    return level


def without_rician_bias(magnitude: NDArray[np.float32], level: float) -> NDArray[np.float32]:
    """Take the power of the noise off a magnitude `(H, W)`; what is below it becomes negative.

    So the background's mean is about zero, as with Gaussian noise, and denoising brings both to
    the same image. Pixels of exactly zero were blanked, and stay.

    Source: McGibney and Smith, Med. Phys. 20(4), 1993.
    """
    power = magnitude**2 - np.float32(NOISE_POWER * level**2)
    signed = np.sign(power) * np.sqrt(np.abs(power))
    return np.where(magnitude > 0, signed, np.float32(0)).astype(np.float32)
