"""The phantom's image and line integrals against direct numerical evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from ldmpir_edge.scans.phantom import Ellipse, head_phantom, line_integrals, rasterise

TILTED = Ellipse(x=0.2, y=-0.1, a=0.5, b=0.2, angle_rad=0.6, mr=2.0, hu=1000.0)


def inside(ellipse, x, y):
    """Membership by the quadratic form of the rotated ellipse."""
    rotation = np.array(
        [
            [np.cos(ellipse.angle_rad), np.sin(ellipse.angle_rad)],
            [-np.sin(ellipse.angle_rad), np.cos(ellipse.angle_rad)],
        ]
    )
    local = np.tensordot(rotation, np.stack([x - ellipse.x, y - ellipse.y]), axes=1)
    return (local[0] / ellipse.a) ** 2 + (local[1] / ellipse.b) ** 2 <= 1


@pytest.mark.parametrize("phi", [0.0, 0.4, np.pi / 2, 2.5, 4.0])
def test_line_integrals_match_sampling_along_the_line(phi):
    along = np.linspace(-2, 2, 40001)
    offsets = np.linspace(-0.6, 0.6, 13)
    expected = [
        inside(
            TILTED, s * np.cos(phi) - along * np.sin(phi), s * np.sin(phi) + along * np.cos(phi)
        ).sum()
        * (along[1] - along[0])
        for s in offsets
    ]
    found = line_integrals([TILTED], np.array([[phi]]), 100.0 * offsets[None], 100.0, 0.02)
    # 1000 HU above air is water: one unit is 100 mm of 0.02 per mm.
    np.testing.assert_allclose(found[0], 2.0 * np.array(expected), atol=1e-3)


def test_raster_has_the_area_and_the_place_of_the_ellipse():
    image = rasterise([TILTED], (200, 200), "mr")
    pixel = 2 / 200
    assert image.sum() * pixel**2 == pytest.approx(2.0 * np.pi * 0.5 * 0.2, rel=2e-3)
    x = (np.arange(200) - 99.5) * pixel
    assert (image.sum(axis=0) * x).sum() / image.sum() == pytest.approx(0.2, abs=1e-3)
    # y points up: row 0 is the top.
    assert (image.sum(axis=1) * -x).sum() / image.sum() == pytest.approx(-0.1, abs=1e-3)


def test_raster_of_hu_starts_from_air():
    image = rasterise([TILTED], (64, 64), "hu")
    assert image[0, 0] == -1000
    assert image.max() == 0


def test_image_and_projections_of_the_head_agree(rng):
    head = head_phantom(rng, 0.2)
    n = 256
    image = rasterise(head, (n, n), "hu") + 1000
    s = (np.arange(n) - (n - 1) / 2) * 2 / n
    columns = line_integrals(head, np.array([[0.0]]), s[None], 1.0, 1.0)[0]
    np.testing.assert_allclose(image.sum(axis=0) * 2 / n / 1000, columns, atol=0.08)
    rows = line_integrals(head, np.array([[np.pi / 2]]), s[None], 1.0, 1.0)[0]
    np.testing.assert_allclose(image.sum(axis=1)[::-1] * 2 / n / 1000, rows, atol=0.08)


def test_the_head_has_tissues_where_they_belong(rng):
    head = head_phantom(rng)
    mr, hu = (rasterise(head, (256, 256), contrast) for contrast in ("mr", "hu"))
    assert hu[:, 128].max() > 900  # skull
    brain = hu[90:166, 80:176]
    assert -20 < np.median(brain) < 60
    assert mr[:8].max() == 0
    assert mr.min() >= 0
    assert 0.8 < np.quantile(mr, 0.999) < 1.2
    assert len(head) > 150


def test_another_seed_is_another_head():
    first, second = (
        rasterise(head_phantom(np.random.default_rng(seed)), (64, 64), "mr") for seed in (0, 1)
    )
    assert np.abs(first - second).max() > 0.1
