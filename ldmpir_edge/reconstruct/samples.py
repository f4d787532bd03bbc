"""The spread of samples of the bridge: where the measurement leaves the image open."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def deviation(images: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the standard deviation of each pixel, with one image in memory at a time.

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
    return np.sqrt(squares / (n_seen - 1)).astype(np.float32)
