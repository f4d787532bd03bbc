"""An analytic head: ellipses whose image and line integrals are both known in closed form.

The slice is axial, at the level of the lateral ventricles: scalp, skull with marrow, a folded
cortex, white matter with faint texture, deep grey nuclei, ventricles, vessels and one lesion.
Shapes follow the anatomy loosely; contrasts are those of T1-weighted MRI and of CT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

# Tissue: (T1-weighted signal, attenuation in HU). Typical values; nothing is calibrated on them.
_TISSUES = {
    "air": (0.0, -1000.0),
    "scalp": (0.85, 10.0),
    "bone": (0.06, 1100.0),
    "marrow": (0.55, 500.0),
    "fluid": (0.16, 6.0),
    "grey": (0.5, 38.0),
    "white": (0.72, 29.0),
    "nucleus": (0.56, 40.0),
    "vessel": (0.98, 65.0),
    "lesion": (0.34, 18.0),
    "calcification": (0.2, 160.0),
}


@dataclass(frozen=True)
class Ellipse:
    """One ellipse that adds to what lies below it.

    Parameters
    ----------
    x, y
        Centre; the view is 2 wide, x to the right, y up.
    a, b
        Semi-axes.
    angle_rad
        From x to the axis `a`, counter-clockwise.
    mr, hu
        What it adds in MR signal and in Hounsfield units.
    """

    x: float
    y: float
    a: float
    b: float
    angle_rad: float
    mr: float
    hu: float


class _Add(Protocol):
    """Puts an ellipse of one tissue into another, at full contrast or a share of it."""

    def __call__(
        self,
        x: float,
        y: float,
        a: float,
        b: float,
        angle: float,
        inside: str,
        below: str,
        share: float = 1.0,
    ) -> None: ...


def head_phantom(rng: np.random.Generator, height: float = 0.0) -> list[Ellipse]:
    """Draw one axial slice of a head.

    Parameters
    ----------
    rng
        Source of the individual: folds, texture, vessels, lesion. The same state gives the same
        head at every `height`.
    height
        Level of the slice, −1 (base) … 1 (vertex).
    """
    size = float(np.sqrt(1.0 - 0.45 * height**2))
    head: list[Ellipse] = []

    def add(
        x: float,
        y: float,
        a: float,
        b: float,
        angle: float,
        inside: str,
        below: str,
        share: float = 1.0,
    ) -> None:
        mr, hu = (
            share * (top - bottom)
            for top, bottom in zip(_TISSUES[inside], _TISSUES[below], strict=True)
        )
        head.append(Ellipse(size * x, size * y, size * a, size * b, angle, mr, hu))

    add(0, 0, 0.70, 0.88, 0, "scalp", "air")
    add(0, 0, 0.665, 0.845, 0, "bone", "scalp")
    add(0, 0, 0.645, 0.825, 0, "marrow", "bone")
    add(0, 0, 0.632, 0.812, 0, "bone", "marrow")
    add(0, 0, 0.612, 0.792, 0, "fluid", "bone")
    add(0, 0, 0.588, 0.768, 0, "grey", "fluid")
    add(0, 0, 0.548, 0.728, 0, "white", "grey")
    _cortex(add, rng)
    _texture(add, rng)
    _deep_structures(add, rng, height)
    _vessels_and_lesion(add, rng)
    return head


def _cortex(add: _Add, rng: np.random.Generator) -> None:
    """Fold the cortex: sulci run inwards, each a sheet of fluid in a ribbon of grey matter."""
    n_folds = 42
    for index in range(n_folds):
        turn = 2 * np.pi * (index + 0.5 + rng.uniform(-0.18, 0.18)) / n_folds
        depth = rng.uniform(0.05, 0.115)
        tilt = rng.normal(0.0, 0.18)
        # Folds keep clear of the fissure between the hemispheres.
        if abs(np.cos(turn)) < 0.14:
            continue
        x, y = (0.535 - 0.8 * depth) * np.cos(turn), (0.715 - 0.8 * depth) * np.sin(turn)
        angle = np.arctan2(y / 0.715, x / 0.535) + tilt
        add(x, y, depth, rng.uniform(0.017, 0.024), angle, "grey", "white")
        add(x, y, 0.9 * depth, rng.uniform(0.0045, 0.008), angle, "fluid", "grey")
    for sign in (-1, 1):
        add(0, sign * 0.5, 0.019, 0.235, rng.normal(0.0, 0.01), "grey", "white")
        add(0, sign * 0.5, 0.007, 0.23, rng.normal(0.0, 0.01), "fluid", "grey")


def _texture(add: _Add, rng: np.random.Generator) -> None:
    """Mottle the white matter by a few per cent of the grey-white contrast."""
    for _ in range(90):
        radius, turn = np.sqrt(rng.uniform(0.02, 1.0)), rng.uniform(0, 2 * np.pi)
        x, y = 0.43 * radius * np.cos(turn), 0.6 * radius * np.sin(turn)
        a, b = rng.uniform(0.01, 0.06), rng.uniform(0.006, 0.03)
        share = rng.normal(0.0, 0.12)
        add(x, y, a, b, rng.uniform(0, np.pi), "grey", "white", share)


def _deep_structures(add: _Add, rng: np.random.Generator, height: float) -> None:
    ventricle = (1.0 - 0.35 * abs(height)) * rng.uniform(0.85, 1.15)
    for sign in (-1, 1):
        jitter = rng.normal(0.0, 0.008, 2)
        add(sign * 0.075, 0.17 + jitter[0], 0.045, 0.15 * ventricle, sign * -0.22, "fluid", "white")
        add(sign * 0.125, -0.2 + jitter[1], 0.04, 0.13 * ventricle, sign * 0.38, "fluid", "white")
        add(sign * 0.16, 0.19, 0.03, 0.085, sign * -0.3, "nucleus", "white")
        add(sign * 0.245, 0.06, 0.042, 0.125, sign * -0.2, "nucleus", "white")
        add(sign * 0.1, -0.02, 0.065, 0.09, sign * 0.25, "nucleus", "white", 0.8)
        add(sign * 0.34, 0.03, 0.012, 0.13, sign * -0.06, "grey", "white")
        add(sign * 0.13, -0.24, 0.012, 0.03, 0.4 * sign, "calcification", "fluid", 0.8)
    add(0, 0.02, 0.014, 0.07, 0, "fluid", "white")
    add(0, -0.12, 0.012, 0.014, 0, "calcification", "white", 0.7)


def _vessels_and_lesion(add: _Add, rng: np.random.Generator) -> None:
    add(0, -0.755, 0.022, 0.018, 0, "vessel", "fluid")
    add(0, 0.762, 0.012, 0.011, 0, "vessel", "fluid")
    for _ in range(22):
        turn = rng.uniform(0, 2 * np.pi)
        radius = rng.uniform(0.35, 0.93)
        x, y = 0.55 * radius * np.cos(turn), 0.73 * radius * np.sin(turn)
        size = rng.uniform(0.004, 0.009)
        add(x, y, size, size * rng.uniform(0.7, 1.0), turn, "vessel", "white")
    x, y = rng.choice([-1, 1]) * rng.uniform(0.24, 0.34), rng.uniform(-0.42, -0.28)
    a = rng.uniform(0.035, 0.05)
    add(x, y, a, 0.75 * a, rng.uniform(0, np.pi), "lesion", "white")
    add(x, y, 0.4 * a, 0.3 * a, 0, "vessel", "lesion", 0.6)


def rasterise(
    ellipses: list[Ellipse],
    shape: tuple[int, int],
    contrast: Literal["mr", "hu"],
    oversampling: int = 4,
) -> NDArray[np.float32]:
    """Sample the phantom on pixels, each the mean of `oversampling`² points.

    Parameters
    ----------
    ellipses
        The phantom; its view of 2 units is as wide as the image's shorter side.
    shape
        `(H, W)`.
    contrast
        `mr` or `hu`; HU start from air at −1000.
    oversampling
        Points along each side of a pixel.

    Returns
    -------
        `(H, W)` float32.
    """
    n = oversampling
    pitch = 2.0 / (min(shape) * n)
    x, y = (pitch * (np.arange(size * n) - (size * n - 1) / 2) for size in (shape[1], shape[0]))
    y = -y
    image = np.zeros((shape[0] * n, shape[1] * n), np.float32)
    for ellipse in ellipses:
        reach = max(ellipse.a, ellipse.b)
        rows = np.flatnonzero(np.abs(y - ellipse.y) <= reach)
        columns = np.flatnonzero(np.abs(x - ellipse.x) <= reach)
        if rows.size == 0 or columns.size == 0:
            continue
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        dx, dy = x[columns][None, :] - ellipse.x, y[rows][:, None] - ellipse.y
        cos, sin = np.cos(ellipse.angle_rad), np.sin(ellipse.angle_rad)
        inside = ((dx * cos + dy * sin) / ellipse.a) ** 2 + (
            (dy * cos - dx * sin) / ellipse.b
        ) ** 2 <= 1.0
        image[box] += np.float32(getattr(ellipse, contrast)) * inside
    mean: NDArray[np.float32] = image.reshape(shape[0], n, shape[1], n).mean(axis=(1, 3))
    if contrast == "hu":
        return mean - np.float32(1000.0)
    # Where two dark structures overlap, the sum would fall below no signal at all.
    return np.maximum(mean, np.float32(0.0))


def line_integrals(
    ellipses: list[Ellipse],
    phi_rad: NDArray[np.float64],
    s_mm: NDArray[np.float64],
    unit_mm: float,
    mu_water_per_mm: float,
) -> NDArray[np.float64]:
    """Integrate the attenuation along the lines x cos φ + y sin φ = s.

    Parameters
    ----------
    ellipses
        The phantom.
    phi_rad, s_mm
        Lines, broadcast against each other.
    unit_mm
        Length of the phantom's unit.
    mu_water_per_mm
        Attenuation of 0 HU; air counts as nothing.

    Returns
    -------
        Line integrals, without unit.

    Source: Kak & Slaney, Principles of Computerized Tomographic Imaging, 1988, §3.1.
    """
    shape = np.broadcast_shapes(phi_rad.shape, s_mm.shape)
    distance = np.broadcast_to(s_mm / unit_mm, shape).reshape(-1)
    cos, sin = (np.broadcast_to(f(phi_rad), shape).reshape(-1) for f in (np.cos, np.sin))
    total = np.zeros(distance.size)
    for ellipse in ellipses:
        offset = distance - ellipse.x * cos - ellipse.y * sin
        # Most ellipses are small: the closed form is worked out on the lines that can hit.
        hit = np.flatnonzero(np.abs(offset) < max(ellipse.a, ellipse.b))
        turned = np.cos(ellipse.angle_rad), np.sin(ellipse.angle_rad)
        along = cos[hit] * turned[0] + sin[hit] * turned[1]
        width = (ellipse.a * along) ** 2 + ellipse.b**2 * (1.0 - along**2)
        chord = np.sqrt(np.maximum(width - offset[hit] ** 2, 0.0)) / width
        total[hit] += ellipse.hu / 1000.0 * 2 * ellipse.a * ellipse.b * chord
    return total.reshape(shape) * (unit_mm * mu_water_per_mm)
