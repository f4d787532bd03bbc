from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ldmpir_edge.physics.smoothing import smooth


@pytest.mark.parametrize("shape", [(32, 48), (7, 5), (1, 9)])
@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_it_is_the_gaussian_filter(shape, sigma, rng):
    image = rng.standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(
        smooth(image, sigma), ndimage.gaussian_filter(image, sigma), atol=1e-5
    )
