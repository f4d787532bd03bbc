"""The volume as compressed NIfTI-1, in RAS millimetres."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.scans.reconstruction import Provenance, VolumeHeader
from ldmpir_edge.scans.writers import SliceSink

if TYPE_CHECKING:
    from gzip import _WritableFileobj

_SCANNER, _ALIGNED = 1, 2
"""NIfTI xform codes: true scanner coordinates, and coordinates that were assumed."""

_DESCRIPTION_BYTES = 79

_FASTEST = 1
"""Compression level: noise in the low bits of floats leaves little for a higher one to find."""


def write_nifti(header: VolumeHeader, target: Path) -> SliceSink:
    """Write float32 voxels (column, row, slice) with the RAS matrix of the scan's planes.

    Raises
    ------
    OutputError
        The slices are not evenly spaced, or the file cannot be written.
    """
    with atomic_file(target) as temporary, temporary.open("wb") as file:
        yield from stream_nifti(header, file)


def stream_nifti(header: VolumeHeader, file: _WritableFileobj) -> SliceSink:
    """Write the same to an open file.

    Raises
    ------
    OutputError
        The slices are not evenly spaced.
    """
    nifti = _header(header)
    # Without name and time, equal volumes give equal files.
    with gzip.GzipFile("", "wb", _FASTEST, file, mtime=0) as stream:
        for index in range(header.n_slices):
            piece = yield
            if index == 0:
                nifti["descrip"] = _description(piece.provenance)
                nifti.write_to(stream)
            # Columns vary fastest in the file, as they do in C order of (row, column).
            stream.write(np.ascontiguousarray(piece.image, "<f4").data)


def _header(header: VolumeHeader) -> Any:
    import nibabel

    n_slices, rows, columns = header.shape
    affine = header.geometry.affine_ras()
    code = _ALIGNED if header.geometry.assumptions else _SCANNER
    nifti = nibabel.Nifti1Header(endianness="<")
    nifti.set_data_dtype(np.float32)
    nifti.set_data_shape((columns, rows, n_slices))
    nifti.set_sform(affine, code)
    nifti.set_qform(affine, code)
    nifti.set_xyzt_units("mm")
    nifti.set_slope_inter(1.0, 0.0)
    nifti.set_data_offset(nifti.single_vox_offset)
    return nifti


def _description(made: Provenance) -> bytes:
    text = f"ldmpir-edge {made.software_version} {made.bundle_name} {made.precision}"
    return text.encode("ascii", "replace")[:_DESCRIPTION_BYTES]
