"""From a sinogram to the engine's problem, for one slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.fbp import (
    CONSISTENT,
    RAMP,
    back_projections,
    convolve_detectors,
    hann_ramp_kernel,
    redundancy_weights,
    view_range,
    view_weights,
)
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.noise import estimate_photons, line_integral_variance
from ldmpir_edge.physics.padding import padded_size, to_planes
from ldmpir_edge.physics.problem import HU_OFFSET, HU_SCALE, Family, Problem
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.physics.rays import SparseRays, ray_tables
from ldmpir_edge.physics.rebin import rebin_to_parallel
from ldmpir_edge.physics.toeplitz import adjoint_scale, convolution, toeplitz_tables
from ldmpir_edge.physics.total_variation import lagged_diffusivity

LEAST_REACH = 0.25
"""Detectors must reach this share of the circle within the image, or a unit is wrong."""
LEAST_BALANCE = 0.75
"""And to the one side this share of what they reach to the other."""
FULL_REACH = 0.95

N_ITERATIONS = {"toeplitz": 8, "rays": 12}
"""Conjugate-gradient iterations in each pass of the classical estimate."""
N_ITERATIONS_LIMITED = {"toeplitz": 48, "rays": 16}
"""The same where a wedge of angles is missing, which is slow to fill; convolutions are cheap."""
MISSING_WEDGE_RAD = np.pi / 12
LEAST_WEIGHT, NOISE_WEIGHT, LARGEST_SHARE = 6e-4, 25.0, 0.75
"""μ of total variation = LEAST_WEIGHT + NOISE_WEIGHT · noise², or LARGEST_SHARE · noise in place of
the latter where that is less: beside a likelihood, the variance of the noise is what weighs a
prior. The first is for few views and the pixels' size, which leave an error, too. In proportion to
the noise itself, 120 views of 10⁶ photons come out 1.4 dB lower and 60 views 0.7 dB."""

MAX_RAY_TABLE_ENTRIES = 220_000_000
"""A fan scan with more table entries than this (1.3 GB: 120 views at 512 × 512) is rebinned to
parallel beams. Rebinning interpolates between views, which sparse ones do not survive: at 60 views
of a 512 × 512 chest it costs 3 dB."""


def build_ct_problem(
    sinogram: NDArray[np.float32],
    geometry: RadonGeometry,
    image_shape: tuple[int, int],
    pixel_spacing_mm: float,
    *,
    mu_water_per_mm: float,
    photons: float | None = None,
    refine: bool = True,
) -> Problem:
    """State the reconstruction of one CT slice as normal equations.

    Parameters
    ----------
    sinogram
        `(views, detectors)`, line integrals −ln(I/I₀) (no unit).
    geometry
        The scan. Parallel beams give a `toeplitz` problem; fans give a `rays` problem, or a
        `toeplitz` one after rebinning where the ray tables would grow too large.
    image_shape
        `(H, W)` of the wanted image, centred on the rotation axis.
    pixel_spacing_mm
        Edge of the square pixels.
    mu_water_per_mm
        Attenuation of water, which fixes the HU scale.
    photons
        I₀, photons that reach a detector without an object; estimated from the sinogram's high
        frequencies when None.
    refine
        False leaves `x1` the filtered back-projection, for who wants the normal equations alone.

    Returns
    -------
        With r the square root of the quadrature weights, F the Hann-windowed ramp filter and λ
        the largest eigenvalue of Aᵀ r F r A, the measurement model is A' = F^½ r A / √λ. `b` is
        Aᵀ r F r y / λ (for `toeplitz` with the band-limited back-projection in Aᵀ's place);
        `noise_level` the root mean square of the noise in F^½ r y / √λ, so that ‖A'x − y'‖² of
        the true x is near `n_measurements` · `noise_level`²; `unreconstructed` the filtered
        back-projection; `x1` goes from there towards what minimises
        ½ ‖A'x − y'‖² + μ TV(x) with μ from `LEAST_WEIGHT` and the noise, and is nowhere negative.
        The grid is padded to multiples of 16 around the image, whose place in it is `crop`
        (fans: to a square); the images are computed on the whole grid, so the padding holds
        whatever the scan saw there.

    Raises
    ------
    ShapeError
        The sinogram does not have the geometry's views and detectors.
    ScanDataError
        The sinogram is not finite, a physical constant is not positive, or the detectors see
        little of the image, or much more on one side than on the other.
    """
    _check(sinogram, geometry, mu_water_per_mm, photons)
    _check_view(geometry, image_shape, pixel_spacing_mm)
    line_integrals = np.asarray(sinogram, np.float32)
    if photons is None:
        photons = estimate_photons(line_integrals)
    is_limited = _is_limited(geometry)
    if geometry.is_fan and needs_rebinning(geometry, image_shape):
        geometry, line_integrals = rebin_to_parallel(geometry, line_integrals)
    model = _prepare(geometry, image_shape, pixel_spacing_mm)
    y = line_integrals / np.float32(2 * mu_water_per_mm)
    weighted = model.row_scale * y
    filtered = convolve_detectors(weighted, model.taps)
    unreconstructed, *consistent = back_projections(
        y,
        geometry,
        model.op.domain_shape,
        pixel_spacing_mm,
        # Joseph's own adjoint would fold the detectors' noise and aliasing into the image.
        (RAMP, CONSISTENT) if model.adjoint is None else (RAMP,),
        center_mm=model.op.center_mm,
    )
    if model.adjoint is None:
        scale = adjoint_scale(geometry, pixel_spacing_mm) / model.norm
        b = consistent[0] * np.float32(scale)
    else:
        b = model.adjoint(filtered) / np.float32(np.sqrt(model.norm))
    variance = line_integral_variance(line_integrals, photons) * model.row_scale**2
    gain = model.taps[0] / (model.norm * (2 * mu_water_per_mm) ** 2)
    noise_level = float(np.sqrt(gain * variance.mean(dtype=np.float64)))
    x1 = unreconstructed
    if refine:
        x1 = lagged_diffusivity(
            model.gram,
            b,
            unreconstructed,
            LEAST_WEIGHT + min(NOISE_WEIGHT * noise_level**2, LARGEST_SHARE * noise_level),
            n_iterations=(N_ITERATIONS_LIMITED if is_limited else N_ITERATIONS)[model.family],
            lowest=0.0,
        )
    energy = np.vdot(weighted.astype(np.float64), filtered.astype(np.float64)) / model.norm
    return Problem(
        family=model.family,
        task="ct",
        modality="ct",
        b=to_planes(b),
        x1=to_planes(x1),
        noise_level=noise_level,
        tables=dict(model.tables),
        scale=HU_SCALE,
        offset=HU_OFFSET,
        crop=model.crop,
        measurement_energy=float(energy),
        n_measurements=line_integrals.size,
        unreconstructed=to_planes(unreconstructed),
    )


def _check(
    sinogram: NDArray[np.float32],
    geometry: RadonGeometry,
    mu_water_per_mm: float,
    photons: float | None,
) -> None:
    expected = (geometry.n_views, geometry.n_detectors)
    if sinogram.shape != expected:
        raise ShapeError(
            f"sinogram has shape {sinogram.shape}; its geometry has (views, detectors) {expected}"
        )
    bad = int(np.count_nonzero(~np.isfinite(sinogram)))
    if bad:
        raise ScanDataError(
            f"the sinogram holds {bad} values that are not finite (rays without a photon?); "
            "replace them before reconstruction"
        )
    for name, value in (("mu_water_per_mm", mu_water_per_mm), ("photons", photons)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ScanDataError(f"{name} is {value}; it must be positive and finite")


def _check_view(
    geometry: RadonGeometry, image_shape: tuple[int, int], pixel_spacing_mm: float
) -> None:
    inner, outer = sorted(geometry.reach_mm)
    radius = min(image_shape) * pixel_spacing_mm / 2
    if outer < LEAST_REACH * radius:
        raise ScanDataError(
            f"the detectors reach {outer:.3g} mm from the rotation centre and the image "
            f"{radius:.3g} mm; check their spacing and offset and the pixel spacing, all in mm"
        )
    if inner < LEAST_BALANCE * outer:
        raise ScanDataError(
            f"the detectors reach {inner:.3g} mm to one side of the rotation centre and "
            f"{outer:.3g} mm to the other; displaced detectors (a half fan) are not reconstructed"
        )


def view_note(
    geometry: RadonGeometry, image_shape: tuple[int, int], pixel_spacing_mm: float
) -> str | None:
    """Say where the detectors see less than the circle within an image `(H, W)`; None if not."""
    radius, seen = min(image_shape) * pixel_spacing_mm / 2, min(geometry.reach_mm)
    if seen >= FULL_REACH * radius:
        return None
    return (
        f"the detectors see a circle of {seen:.0f} mm radius of an image of {radius:.0f} mm: if "
        "the object goes beyond it, the values are wrong"
    )


@dataclass(frozen=True)
class _Model:
    """What depends on the scan's geometry alone; `norm` is λ, the scale of AᵀF A, in mm.

    `gram` is the normal operator on `(H, W)` float32 images; `adjoint`, of fans, is Aᵀ r / √λ on
    `(views, detectors)`.
    """

    family: Family
    op: RadonOp
    crop: tuple[int, int, int, int]
    row_scale: NDArray[np.float32]
    taps: NDArray[np.float64]
    norm: float
    tables: dict[str, NDArray[np.generic]]
    gram: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    adjoint: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None


@lru_cache(maxsize=2)
def _prepare(
    geometry: RadonGeometry, image_shape: tuple[int, int], pixel_spacing_mm: float
) -> _Model:
    """Build operator and tables once for all slices of a scan."""
    (height, width), (rows, columns) = image_shape, map(padded_size, image_shape)
    if geometry.is_fan:
        # The ray tables index a square image and its transposed copy alike.
        rows = columns = max(rows, columns)
    crop = ((rows - height) // 2, (columns - width) // 2, height, width)
    center_mm = grid_center_mm(crop, (rows, columns), pixel_spacing_mm)
    op = RadonOp(geometry, (rows, columns), pixel_spacing_mm, center_mm=center_mm)
    taps = hann_ramp_kernel(geometry.n_detectors, geometry.iso_spacing_mm)
    if not geometry.is_fan:
        row_scale = np.sqrt(view_weights(geometry.angles_rad, np.pi))[:, None].astype(np.float32)
        toeplitz = toeplitz_tables(geometry, (rows, columns), pixel_spacing_mm)
        tables: dict[str, NDArray[np.generic]] = {
            "kernel": toeplitz.kernel,
            "dft_h": toeplitz.dft_h,
            "dft_w": toeplitz.dft_w,
        }
        norm = toeplitz.norm * adjoint_scale(geometry, pixel_spacing_mm)
        gram = convolution(toeplitz.kernel)
        return _Model("toeplitz", op, crop, row_scale, taps, norm, tables, gram)
    weights = view_weights(geometry.angles_rad, 2 * np.pi)[:, None] * redundancy_weights(geometry)
    row_scale = np.sqrt(weights * np.cos(geometry.fan_angles_rad)).astype(np.float32)
    tables, norm = ray_tables(op, row_scale, taps)
    # The norm is shared between both weights; the adjoint's table serves for both products here.
    products = SparseRays(
        *(tables["adjoint_index"], tables["adjoint_weight"], tables["filter"]),
        geometry.n_views,
        op.domain_shape,
    )
    adjoint = products.adjoint
    return _Model("rays", op, crop, row_scale, taps, norm, tables, products.gram, adjoint)


def _is_limited(geometry: RadonGeometry) -> bool:
    # A fan has seen every line from half a turn and its opening on; less than half a turn is a
    # wedge missing whatever its opening.
    period = 2 * np.pi if geometry.is_fan else np.pi
    _, covered, closes = view_range(geometry.angles_rad, period)
    return not closes and covered < np.pi - MISSING_WEDGE_RAD


def grid_center_mm(
    crop: tuple[int, int, int, int], grid_shape: tuple[int, int], pixel_spacing_mm: float
) -> tuple[float, float]:
    """Return `(x, y)` of the padded grid's centre from that of the image `crop` inside it.

    An odd difference of sizes moves it half a pixel off.
    """
    (top, left, height, width), (rows, columns) = crop, grid_shape
    return (
        ((columns - width) / 2 - left) * pixel_spacing_mm,
        (top - (rows - height) / 2) * pixel_spacing_mm,
    )


def needs_rebinning(geometry: RadonGeometry, image_shape: tuple[int, int]) -> bool:
    """Say whether a fan scan has too many views for ray tables, for an image `(H, W)`."""
    # Forward tables have one entry a ray and row, adjoint tables about two.
    n_rays = geometry.n_views * geometry.n_detectors
    return 3 * n_rays * max(map(padded_size, image_shape)) > MAX_RAY_TABLE_ENTRIES
