"""The volume as compressed NIfTI-1, in RAS millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.scans.reconstruction import Reconstruction

_SCANNER, _ALIGNED = 1, 2
"""NIfTI xform codes: true scanner coordinates, and coordinates that were assumed."""

_DESCRIPTION_BYTES = 79


def write_nifti(recon: Reconstruction, target: Path) -> None:
    """Write float32 voxels (column, row, slice) with the RAS matrix of the scan's planes.

    Raises
    ------
    OutputError
        The slices are not evenly spaced, or the file cannot be written.
    """
    import nibabel

    geometry = recon.geometry
    affine = geometry.affine_ras()
    image = nibabel.Nifti1Image(np.transpose(recon.image, (2, 1, 0)), affine)
    code = _ALIGNED if geometry.assumptions else _SCANNER
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    image.header.set_xyzt_units("mm")
    made = recon.provenance
    description = f"ldmpir-edge {made.software_version} {made.bundle_name} {made.precision}"
    image.header["descrip"] = description.encode("ascii", "replace")[:_DESCRIPTION_BYTES]
    with atomic_file(target) as temporary:
        nibabel.save(image, temporary)
