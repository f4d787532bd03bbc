"""One tiny image of each modality, and one thread, since the machine is shared."""

from __future__ import annotations

import numpy as np
import pytest
from one_thread import _one_thread  # noqa: F401 - pytest finds it by this import
from tiny_problems import disc

from ldmpir_edge.training.images import ImageStack


@pytest.fixture(scope="session")
def mr() -> ImageStack:
    """One slice, in a scanner's arbitrary unit."""
    return ImageStack("mr-volume", "mr", (800 * disc(48)).astype(np.uint16)[None])


@pytest.fixture(scope="session")
def ct() -> ImageStack:
    """Three slices in HU: air around soft tissue, with a scanner's padding value outside."""
    image = (1000 * disc(48) - 950).astype(np.int16)
    image[:4] = -3024
    return ImageStack("ct-volume", "ct", np.stack([image, image[::-1], image[:, ::-1]]))
