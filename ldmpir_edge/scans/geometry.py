"""Where a written volume lies: the scan's own geometry, or a stated default in its place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import OutputError
from ldmpir_edge.scans.model import ScanInfo, SlicePlane

DEFAULT_SPACING_MM = 1.0
EVEN_SPACING_TOLERANCE = 0.01
"""Slice steps that differ by less than this share of their mean count as even."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class VolumeGeometry:
    """Position and size of every voxel, complete.

    Parameters
    ----------
    planes
        One for each slice, in LPS.
    pixel_spacing_mm
        (Row spacing, column spacing).
    slice_spacing_mm
        Distance of neighbouring slices where the scan or this default gives one number.
    slice_thickness_mm
        Thickness, or None when unknown.
    assumptions
        What had to be assumed, in words for the reader; empty for a fully described scan.
    """

    planes: tuple[SlicePlane, ...]
    pixel_spacing_mm: tuple[float, float]
    slice_spacing_mm: float
    slice_thickness_mm: float | None
    assumptions: tuple[str, ...]

    def affine_ras(self) -> NDArray[np.float64]:
        """Build the `(4, 4)` matrix from (column, row, slice) indices to RAS millimetres.

        Raises
        ------
        OutputError
            The slices are not parallel and evenly spaced: no matrix describes them.
        """
        first = self.planes[0]
        row = np.asarray(first.row_direction)
        column = np.asarray(first.column_direction)
        affine = np.eye(4)
        affine[:3, 0] = row * self.pixel_spacing_mm[1]
        affine[:3, 1] = column * self.pixel_spacing_mm[0]
        affine[:3, 2] = self._slice_step(np.cross(row, column))
        affine[:3, 3] = first.position_mm
        return np.asarray(_LPS_TO_RAS @ affine)

    def _slice_step(self, normal: NDArray[np.float64]) -> NDArray[np.float64]:
        if len(self.planes) == 1:
            return normal * self.slice_spacing_mm
        steps = np.diff([plane.position_mm for plane in self.planes], axis=0)
        mean = np.asarray(steps.mean(axis=0))
        length = float(np.linalg.norm(mean))
        directions = np.array([(*p.row_direction, *p.column_direction) for p in self.planes])
        uneven = np.linalg.norm(steps - mean, axis=1).max() > EVEN_SPACING_TOLERANCE * length
        if length == 0.0 or uneven or np.ptp(directions, axis=0).max() > EVEN_SPACING_TOLERANCE:
            raise OutputError(
                "the slices are not parallel and evenly spaced, so that no single NIfTI matrix "
                "describes them; write --format dicom or h5"
            )
        return mean


def resolve_geometry(info: ScanInfo, shape: tuple[int, int, int]) -> VolumeGeometry:
    """Complete the geometry of `info` for a volume of `shape` (slices, H, W).

    What the scan leaves open becomes axial slices around the isocentre, 1 mm pixels and 1 mm
    slice spacing (its thickness where known), and is listed under `assumptions`.
    """
    assumptions = []
    spacing = info.pixel_spacing_mm
    if spacing is None:
        spacing = (DEFAULT_SPACING_MM, DEFAULT_SPACING_MM)
        assumptions.append("pixel spacing unknown, 1 mm assumed")
    slice_spacing = info.slice_spacing_mm or info.slice_thickness_mm or DEFAULT_SPACING_MM
    planes = info.planes
    if not planes:
        planes = _axial(shape, spacing, slice_spacing)
        assumptions.append("position unknown, axial slices around the isocentre assumed")
    return VolumeGeometry(
        planes, spacing, slice_spacing, info.slice_thickness_mm, tuple(assumptions)
    )


def _axial(
    shape: tuple[int, int, int], spacing: tuple[float, float], slice_spacing: float
) -> tuple[SlicePlane, ...]:
    n_slices, rows, columns = shape
    x = -(columns - 1) / 2 * spacing[1]
    y = -(rows - 1) / 2 * spacing[0]
    return tuple(
        SlicePlane(
            (x, y, (i - (n_slices - 1) / 2) * slice_spacing), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
        )
        for i in range(n_slices)
    )
