"""The volume as a NumPy file: float32 (slices, H, W) on the scan's scale, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.scans.reconstruction import VolumeHeader
from ldmpir_edge.scans.writers import SliceSink


def write_npy(header: VolumeHeader, target: Path) -> SliceSink:
    """Write the slices to `target`, little-endian float32.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    layout = {"descr": "<f4", "fortran_order": False, "shape": header.shape}
    with atomic_file(target) as temporary, temporary.open("wb") as stream:
        # `numpy.save` hides the system's reason (full disk) when a write falls short.
        np.lib.format.write_array_header_1_0(stream, layout)
        for _ in range(header.n_slices):
            piece = yield
            stream.write(np.ascontiguousarray(piece.image, "<f4").data)
