from __future__ import annotations

import astra
import numpy as np
import pytest
import torch
from ellipses import analytic_sinogram, pixelated
from operator_battery import assert_adjoint, assert_linear

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.geometry import KINDS, RadonGeometry
from ldmpir_edge.physics.radon import RadonOp

SHAPES = [(31, 46), (48, 33), (24, 24), (17, 17)]


def scan(kind, n_views=14, n_detectors=61, pitch=1.0, offset=0.0, turn=2 * np.pi):
    """A scan of a 40 mm object; `pitch` is the ray spacing at the rotation centre."""
    spacing = {
        "parallel": {"detector_spacing_mm": pitch},
        "fan-equidistant": {
            "detector_spacing_mm": pitch * 1.7,
            "source_origin_mm": 60.0,
            "origin_detector_mm": 42.0,
        },
        "fan-equiangular": {"detector_spacing_rad": pitch / 60, "source_origin_mm": 60.0},
    }[kind]
    angles = np.linspace(0.1, 0.1 + turn, n_views, endpoint=False)
    return RadonGeometry(kind, angles, n_detectors, detector_offset=offset, **spacing)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n_detectors", "pitch", "offset"), [(61, 1.0, 0.0), (40, 1.7, 0.25), (150, 0.35, -3.3)]
)
def test_adjoint_and_linearity(shape, kind, n_detectors, pitch, offset, rng):
    geometry = scan(kind, n_detectors=n_detectors, pitch=pitch, offset=offset)
    op = RadonOp(geometry, shape, 1.1, center_mm=(0.55, -0.3))
    assert_adjoint(op, rng, complex_=False, tolerance=1e-12)
    assert_adjoint(op, rng, complex_=False, batch=(2, 1))
    assert_linear(op, rng, complex_=False)


@pytest.mark.parametrize("angle", np.arange(8) * np.pi / 4)
@pytest.mark.parametrize("kind", KINDS)
def test_adjoint_along_the_axes_and_diagonals(kind, angle, rng):
    geometry = scan(kind, n_views=1)
    geometry = RadonGeometry(
        kind,
        [angle],
        geometry.n_detectors,
        detector_spacing_mm=geometry.detector_spacing_mm,
        detector_spacing_rad=geometry.detector_spacing_rad,
        source_origin_mm=geometry.source_origin_mm,
        origin_detector_mm=geometry.origin_detector_mm,
    )
    assert_adjoint(RadonOp(geometry, (20, 23), 1.1), rng, complex_=False)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_pair_stays_matched(kind, rng):
    op = RadonOp(scan(kind), (40, 30), 1.1)
    x = rng.standard_normal(op.domain_shape).astype(np.float32)
    y = rng.standard_normal(op.range_shape).astype(np.float32)
    ax, aty = op.forward(x), op.adjoint(y)
    assert ax.dtype == aty.dtype == np.float32
    gap = abs(np.vdot(ax, y) - np.vdot(x, aty))
    assert gap <= 1e-5 * np.linalg.norm(ax) * np.linalg.norm(y)


def astra_sinogram(image, projection, spacing_mm, projector):
    height, width = (n * spacing_mm / 2 for n in image.shape)
    volume = astra.create_vol_geom(*image.shape, -width, width, -height, height)
    identifier = astra.create_projector(projector, projection, volume)
    sinogram = astra.create_sino(image.astype(np.float32), identifier)[1]
    astra.clear()
    return sinogram


def smooth_image(shape):
    """Two off-centre blobs: no symmetry, no frequencies that two projectors could disagree on."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((x - 28) ** 2 + (y - 14) ** 2) / 50) + 0.5 * np.exp(
        -((x - 15) ** 2 + (y - 27) ** 2) / 30
    )


@pytest.mark.parametrize("offset", [0.0, 0.3, -4.0])
def test_parallel_beam_is_astras_linear_projector(offset, rng):
    image = np.pad(rng.random((34, 44)), 3)
    geometry = scan("parallel", n_views=23, pitch=1.3, offset=offset)
    projection = astra.create_proj_geom("parallel", 1.3, 61, geometry.angles_rad)
    projection = astra.geom_postalignment(projection, offset)
    expected = astra_sinogram(image, projection, 1.1, "linear")
    sinogram = RadonOp(geometry, image.shape, 1.1).forward(image)
    np.testing.assert_allclose(sinogram, expected, atol=2e-5 * expected.max())


@pytest.mark.parametrize("offset", [0.0, 0.3, -4.0])
def test_flat_fan_is_astras_fanflat(offset):
    image = smooth_image((40, 45))
    geometry = scan("fan-equidistant", n_views=23, n_detectors=101, pitch=0.7, offset=offset)
    projection = astra.create_proj_geom(
        "fanflat", geometry.detector_spacing_mm, 101, geometry.angles_rad, 60.0, 42.0
    )
    projection = astra.geom_postalignment(projection, offset)
    expected = astra_sinogram(image, projection, 1.1, "line_fanflat")
    sinogram = RadonOp(geometry, image.shape, 1.1).forward(image)
    # ASTRA's CPU has no interpolating fan projector: its ray lengths are jagged by 1 %.
    error = np.linalg.norm(sinogram - expected) / np.linalg.norm(expected)
    assert error < 0.015


@pytest.mark.parametrize("offset", [0.0, 0.25, -3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_ellipses_project_to_their_chords(kind, offset):
    spacing = {
        "parallel": {"detector_spacing_mm": 0.9},
        "fan-equidistant": {
            "detector_spacing_mm": 1.6,
            "source_origin_mm": 150.0,
            "origin_detector_mm": 120.0,
        },
        "fan-equiangular": {"detector_spacing_rad": 0.006, "source_origin_mm": 150.0},
    }[kind]
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    geometry = RadonGeometry(kind, angles, 130, detector_offset=offset, **spacing)
    expected = analytic_sinogram(geometry)
    sinogram = RadonOp(geometry, (200, 212), 0.5).forward(pixelated((200, 212), 0.5))
    assert np.linalg.norm(sinogram - expected) < 0.005 * np.linalg.norm(expected)


def test_moving_the_image_centre_moves_the_image(rng):
    image = rng.random((20, 26))
    geometry = scan("fan-equiangular")
    whole = RadonOp(geometry, (24, 36), 1.1).forward(np.pad(image, ((3, 1), (2, 8))))
    # Cropped by (3, 1) rows and (2, 8) columns, the centre lies 1 pixel down and 3 left.
    moved = RadonOp(geometry, (20, 26), 1.1, center_mm=(-3.3, -1.1)).forward(image)
    np.testing.assert_allclose(moved, whole, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_gives_what_numpy_gives_and_differentiates(kind, rng):
    op = RadonOp(scan(kind), (22, 25), 1.1)
    x, y = rng.standard_normal((2, *op.domain_shape)), rng.standard_normal((2, *op.range_shape))
    image = torch.tensor(x, requires_grad=True)
    sinogram = op.forward(image)
    np.testing.assert_allclose(sinogram.detach().numpy(), op.forward(x), atol=1e-12)
    np.testing.assert_allclose(op.adjoint(torch.tensor(y)).numpy(), op.adjoint(y), atol=1e-12)
    sinogram.backward(torch.tensor(y))
    np.testing.assert_allclose(image.grad.numpy(), op.adjoint(y), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_do_not_show(kind, rng, monkeypatch):
    op = RadonOp(scan(kind), (22, 25), 1.1)
    x = rng.standard_normal(op.domain_shape)
    whole = op.forward(x)
    monkeypatch.setattr("ldmpir_edge.physics.radon.BLOCK_SIZE", 500)
    np.testing.assert_array_equal(op.forward(x), whole)


def test_shapes_are_checked():
    op = RadonOp(scan("parallel"), (22, 25), 1.1)
    with pytest.raises(ShapeError, match=r"\(22, 24\).*\(22, 25\)"):
        op.forward(np.zeros((22, 24)))
    with pytest.raises(ShapeError, match=r"\(14, 60\)"):
        op.adjoint(np.zeros((14, 60)))


def test_a_source_inside_the_image_is_refused():
    with pytest.raises(ScanDataError, match="inside the image"):
        RadonOp(scan("fan-equidistant"), (100, 100), 1.1)


@pytest.mark.parametrize("spacing_mm", [0.0, -1.0, np.nan])
def test_pixel_spacing_must_be_positive(spacing_mm):
    with pytest.raises(ScanDataError, match="pixel_spacing_mm"):
        RadonOp(scan("parallel"), (10, 10), spacing_mm)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("cone", {}, "geometry is 'cone'"),
        ("parallel", {}, "lacks detector_spacing_mm"),
        ("parallel", {"detector_spacing_mm": 0.0}, "detector_spacing_mm is 0.0"),
        ("parallel", {"detector_spacing_mm": np.inf}, "detector_spacing_mm is inf"),
        ("parallel", {"detector_spacing_mm": 1.0, "source_origin_mm": 5.0}, "no source_origin_mm"),
        ("parallel", {"detector_spacing_mm": 1.0, "detector_offset": np.nan}, "detector_offset"),
        ("parallel", {"detector_spacing_mm": 1.0, "n_detectors": 0}, "n_detectors is 0"),
        ("parallel", {"detector_spacing_mm": 1.0, "angles_rad": []}, "angles_rad"),
        ("parallel", {"detector_spacing_mm": 1.0, "angles_rad": [0, np.nan]}, "angles_rad"),
        ("fan-equidistant", {"detector_spacing_mm": 1.0}, "lacks source_origin_mm"),
        (
            "fan-equidistant",
            {"detector_spacing_mm": 1.0, "source_origin_mm": 5.0},
            "lacks origin_detector_mm",
        ),
        (
            "fan-equiangular",
            {"detector_spacing_rad": 0.5, "source_origin_mm": 5.0},
            "the fan opens to",
        ),
        (
            "fan-equiangular",
            {"detector_spacing_mm": 1.0, "source_origin_mm": 5.0},
            "has no detector_spacing_mm|lacks detector_spacing_rad",
        ),
    ],
)
def test_unusable_geometry_is_refused(kind, values, message):
    arguments = {"angles_rad": [0.0, 1.0], "n_detectors": 8, **values}
    with pytest.raises(ScanDataError, match=message):
        RadonGeometry(kind, **arguments)


def test_geometry_compares_and_hashes_by_value():
    assert scan("parallel") == scan("parallel")
    assert hash(scan("fan-equiangular")) == hash(scan("fan-equiangular"))
    assert scan("parallel") != scan("parallel", offset=0.25)
    assert scan("parallel") != scan("parallel", n_views=15)
    with pytest.raises(ValueError, match="read-only"):
        scan("parallel").angles_rad[0] = 1.0
