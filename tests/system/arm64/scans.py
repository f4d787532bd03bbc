"""Write the small scans that both machines reconstruct, one for each family of graphs.

PYTHONPATH=tests/support python tests/system/arm64/scans.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from small_scans import write_dicom, write_fastmri, write_sinogram


def main(folder: Path) -> None:
    write_fastmri(folder / "mri.h5", size=64, acceleration=4, n_coils=4)
    write_sinogram(folder / "ct.h5")
    write_sinogram(folder / "ct-fan.h5", "fan-equidistant")
    write_dicom(folder / "denoise.dcm", np.random.default_rng(2026))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
