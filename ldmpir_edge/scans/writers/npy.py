"""The volume as a NumPy file: float32 (slices, H, W) on the scan's scale, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.scans.reconstruction import Reconstruction


def write_npy(recon: Reconstruction, target: Path) -> None:
    """Write `recon.image` to `target`, little-endian float32.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    array = np.ascontiguousarray(recon.image, "<f4")
    with atomic_file(target) as temporary, temporary.open("wb") as stream:
        # `numpy.save` hides the system's reason (full disk) when a write falls short.
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(array.data)
