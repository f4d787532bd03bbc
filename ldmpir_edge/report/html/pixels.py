"""Images as text that a browser unpacks to 16 bits a pixel."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 2**16 - 1


@dataclass(frozen=True)
class Pixels:
    """An image in 65,536 levels between its least and its largest value.

    Parameters
    ----------
    height, width
        Its size.
    low, step
        Level q stands for `low + step * q` in the image's unit.
    data
        Base64 of a zlib stream: of each level less its left neighbour, modulo 2¹⁶, all high bytes
        and then all low bytes, row by row. What is left of a neighbour compresses by a third.
    """

    height: int
    width: int
    low: float
    step: float
    data: str = field(repr=False)

    @property
    def scale(self) -> dict[str, float]:
        """All but the data, for the page's script."""
        return {"height": self.height, "width": self.width, "low": self.low, "step": self.step}


def pack(image: NDArray[Any]) -> Pixels:
    """Pack a real, finite image `(H, W)`; the error is half a step at most."""
    values = image.astype(np.float64)
    low = float(values.min())
    step = float(values.max() - low) / LEVELS
    levels = np.rint((values - low) / (step or 1.0)).astype(np.uint16)
    change = np.diff(levels, axis=1, prepend=np.uint16(0))  # unsigned: it wraps
    parts = np.stack([change >> 8, change & 0xFF]).astype(np.uint8)
    data = base64.b64encode(zlib.compress(parts.tobytes())).decode("ascii")
    height, width = image.shape
    return Pixels(height, width, low, step, data)
