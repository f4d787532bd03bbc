"""A map of uncertainty: where samples of the bridge differ, and where there is detail to miss."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SPREAD = 4.0
"""The bridge's own noise is too little to show in the samples; that of the other steps, which is
not taken off again, shows everywhere alike and hides where the first one does."""

SMOOTHING_PX = 2.0
"""Eight samples tell a variance to a half of it: its neighbours are asked, too."""

DETAIL_PX = 1.0
"""Standard deviation of the Gaussian within which detail is told from its surroundings. All samples
come from one network, and agree on what it smooths away or draws too sharp. On training slices the
detail, beside the spread, took the rank correlation with the error from -0.20-0.46 to 0.34-0.58;
half of it to 0.32-0.55, twice as much to 0.36-0.59."""


def opening_noise(seed: int, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw noise for the first step of the bridge alone, `SPREAD` times as large as its own.

    Parameters
    ----------
    seed, index
        Of the sample and the slice: the same give the same noise.
    shape
        (steps − 1, 2, H, W).
    """
    noise = np.zeros(shape, np.float32)
    draws = np.random.default_rng([seed, index])
    noise[0] = SPREAD * draws.standard_normal(shape[1:], np.float32)
    return noise


def with_detail(spread: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add the image's local standard deviation to that of the samples, as variances.

    Parameters
    ----------
    spread, image
        `(H, W)`: the samples' deviation, and the image that is delivered, on one scale.
    """
    # Around the image's mean, so that an offset, such as air's in HU, costs no digits.
    level = image.astype(np.float64) - image.mean(dtype=np.float64)
    mean = ndimage.gaussian_filter(level, DETAIL_PX)
    detail = np.maximum(ndimage.gaussian_filter(level**2, DETAIL_PX) - mean**2, 0)
    both: NDArray[np.float64] = np.sqrt(spread.astype(np.float64) ** 2 + detail)
    return both.astype(np.float32)


def deviation(images: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the standard deviation about each pixel, with one image in memory at a time.

    Its square is a mean over neighbours, weighted by a Gaussian of `SMOOTHING_PX`.

    Parameters
    ----------
    images
        `(H, W)` each, at least two.

    Source: Welford, Technometrics 4(3), 1962.
    """
    n_seen = 0
    mean = squares = np.zeros(())
    for n_seen, image in enumerate(images, start=1):
        away = image - mean
        mean = mean + away / n_seen
        squares = squares + away * (image - mean)
    variance: NDArray[np.float64] = ndimage.gaussian_filter(squares / (n_seen - 1), SMOOTHING_PX)
    return np.sqrt(variance).astype(np.float32)
