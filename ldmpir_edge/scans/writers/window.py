"""One grey window for a volume that is never in memory as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.problem import Modality
from ldmpir_edge.scans.display import display_window

MAX_PIXELS = 2**20
"""Pixels that a window is chosen from: the rank of its percentile is then within 0.01 %."""


class WindowSample:
    """Pixels of every slice, at most `MAX_PIXELS` in all, for `display_window`.

    Up to that size of volume they are all pixels, beyond it drawn at random, the same in every
    run.

    Parameters
    ----------
    n_slices
        Number of slices of the volume.
    """

    def __init__(self, n_slices: int) -> None:
        self._per_slice = max(1, MAX_PIXELS // n_slices)
        self._drawn: list[NDArray[np.float32]] = []

    def add(self, image: NDArray[np.float32]) -> None:
        """Draw from the next slice, `(H, W)`."""
        pixels = image.ravel()
        if pixels.size > self._per_slice:
            draws = np.random.default_rng(len(self._drawn))
            pixels = pixels[draws.integers(pixels.size, size=self._per_slice)]
        self._drawn.append(pixels)

    def window(self, modality: Modality) -> tuple[float, float]:
        """Return the (black, white) values of the volume."""
        return display_window(np.concatenate(self._drawn), modality)
