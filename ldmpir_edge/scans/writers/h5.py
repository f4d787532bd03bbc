"""The volume as HDF5: one data set, its geometry as attributes and its history as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.scans.reconstruction import Reconstruction

FORMAT = "ldmpir-reconstruction"
VERSION = 1


def write_h5(recon: Reconstruction, target: Path) -> None:
    """Write the volume, its geometry and its history.

    Data sets: `/reconstruction` float32 (slices, H, W); in LPS and for each slice `/position_mm`,
    `/row_direction` and `/column_direction`, float64 (slices, 3); the JSON texts `/checks` (one
    object a slice) and `/notes`. Root attributes: `format`, `version`, `modality`, `unit` (`HU`,
    or `input` for the scale of the scan), `pixel_spacing_mm` (row, column), `slice_spacing_mm`,
    `slice_thickness_mm` where known, and the JSON text `provenance`.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    with (
        atomic_file(target) as temporary,
        # Through Python's own file object a full disk keeps its error number.
        temporary.open("w+b") as stream,
        h5py.File(stream, "w") as file,
    ):
        # What grows with the slices goes into data sets: attributes end at 64 KiB.
        for name, values in _datasets(recon).items():
            file[name] = values
        file.attrs.update(_attributes(recon))


def _datasets(recon: Reconstruction) -> dict[str, Any]:
    geometry = recon.geometry
    return {
        "reconstruction": recon.image,
        "position_mm": [plane.position_mm for plane in geometry.planes],
        "row_direction": [plane.row_direction for plane in geometry.planes],
        "column_direction": [plane.column_direction for plane in geometry.planes],
        "checks": json.dumps(recon.checks),
        "notes": json.dumps(recon.all_notes),
    }


def _attributes(recon: Reconstruction) -> dict[str, Any]:
    geometry = recon.geometry
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "modality": recon.info.modality,
        "unit": "HU" if recon.info.modality == "ct" else "input",
        "pixel_spacing_mm": geometry.pixel_spacing_mm,
        "slice_spacing_mm": geometry.slice_spacing_mm,
        "provenance": json.dumps(recon.provenance.to_dict()),
    }
    if geometry.slice_thickness_mm is not None:
        attributes["slice_thickness_mm"] = geometry.slice_thickness_mm
    return attributes
