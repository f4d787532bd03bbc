"""Random views and contrasts stay images."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_problems import disc

from ldmpir_edge.training.augment import (
    MAX_DISCS,
    above_air,
    native_view,
    random_contrast,
    random_discs,
    random_view,
    shorter_kspace,
)

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


@pytest.mark.parametrize(("modality", "air"), [("mr", 0.0), ("ct", -1000.0)])
def test_nothing_is_below_air(modality, air, rng):
    # Steps down to air, round which splines swing below it.
    image = np.where(rng.random((48, 48)) < 0.5, air, air + 500).astype(np.float32)
    views = [random_view(image, 64, air, np.random.default_rng(seed)) for seed in SEEDS]
    assert min(view.min() for view in views) < air - 10
    for seed in SEEDS:
        seen = above_air(random_view, image, modality, 64, np.random.default_rng(seed))
        assert seen.dtype == np.float32
        assert seen.min() >= air
        np.testing.assert_array_equal(seen, np.maximum(views[seed], air))


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


@pytest.mark.parametrize("shape", [(32, 32), (20, 30), (44, 40), (64, 64), (130, 97)])
def test_a_native_view_only_moves_pixels_or_averages_them(shape, rng):
    image = rng.random(shape).astype(np.float32)
    factor = max(1, round(max(shape) / 32))
    rows, columns = shape[0] // factor, shape[1] // factor
    image = image[: rows * factor, : columns * factor]
    # Every pixel of a view is the mean of a square of the image, or the fill.
    means = image.reshape(rows, factor, columns, factor).mean((1, 3)).astype(np.float32)
    for seed in SEEDS:
        view = native_view(image, 32, -1.0, np.random.default_rng(seed))
        assert view.shape == (32, 32)
        seen = np.sort(view[view >= 0])
        assert np.isin(seen.round(5), means.round(5)).all()
        assert len(seen) >= 0.8 * min(rows, 32) * min(columns, 32)


def test_native_views_are_turned_and_shifted():
    image = np.zeros((32, 32), np.float32)
    image[8, 12] = 1.0
    places = {
        tuple(np.argwhere(native_view(image, 32, 0.0, np.random.default_rng(seed)))[0])
        for seed in range(100)
    }
    assert len(places) > 30
    assert {(row > 15, column > 15) for row, column in places} == {
        (a, b) for a in (False, True) for b in (False, True)
    }


@pytest.mark.parametrize("unit", [0.0, 400.0])
def test_discs_are_few_small_and_of_little_contrast(unit):
    image = 100 * disc(96) + 1
    for seed in SEEDS:
        change = random_discs(image, unit or image, np.random.default_rng(seed)) - image
        changed = change != 0
        assert 0 < changed.sum() <= MAX_DISCS * np.pi * 6.5**2
        # Overlapping discs add up.
        largest = 0.4 * MAX_DISCS * (unit or image.max())
        assert 0.05 * (unit or 1.0) * 0.9 < np.abs(change).max() <= largest


def test_discs_fit_where_there_is_hardly_an_image():
    image = np.ones((3, 2), np.float32)
    assert random_discs(image, image, np.random.default_rng(0)).shape == (3, 2)


def test_a_shorter_kspace_is_the_image_of_fewer_samples():
    """A wave that both grids can show keeps its size, and one beyond the shorter's is gone."""
    rows, columns = np.mgrid[:64, :48]
    slow = np.cos(2 * np.pi * (3 * rows / 64 + 2 * columns / 48)).astype(np.float32)
    fast = np.cos(2 * np.pi * 0.45 * rows).astype(np.float32)
    shapes = set()
    for seed in SEEDS:
        shorter = shorter_kspace(slow + fast, np.random.default_rng(seed))
        n_rows, n_columns = shorter.shape
        shapes.add(shorter.shape)
        r, c = np.mgrid[:n_rows, :n_columns]
        # The middle of k-space stays, so does the middle pixel.
        phase = 3 * (r - n_rows // 2) / n_rows + 2 * (c - n_columns // 2) / n_columns
        expected = np.cos(2 * np.pi * (phase + 3 / 2 + 2 / 2))
        assert np.linalg.norm(shorter - expected) < 0.1 * np.linalg.norm(expected)
    assert len(shapes) > 3
    assert all(0.6 < n / 64 < 0.8 for n, _ in shapes)
