"""Sizes and patient geometry of the images that an ISMRMRD file gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.scans.ismrmrd_lines import Lines
from ldmpir_edge.scans.ismrmrd_volume import PartitionedVolume
from ldmpir_edge.scans.model import ScanInfo, SlicePlane, Vector
from ldmpir_edge.scans.mrd_header import MrdHeader


def describe(
    lines: Lines,
    frames: tuple[NDArray[np.intp], ...],
    header: MrdHeader,
    encoded: tuple[int, int, int],
    volume: PartitionedVolume | None,
    notes: tuple[str, ...],
) -> tuple[ScanInfo, tuple[int, int]]:
    """Work out what is delivered: a description, and the (readout, phase encode) image size.

    Images keep the resolution that was encoded; a scanner's interpolation to a larger matrix is
    not repeated, and a note says so. A delivered image has phase encoding down its rows.

    Raises
    ------
    ScanDataError
        The header asks for an image without pixels.
    """
    sizes = [_image_size(header, encoded, axis) for axis in range(3)]
    if min(sizes) < 1:
        raise ScanDataError(
            f"{lines.path}: the header's reconSpace gives an image of {sizes[:2]}; it must have "
            "at least one pixel"
        )
    matrix = (sizes[0], sizes[1])
    recon = header.recon_matrix
    if recon is not None and (recon[0] > matrix[0] or recon[1] > matrix[1]):
        notes = (
            *notes,
            f"the scanner interpolates to {recon[0]}x{recon[1]}; delivered at the encoded "
            f"resolution, {matrix[0]}x{matrix[1]}",
        )
    first = [int(lines.heads["idx"]["contrast"][frame[0]]) for frame in frames]
    contrasts = tuple(np.repeat(first, volume.n_partitions if volume else 1).tolist())
    if header.encoded_fov_mm is None:
        info = header.describe(
            pixel_spacing_mm=None, slice_thickness_mm=None, contrasts=contrasts, notes=notes
        )
        return info, matrix
    readout_mm, phase_mm = (header.encoded_fov_mm[a] / encoded[a] for a in range(2))
    thickness = header.encoded_fov_mm[2] / encoded[2]
    planes = _planes(lines, frames, matrix, (readout_mm, phase_mm), thickness, volume)
    info = header.describe(
        pixel_spacing_mm=(phase_mm, readout_mm),
        slice_thickness_mm=thickness,
        slice_spacing_mm=thickness if volume else slice_spacing(planes),
        planes=planes,
        contrasts=contrasts,
        notes=notes,
    )
    return info, matrix


def slice_spacing(planes: tuple[SlicePlane, ...]) -> float | None:
    """Give the median distance of neighbouring slices along their normal, in mm, or None."""
    if len(planes) < 2:
        return None
    normal = np.cross(planes[0].row_direction, planes[0].column_direction)
    heights = np.unique(np.round([np.dot(plane.position_mm, normal) for plane in planes], 4))
    return float(np.median(np.diff(heights))) if heights.size > 1 else None


def _image_size(header: MrdHeader, encoded: tuple[int, int, int], axis: int) -> int:
    if header.encoded_fov_mm and header.recon_fov_mm:
        share = header.recon_fov_mm[axis] / header.encoded_fov_mm[axis]
        return round(min(encoded[axis] * share, encoded[axis]))
    if header.recon_matrix:
        return min(header.recon_matrix[axis], encoded[axis])
    return encoded[axis]


def _planes(
    lines: Lines,
    frames: tuple[NDArray[np.intp], ...],
    matrix: tuple[int, int],
    pitch_mm: tuple[float, float],
    thickness_mm: float,
    volume: PartitionedVolume | None,
) -> tuple[SlicePlane, ...]:
    """Place every slice; the acquisition's position is the pixel n // 2 of both axes."""
    planes = []
    n_partitions = volume.n_partitions if volume else 1
    for frame in frames:
        head = lines.heads[frame[0]]
        readout, phase, normal, center = (
            np.asarray(head[name], np.float64)
            for name in ("read_dir", "phase_dir", "slice_dir", "position")
        )
        basis = np.stack([readout, phase])
        if not np.isfinite(center).all() or not np.allclose(basis @ basis.T, np.eye(2), atol=1e-3):
            return ()
        if n_partitions > 1 and not np.isclose(np.linalg.norm(normal), 1.0, atol=1e-3):
            return ()
        corner = center - (matrix[0] // 2) * pitch_mm[0] * readout
        corner = corner - (matrix[1] // 2) * pitch_mm[1] * phase
        for partition in range(n_partitions):
            # Of a 2-D slice the normal is not used, and may be anything.
            offset = (partition - n_partitions // 2) * thickness_mm * normal if volume else 0.0
            planes.append(SlicePlane(_vector(corner + offset), _vector(readout), _vector(phase)))
    return tuple(planes)


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)
