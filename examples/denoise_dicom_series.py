"""Denoise a DICOM series: a folder in, a new series in the same study out.

python examples/denoise_dicom_series.py OUT [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import pydicom

import ldmpir_edge
from ldmpir_edge.scans.sample import write_sample
from ldmpir_edge.scans.write import write_outputs

out = Path(sys.argv[1])
series = Path(sys.argv[2]) if len(sys.argv) > 2 else write_sample("dicom", out)

reconstruct = ldmpir_edge.load("ldmpir-2m")
result = reconstruct(series, task="denoise")
(folder,) = write_outputs(result, out / "denoised", ["dicom"])

for path in sorted(folder.glob("*.dcm")):
    image = pydicom.dcmread(path, stop_before_pixels=True)
    # The study is the source's; series and instance are new, and the header says what was done.
    print(path.name, image.SeriesDescription, image.DerivationDescription, sep=" | ")
