"""Rebinning of fan-beam sinograms to parallel beams."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.fbp import median_step, redundancy_weights, view_range
from ldmpir_edge.physics.geometry import RadonGeometry

ANGLE_TOLERANCE = 1e-9
MIN_WEIGHT = 1e-3
"""Rays with less weight than this come from the rim of the scan and are taken as unseen."""


def rebin_to_parallel(
    geometry: RadonGeometry, sinogram: NDArray[np.float32]
) -> tuple[RadonGeometry, NDArray[np.float32]]:
    """Resample a fan-beam sinogram onto parallel rays.

    The parallel ray (φ, s) is the fan ray with γ = arcsin(s / source distance) at the view
    φ + γ, and also the opposite one, (φ + π, −s). Each is read by linear interpolation between
    views and between detectors, and where the scan holds both they are averaged with the
    weights of a short scan. Parallel views keep the fan's median angular step and its ray
    spacing at the rotation centre; rays that the scan never saw are 0.

    Parameters
    ----------
    geometry
        Fan-beam scan; its views need not be in order.
    sinogram
        `(views, detectors)` line integrals.

    Returns
    -------
        The parallel geometry over π and its `(views, detectors)` sinogram, float32.

    Source: Kak & Slaney, Principles of Computerized Tomographic Imaging, section 3.4.3.
    """
    source = geometry.source_distance_mm
    pitch = geometry.iso_spacing_mm
    reach = source * np.sin(np.abs(geometry.fan_angles_rad).max())
    n_side = int(reach / pitch)
    gamma: NDArray[np.float64] = np.arcsin(np.arange(-n_side, n_side + 1) * (pitch / source))
    beta, start, order = _ordered_views(geometry)
    n_views = max(1, round(np.pi / median_step(geometry.angles_rad, 2 * np.pi)))
    phi = np.arange(n_views, dtype=np.float64) * (np.pi / n_views)
    weights = redundancy_weights(geometry)
    weighted = _at_fan_angles(geometry, (sinogram * weights)[order], gamma)
    weights = _at_fan_angles(geometry, weights[order], gamma)
    values = np.zeros((n_views, gamma.size))
    total = np.zeros_like(values)
    for k, angle in enumerate(gamma):
        for turn, column in ((0.0, k), (np.pi, gamma.size - 1 - k)):
            # The opposite ray has −γ: its column is mirrored.
            view = np.mod(phi + turn + (angle if turn == 0.0 else -angle) - start, 2 * np.pi)
            values[:, k] += np.interp(view, beta, weighted[:, column], left=0.0, right=0.0)
            total[:, k] += np.interp(view, beta, weights[:, column], left=0.0, right=0.0)
    seen = total > MIN_WEIGHT
    values[seen] /= total[seen]
    values[~seen] = 0.0
    parallel = RadonGeometry("parallel", phi, gamma.size, detector_spacing_mm=pitch)
    return parallel, values.astype(np.float32)


def _ordered_views(
    geometry: RadonGeometry,
) -> tuple[NDArray[np.float64], float, NDArray[np.intp]]:
    """Return the views' angles after the first, ascending, that first angle, and their order.

    A full turn ends with its first view again, at 2π.
    """
    angles = np.mod(geometry.angles_rad, 2 * np.pi)
    start, _, closed = view_range(geometry.angles_rad, 2 * np.pi)
    # Rounding must not throw the first view to the end of the turn.
    beta = np.mod(angles - start + ANGLE_TOLERANCE, 2 * np.pi) - ANGLE_TOLERANCE
    order = np.argsort(beta, kind="stable")
    beta = beta[order]
    if closed:
        beta, order = np.append(beta, beta[0] + 2 * np.pi), np.append(order, order[0])
    return beta, start, order


def _at_fan_angles(
    geometry: RadonGeometry, views: NDArray[np.floating], gamma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate `(views, detectors)` at fan angles, zero beyond the detector."""
    position = gamma
    if geometry.kind == "fan-equidistant":
        position = np.tan(gamma) * geometry.source_detector_mm
    index = position / geometry.spacing + (geometry.n_detectors - 1) / 2 - geometry.detector_offset
    padded = np.pad(views.astype(np.float64), ((0, 0), (1, 1)))
    index = np.clip(index + 1, 0, geometry.n_detectors + 1 - 1e-9)
    left = index.astype(np.intp)
    result: NDArray[np.float64] = padded[:, left] + (index - left) * np.diff(padded)[:, left]
    return result
