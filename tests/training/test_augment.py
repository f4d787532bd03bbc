"""Random views and contrasts stay images."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_problems import disc

from ldmpir_edge.training.augment import random_contrast, random_view

SEEDS = range(25)


@pytest.mark.parametrize("shape", [(48, 48), (20, 64), (96, 40)])
@pytest.mark.parametrize("fill", [0.0, -1000.0])
def test_a_view_is_a_finite_image_of_the_asked_size(shape, fill, rng):
    image = (fill + 500 * rng.random(shape)).astype(np.float32)
    for seed in SEEDS:
        view = random_view(image, 32, fill, np.random.default_rng(seed))
        assert view.shape == (32, 32)
        assert view.dtype == np.float32
        assert np.isfinite(view).all()
        # A cubic spline through white noise overshoots, but by a fraction of the range.
        assert view.min() > fill - 400
        assert view.max() < fill + 900


def test_a_constant_image_keeps_its_value():
    image = np.full((40, 40), 7.0, np.float32)
    for seed in SEEDS:
        np.testing.assert_allclose(
            random_view(image, 32, 7.0, np.random.default_rng(seed)), 7, rtol=1e-5
        )


def test_a_view_keeps_the_object_in_sight():
    """Mass goes with the square of the zoom, 0.8 to 1.6, while nothing leaves the frame."""
    image = np.zeros((64, 64), np.float32)
    image[24:40, 26:38] = 1.0
    ratios = [
        random_view(image, 64, 0.0, np.random.default_rng(s)).sum() / image.sum() for s in SEEDS
    ]
    assert 0.8**2 * 0.95 < min(ratios) < 0.9
    assert 1.5 < max(ratios) < 1.6**2 * 1.05


def test_views_differ_and_repeat_with_their_seed():
    views = [random_view(disc(48), 32, 0.0, np.random.default_rng(s)) for s in (0, 0, 1)]
    assert np.array_equal(views[0], views[1])
    assert not np.allclose(views[0], views[2], atol=0.05)


def test_contrast_keeps_range_shape_and_background():
    image = 900 * disc(48)
    results = [random_contrast(image, np.random.default_rng(seed)) for seed in SEEDS]
    for result in results:
        assert result.shape == image.shape
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
        assert result.min() == 0
        assert 0.3 < result.max() < 2
        assert not result[image == 0].any()
    order = [np.corrcoef(r[image > 0], image[image > 0])[0, 1] for r in results]
    # Some are inverted, most are not.
    assert min(order) < 0
    assert np.mean(np.array(order) > 0.9) > 0.5


def test_contrast_leaves_an_empty_image_alone():
    empty = np.zeros((16, 16), np.float32)
    assert not random_contrast(empty, np.random.default_rng(0)).any()


def test_contrast_stays_finite_beside_one_bright_pixel():
    image = disc(48)
    image[5, 5] = 1e6
    assert random_contrast(image, np.random.default_rng(0)).max() < 2
