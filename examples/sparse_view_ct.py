"""Reconstruct 60 views of a CT slice, beside filtered back-projection.

    python examples/sparse_view_ct.py OUT

The sinogram file is described in docs/formats.md: line integrals, angles and a few attributes.
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

# Stands for your own: every second of the sample's 120 views.
scan = out / "sparse.h5"
with h5py.File(write_sample("ct", out)) as full, h5py.File(scan, "w") as sparse:
    sparse["sinogram"] = full["sinogram"][:, ::2]  # (slices, views, detectors)
    sparse["angles_rad"] = full["angles_rad"][::2]
    sparse.attrs.update(full.attrs)
    sparse["reference"] = reference = full["reference"][:]  # optional, in HU

reconstruct = ldmpir_edge.load("ldmpir-2m")
result = reconstruct(scan)
print(f"ours: {psnr(result.image, reference, 'ct'):.1f} dB")

shown = reconstruct.comparison  # one slice, with its filtered back-projection
fbp = psnr(shown.unreconstructed, shown.reference, "ct")
print(f"a slice by FBP: {fbp:.1f} dB, by us: {psnr(shown.ours, shown.reference, 'ct'):.1f} dB")
print(*write_outputs(result, out, ["nii", "png"]), sep="\n")
