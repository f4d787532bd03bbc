"""An ellipse phantom whose line integrals are known in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ldmpir_edge.physics.geometry import RadonGeometry


class Ellipse(NamedTuple):
    """Centre and half axes in mm, rotation in radians, attenuation added inside in 1/mm."""

    x: float
    y: float
    a: float
    b: float
    angle: float
    mu: float

    def contains(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = (x - self.x) * np.cos(self.angle) + (y - self.y) * np.sin(self.angle)
        across = (y - self.y) * np.cos(self.angle) - (x - self.x) * np.sin(self.angle)
        return (along / self.a) ** 2 + (across / self.b) ** 2 <= 1

    def chord(self, phi: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Kak & Slaney, eq. 3.6: length of the line x cos φ + y sin φ = s inside."""
        s = s - self.x * np.cos(phi) - self.y * np.sin(phi)
        width2 = (self.a * np.cos(phi - self.angle)) ** 2 + (self.b * np.sin(phi - self.angle)) ** 2
        return 2 * self.a * self.b / width2 * np.sqrt(np.maximum(width2 - s**2, 0))


PHANTOM = (
    Ellipse(1.5, -2.5, 45, 35, 0.3, 0.02),
    Ellipse(15, 5, 12.5, 7.5, 1.0, 0.01),
    Ellipse(-20, -4, 7, 11, -0.5, -0.006),
)
"""Without a symmetry: a flipped axis or a wrong sign of an angle shows."""


def analytic_sinogram(geometry: RadonGeometry) -> np.ndarray:
    """`(views, detectors)` from the scan's definition: source, detector positions, chords."""
    theta = geometry.angles_rad[:, None]
    d = np.arange(geometry.n_detectors)[None, :]
    u = (d - (geometry.n_detectors - 1) / 2 + geometry.detector_offset) * geometry.spacing
    if geometry.kind == "parallel":
        phi, s = theta + 0 * u, u + 0 * theta
    else:
        # The line through the source and a point of the detector, by its normal.
        distance = geometry.source_origin_mm
        source = (distance * np.sin(theta), -distance * np.cos(theta))
        if geometry.kind == "fan-equidistant":
            far = geometry.origin_detector_mm
            target = (
                -far * np.sin(theta) + u * np.cos(theta),
                far * np.cos(theta) + u * np.sin(theta),
            )
        else:
            target = (
                source[0] - np.sin(theta) * np.cos(u) + np.cos(theta) * np.sin(u),
                source[1] + np.cos(theta) * np.cos(u) + np.sin(theta) * np.sin(u),
            )
        step = (target[0] - source[0], target[1] - source[1])
        phi = np.arctan2(-step[0], step[1])
        s = source[0] * np.cos(phi) + source[1] * np.sin(phi)
    return sum(e.mu * e.chord(phi, s) for e in PHANTOM)


def pixelated(shape: tuple[int, int], spacing_mm: float, fine: int = 4) -> np.ndarray:
    """`(H, W)` mean attenuation of each pixel, from `fine`² samples."""
    height, width = shape[0] * fine, shape[1] * fine
    x = (np.arange(width) - (width - 1) / 2) * (spacing_mm / fine)
    y = ((height - 1) / 2 - np.arange(height)) * (spacing_mm / fine)
    image = sum(e.mu * e.contains(x[None, :], y[:, None]) for e in PHANTOM)
    return image.reshape(shape[0], fine, shape[1], fine).mean((1, 3))
