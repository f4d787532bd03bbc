"""The spread of samples of the bridge: where the measurement leaves the image open."""

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
