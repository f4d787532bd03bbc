"""Gaussian smoothing as two small matrix products.

For images of a few hundred pixels that is faster than filtering, and spares the start of a process
the import of scipy.ndimage, which takes as long as preparing a slice.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

TRUNCATE = 4.0


def smooth(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Convolve an `(H, W)` image with a Gaussian of `sigma` pixels, mirrored at its edges."""
    rows, columns = (_matrix(n, sigma) for n in image.shape)
    return np.asarray(rows @ image @ columns.T, np.float32)


@lru_cache(maxsize=16)
def _matrix(size: int, sigma: float) -> NDArray[np.float32]:
    reach = int(TRUNCATE * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    # Beyond an edge the image runs backwards (d c b a | a b c d | d c b a), as often as needed.
    place = (np.arange(size)[:, None] + offsets) % (2 * size)
    column = np.minimum(place, 2 * size - 1 - place)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], column), kernel / kernel.sum())
    made: NDArray[np.float32] = matrix.astype(np.float32)
    made.flags.writeable = False
    return made
