"""Iterative CT reconstruction on ASTRA's CPU projectors.

All take

    sinogram          (views, detectors) float32, line integrals −ln(I/I₀)
    geometry          RadonGeometry, parallel or fan-equidistant
    image_shape       (H, W), centred on the rotation axis
    pixel_spacing_mm, mu_water_per_mm

and return the `(H, W)` float32 image in HU. Projector: `linear` (Joseph) for parallel beams, where
it agrees with ours to rounding; `line_fanflat` for fans, ASTRA's only choice beside strips on the
CPU. Threads: one; ASTRA's 2-D CPU code has no others.

Source: van Aarle et al., "Fast and flexible X-ray tomography using the ASTRA toolbox", Optics
Express 24(22), 2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from ldmpir_edge.errors import UsageError
from ldmpir_edge.physics.geometry import RadonGeometry
from peers import fista
from peers.errors import library

POWER_ITERATIONS = 15


def sirt(
    sinogram: np.ndarray,
    geometry: RadonGeometry,
    image_shape: tuple[int, int],
    pixel_spacing_mm: float,
    mu_water_per_mm: float,
    *,
    n_iterations: int = 200,
) -> np.ndarray:
    """Run ASTRA's SIRT from zero, attenuation kept from turning negative.

    Source: Gilbert, J. Theor. Biol. 36(1), 1972; van der Sluis and van der Vorst, Linear Algebra
    Appl. 130, 1990.
    """
    with _projector(geometry, image_shape, pixel_spacing_mm) as projector:
        image = _iterate("SIRT", projector, sinogram, n_iterations, {"MinConstraint": 0.0})
    return _to_hu(image, mu_water_per_mm)


def cgls(
    sinogram: np.ndarray,
    geometry: RadonGeometry,
    image_shape: tuple[int, int],
    pixel_spacing_mm: float,
    mu_water_per_mm: float,
    *,
    n_iterations: int,
) -> np.ndarray:
    """Run ASTRA's CGLS from zero; stopping early is its regularisation.

    Source: Hestenes and Stiefel, J. Res. NBS 49(6), 1952.
    """
    with _projector(geometry, image_shape, pixel_spacing_mm) as projector:
        image = _iterate("CGLS", projector, sinogram, n_iterations, {})
    return _to_hu(image, mu_water_per_mm)


def fista_tv(
    sinogram: np.ndarray,
    geometry: RadonGeometry,
    image_shape: tuple[int, int],
    pixel_spacing_mm: float,
    mu_water_per_mm: float,
    *,
    lam: float,
    n_iterations: int,
) -> np.ndarray:
    """Minimise ½ ‖Ax − y‖²/‖A‖² + λ TV(x) over x ≥ 0 by FISTA, x in units of 2 µ_water.

    ASTRA's projectors; see `peers.fista`. ‖A‖ belongs to the geometry and is kept from call to
    call.
    """
    unit = 2 * mu_water_per_mm
    y = (sinogram / unit).astype(np.float32).ravel()
    norm = _squared_norm(geometry, image_shape, pixel_spacing_mm)
    with _projector(geometry, image_shape, pixel_spacing_mm) as projector:
        op = library("astra").OpTomo(projector)
        x = fista.fista_tv(
            lambda image: op.matvec(image.ravel()),
            lambda rays: op.rmatvec(rays).reshape(image_shape),
            y,
            np.zeros(image_shape),
            norm,
            lam=lam,
            n_iterations=n_iterations,
            lowest=0.0,
        )
    return _to_hu(x * np.float32(unit), mu_water_per_mm)


@contextmanager
def _projector(
    geometry: RadonGeometry, image_shape: tuple[int, int], pixel_spacing_mm: float
) -> Iterator[int]:
    """Make ASTRA's projector of a scan, in mm, and free it with its geometries."""
    astra = library("astra")
    common = (geometry.detector_spacing_mm, geometry.n_detectors, geometry.angles_rad)
    if geometry.kind == "parallel":
        name, rays = "linear", astra.create_proj_geom("parallel", *common)
    elif geometry.kind == "fan-equidistant":
        distances = (geometry.source_origin_mm, geometry.origin_detector_mm)
        name, rays = "line_fanflat", astra.create_proj_geom("fanflat", *common, *distances)
    else:
        raise UsageError(
            f"ASTRA has no {geometry.kind} geometry on the CPU: compare on parallel or "
            "fan-equidistant scans"
        )
    if geometry.detector_offset:
        rays = astra.geom_postalignment(rays, geometry.detector_offset)
    height, width = (n * pixel_spacing_mm / 2 for n in image_shape)
    volume = astra.create_vol_geom(*image_shape, -width, width, -height, height)
    projector = astra.create_projector(name, rays, volume)
    try:
        yield projector
    finally:
        astra.projector.delete(projector)


def _iterate(
    algorithm: str,
    projector: int,
    sinogram: np.ndarray,
    n_iterations: int,
    options: dict[str, Any],
) -> np.ndarray:
    astra = library("astra")
    rays, volume = (
        f(projector) for f in (astra.projector.projection_geometry, astra.projector.volume_geometry)
    )
    data = astra.data2d.create("-sino", rays, np.ascontiguousarray(sinogram, np.float32))
    image = astra.data2d.create("-vol", volume, 0.0)
    config = astra.astra_dict(algorithm) | {
        "ProjectorId": projector,
        "ProjectionDataId": data,
        "ReconstructionDataId": image,
        "option": options,
    }
    identifier = astra.algorithm.create(config)
    try:
        astra.algorithm.run(identifier, n_iterations)
        return np.array(astra.data2d.get(image))
    finally:
        astra.algorithm.delete(identifier)
        astra.data2d.delete([data, image])


@lru_cache(maxsize=4)
def _squared_norm(
    geometry: RadonGeometry, image_shape: tuple[int, int], pixel_spacing_mm: float
) -> float:
    """Bound ‖A‖² from above: power iteration from a positive image, 2 % added."""
    with _projector(geometry, image_shape, pixel_spacing_mm) as projector:
        op = library("astra").OpTomo(projector)
        x, norm = np.ones(int(np.prod(image_shape)), np.float32), 0.0
        for _ in range(POWER_ITERATIONS):
            x = op.rmatvec(op.matvec(x / np.linalg.norm(x)))
            norm = float(np.linalg.norm(x))
    return 1.02 * norm


def _to_hu(attenuation: np.ndarray, mu_water_per_mm: float) -> np.ndarray:
    return (attenuation / mu_water_per_mm * 1000 - 1000).astype(np.float32)
