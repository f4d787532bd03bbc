"""The volume as HDF5: one data set, its geometry as attributes and its history as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.scans.reconstruction import VolumeHeader
from ldmpir_edge.scans.writers import SliceSink

FORMAT = "ldmpir-reconstruction"
VERSION = 1


def write_h5(header: VolumeHeader, target: Path) -> SliceSink:
    """Write the volume, its geometry and its history.

    Data sets: `/reconstruction` float32 (slices, H, W); in LPS and for each slice `/position_mm`,
    `/row_direction` and `/column_direction`, float64 (slices, 3); the JSON texts `/checks` (one
    object a slice) and `/notes`. Root attributes: `format`, `version`, `modality`, `unit` (`HU`,
    or `input` for the scale of the scan), `pixel_spacing_mm` (row, column), `slice_spacing_mm`,
    `slice_thickness_mm` where known, and the JSON text `provenance`, of the last slice.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    checks: list[dict[str, Any]] = []
    notes = dict.fromkeys(header.notes)
    with (
        atomic_file(target) as temporary,
        # Through Python's own file object a full disk keeps its error number.
        temporary.open("w+b") as stream,
        h5py.File(stream, "w") as file,
    ):
        file.attrs.update(_attributes(header))
        # What grows with the slices goes into data sets: attributes end at 64 KiB.
        for name, values in _positions(header).items():
            file[name] = values
        images = file.create_dataset("reconstruction", header.shape, np.float32)
        for index in range(header.n_slices):
            piece = yield
            images[index] = piece.image
            checks.append(piece.checks)
            notes.update(dict.fromkeys(piece.notes))
        file["checks"] = json.dumps(checks)
        file["notes"] = json.dumps(list(notes))
        file.attrs["provenance"] = json.dumps(piece.provenance.to_dict())


def _positions(header: VolumeHeader) -> dict[str, Any]:
    planes = header.geometry.planes
    return {
        "position_mm": [plane.position_mm for plane in planes],
        "row_direction": [plane.row_direction for plane in planes],
        "column_direction": [plane.column_direction for plane in planes],
    }


def _attributes(header: VolumeHeader) -> dict[str, Any]:
    geometry = header.geometry
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "modality": header.info.modality,
        "unit": "HU" if header.info.modality == "ct" else "input",
        "pixel_spacing_mm": geometry.pixel_spacing_mm,
        "slice_spacing_mm": geometry.slice_spacing_mm,
    }
    if geometry.slice_thickness_mm is not None:
        attributes["slice_thickness_mm"] = geometry.slice_thickness_mm
    return attributes
