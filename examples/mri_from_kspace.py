"""Reconstruct k-space that you hold as an array: four-fold undersampled, 8 coils, to DICOM.

    python examples/mri_from_kspace.py OUT

The array is written in fastMRI's layout, which needs three lines; a scan that is a fastMRI or
ISMRMRD file already needs none of them. See docs/formats.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py

import ldmpir_edge
from ldmpir_edge.report.metrics import psnr
from ldmpir_edge.scans.sample import write_sample
from ldmpir_edge.scans.write import write_outputs

out = Path(sys.argv[1])

# Stands for your own: (slices, coils, readout, phase encode) complex64, zero where not sampled.
with h5py.File(write_sample("mri", out)) as file:
    kspace, reference = file["kspace"][:], file["reconstruction_rss"][:]

scan = out / "mine.h5"
with h5py.File(scan, "w") as file:
    file["kspace"] = kspace
    file["reconstruction_rss"] = reference  # optional: a fully sampled image to compare with

reconstruct = ldmpir_edge.load("ldmpir-2m")
result = reconstruct(scan)
for check in result.checks:
    print(f"residual {check['residual']:.3f}, {check['fallback'] or 'the model'}")
print(f"{psnr(result.image, reference, 'mr'):.1f} dB against the reference")
print(*write_outputs(result, out, ["dicom", "png"]), sep="\n")
