"""Scan geometry of a single-slice CT acquisition, in ASTRA's conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.physics.linear_op import Array

GeometryKind = Literal["parallel", "fan-equiangular", "fan-equidistant"]
KINDS: tuple[GeometryKind, ...] = get_args(GeometryKind)


@dataclass(frozen=True, eq=False)
class RadonGeometry:
    """Where the rays of a parallel-beam or fan-beam scan run.

    x points right and y **up**: row 0 of an image lies at the top. At the view angle θ the
    detector axis is û = (cos θ, sin θ) and the central ray runs along ĉ = (−sin θ, cos θ).

    - parallel: detector d sees the line x cos θ + y sin θ = u_d.
    - fan-equidistant (ASTRA ``fanflat``): the source is at −`source_origin_mm` · ĉ, the flat
      detector at +`origin_detector_mm` · ĉ, detector d at u_d along û.
    - fan-equiangular: the same source; detector d is seen under the angle γ_d from the central
      ray, positive towards +û.

    In all three, u_d or γ_d is (d − (n_detectors − 1)/2 + `detector_offset`) times the spacing:
    a positive offset moves the detector along +û, as ``astra.geom_postalignment`` does.

    Parameters
    ----------
    kind
        One of `KINDS`.
    angles_rad
        `(views,)`, any order, any range.
    n_detectors
        Number of detectors in a view.
    detector_spacing_mm
        Pitch on the detector; parallel and fan-equidistant.
    detector_spacing_rad
        Angular pitch seen from the source; fan-equiangular.
    detector_offset
        In detectors.
    source_origin_mm
        Source to rotation centre; fan only.
    origin_detector_mm
        Rotation centre to detector; fan-equidistant needs it, fan-equiangular accepts it.

    Raises
    ------
    ScanDataError
        A value is missing, not finite, not positive or belongs to another kind.
    """

    kind: GeometryKind
    angles_rad: NDArray[np.float64]
    n_detectors: int
    detector_spacing_mm: float | None = None
    detector_spacing_rad: float | None = None
    detector_offset: float = 0.0
    source_origin_mm: float | None = None
    origin_detector_mm: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ScanDataError(f"geometry is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        angles = np.array(self.angles_rad, np.float64)
        if angles.ndim != 1 or angles.size == 0 or not np.isfinite(angles).all():
            raise ScanDataError(
                f"angles_rad has shape {angles.shape} or values that are not finite; "
                "give one finite angle in radians for each view"
            )
        angles.setflags(write=False)
        object.__setattr__(self, "angles_rad", angles)
        if self.n_detectors < 1:
            raise ScanDataError(f"n_detectors is {self.n_detectors}; a view needs at least one")
        if not np.isfinite(self.detector_offset):
            raise ScanDataError(f"detector_offset is {self.detector_offset}; it must be finite")
        self._check_lengths()
        if self.kind == "fan-equiangular" and np.abs(self.detector_positions).max() >= np.pi / 2:
            raise ScanDataError(
                f"the fan opens to {np.abs(self.detector_positions).max():.2f} rad from the "
                "central ray; detector_spacing_rad must keep it below pi/2"
            )

    def _check_lengths(self) -> None:
        fan = self.is_fan
        wanted = {
            "detector_spacing_mm": self.kind != "fan-equiangular",
            "detector_spacing_rad": self.kind == "fan-equiangular",
            "source_origin_mm": fan,
            "origin_detector_mm": self.kind == "fan-equidistant",
        }
        for name, needed in wanted.items():
            value = getattr(self, name)
            if value is None and needed:
                raise ScanDataError(f"{self.kind} geometry lacks {name}; state it")
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ScanDataError(f"{name} is {value}; it must be positive and finite")
            if value is not None and not needed and not (fan and name == "origin_detector_mm"):
                raise ScanDataError(f"{self.kind} geometry has no {name} (got {value}); remove it")

    @property
    def is_fan(self) -> bool:
        """Whether the rays diverge from a source."""
        return self.kind != "parallel"

    @property
    def n_views(self) -> int:
        """Number of view angles."""
        return int(self.angles_rad.size)

    @property
    def spacing(self) -> float:
        """Detector pitch in its own unit: radians when equiangular, else mm."""
        value = (
            self.detector_spacing_rad
            if self.kind == "fan-equiangular"
            else self.detector_spacing_mm
        )
        return float(value or 0.0)

    @property
    def source_distance_mm(self) -> float:
        """Source to rotation centre, infinite for parallel beams."""
        return float("inf") if self.source_origin_mm is None else self.source_origin_mm

    @property
    def source_detector_mm(self) -> float:
        """Source to flat detector (fan-equidistant)."""
        return self.source_distance_mm + float(self.origin_detector_mm or 0.0)

    @property
    def detector_positions(self) -> NDArray[np.float64]:
        """`(n_detectors,)`: u_d in mm, or γ_d in radians when equiangular."""
        index = np.arange(self.n_detectors, dtype=np.float64) - (self.n_detectors - 1) / 2
        positions: NDArray[np.float64] = (index + self.detector_offset) * self.spacing
        return positions

    @property
    def fan_angles_rad(self) -> NDArray[np.float64]:
        """`(n_detectors,)`: angle γ_d between the ray to each detector and the central ray."""
        if self.kind == "parallel":
            return np.zeros(self.n_detectors)
        if self.kind == "fan-equiangular":
            return self.detector_positions
        return np.arctan(self.detector_positions / self.source_detector_mm)

    @property
    def iso_spacing_mm(self) -> float:
        """Distance of neighbouring rays at the rotation centre."""
        if self.kind == "parallel":
            return self.spacing
        if self.kind == "fan-equiangular":
            return self.spacing * self.source_distance_mm
        return self.spacing * self.source_distance_mm / self.source_detector_mm

    @property
    def reach_mm(self) -> tuple[float, float]:
        """How far from the rotation centre the outermost rays of either side pass."""
        _, s = self.lines()
        return -float(s[0, 0]), float(s[0, -1])

    def lines(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Describe every ray as the line x cos φ + y sin φ = s.

        Returns
        -------
            φ in radians, `(views, 1)` for parallel beams, else `(views, n_detectors)`, and s in
            mm, `(1, n_detectors)`.
        """
        theta = self.angles_rad[:, None]
        if self.kind == "parallel":
            return theta, self.detector_positions[None, :]
        gamma = self.fan_angles_rad[None, :]
        return theta - gamma, self.source_distance_mm * np.sin(gamma)

    def detector_index(self, view: int, x: Array, y: Array) -> tuple[Array, Array | None]:
        """Find where the rays through points meet the detector.

        Parameters
        ----------
        view
            Index of the view.
        x, y
            Coordinates in mm, broadcast against each other; numpy or torch.

        Returns
        -------
            The fractional detector index of each point, and the fan's magnification relative to
            the rotation centre (source distance over depth; over distance when equiangular), or
            None for parallel beams.
        """
        theta = float(self.angles_rad[view])
        cos, sin = float(np.cos(theta)), float(np.sin(theta))
        position, magnification = x * cos + y * sin, None
        if self.kind != "parallel":
            depth = y * cos - x * sin + self.source_distance_mm
            if self.kind == "fan-equidistant":
                magnification = self.source_distance_mm / depth
                scale = self.source_detector_mm / self.source_distance_mm
                position = position * magnification * scale
            else:
                magnification = self.source_distance_mm / (position**2 + depth**2) ** 0.5
                position = array_namespace(x).atan2(position, depth)
        middle = (self.n_detectors - 1) / 2 - self.detector_offset
        return position / self.spacing + middle, magnification

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RadonGeometry) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (
            self.kind,
            self.angles_rad.tobytes(),
            self.n_detectors,
            self.detector_spacing_mm,
            self.detector_spacing_rad,
            self.detector_offset,
            self.source_origin_mm,
            self.origin_detector_mm,
        )


def pixel_centres(
    image_shape: tuple[int, int], pixel_spacing_mm: float, center_mm: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x of the columns, `(1, W)`, and y of the rows, `(H, 1)`, in mm (y points up)."""
    height, width = image_shape
    x = (np.arange(width, dtype=np.float64) - (width - 1) / 2) * pixel_spacing_mm + center_mm[0]
    y = ((height - 1) / 2 - np.arange(height, dtype=np.float64)) * pixel_spacing_mm + center_mm[1]
    return x[None, :], y[:, None]
