"""The grey window in which an image is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.problem import Modality

CT_SOFT_TISSUE_HU = (-160.0, 240.0)
"""Soft tissue: level 40, width 400 HU."""

MR_BRIGHT_PERCENTILE = 99.5


def display_window(image: NDArray[Any], modality: Modality) -> tuple[float, float]:
    """Choose the (black, white) values: 0 to the 99.5th percentile for MR, soft tissue for CT.

    Parameters
    ----------
    image
        Any shape, real and finite, in the scan's unit. White always lies above black, also for
        an image without signal.
    modality
        `mr` or `ct`.
    """
    if modality == "ct":
        return CT_SOFT_TISSUE_HU
    bright = float(np.percentile(image, MR_BRIGHT_PERCENTILE))
    if bright > 0.0:
        return 0.0, bright
    peak = float(np.max(image))  # a mostly empty image: nothing but its few bright pixels counts
    return 0.0, peak if peak > 0.0 else 1.0
