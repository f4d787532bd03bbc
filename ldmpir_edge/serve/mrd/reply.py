"""Finished slices as MRD image messages, in a file that the front sends as it is."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.scans.display import display_window
from ldmpir_edge.scans.ismrmrd_file import IsmrmrdScan
from ldmpir_edge.scans.reconstruction import ReconstructedSlice, VolumeHeader
from ldmpir_edge.serve.mrd.protocol import U16, U64, Message

MAKER = "ldmpir-edge"
FLOAT, MAGNITUDE = 5, 1
"""ISMRMRD_DataTypes and ISMRMRD_ImageTypes."""

IMAGE_HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("data_type", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", (3,)),
        ("field_of_view", "<f4", (3,)),
        ("channels", "<u2"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("patient_table_position", "<f4", (3,)),
        ("average", "<u2"),
        ("slice", "<u2"),
        ("contrast", "<u2"),
        ("phase", "<u2"),
        ("repetition", "<u2"),
        ("set", "<u2"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("image_type", "<u2"),
        ("image_index", "<u2"),
        ("image_series_index", "<u2"),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
        ("attribute_string_len", "<u4"),
    ]
)
"""Source: ismrmrd/ismrmrd, include/ismrmrd/ismrmrd.h, ISMRMRD_ImageHeader; 198 bytes."""

_COPIED = (
    *("measurement_uid", "read_dir", "phase_dir", "slice_dir", "patient_table_position"),
    *("acquisition_time_stamp", "physiology_time_stamp"),
)
_COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set")

Sink = Generator[None, ReconstructedSlice, None]


def write_reply(scan: IsmrmrdScan, header: VolumeHeader, path: Path) -> Sink:
    """Write an image message a slice; started and sent slices like the writers of `scans`.

    Parameters
    ----------
    scan
        Gives each image the counters, times and directions of its first acquisition.
    header
        The volume's.
    path
        The file to write.
    """
    with path.open("wb") as stream:
        while True:
            piece = yield
            stream.write(image_message(scan, header, piece))


def image_message(scan: IsmrmrdScan, header: VolumeHeader, piece: ReconstructedSlice) -> bytes:
    """Give one slice as a message: float32 magnitudes, x along the readout.

    The position is the image's centre, pixel n // 2 of both axes, as it is an acquisition's.
    """
    attributes = _attributes(header, piece).encode()
    head = _head(scan, header, piece)
    head["attribute_string_len"] = len(attributes)
    pixels = np.ascontiguousarray(piece.image, "<f4")
    return b"".join(
        (
            U16.pack(Message.IMAGE),
            head.tobytes(),
            U64.pack(len(attributes)),
            attributes,
            pixels.tobytes(),
        )
    )


def _head(scan: IsmrmrdScan, header: VolumeHeader, piece: ReconstructedSlice) -> NDArray[np.void]:
    source = scan.first_head(piece.index)
    rows, columns = piece.image.shape
    head = np.zeros((), IMAGE_HEAD)
    head["version"], head["data_type"], head["image_type"] = 1, FLOAT, MAGNITUDE
    head["matrix_size"] = columns, rows, 1
    head["channels"] = 1
    for name in _COPIED:
        head[name] = source[name]
    for name in _COUNTERS:
        head[name] = source["idx"][name]
    geometry = header.geometry
    row_mm, column_mm = geometry.pixel_spacing_mm
    thickness = geometry.slice_thickness_mm or geometry.slice_spacing_mm
    head["field_of_view"] = columns * column_mm, rows * row_mm, thickness
    head["position"] = source["position"]
    if header.info.planes:
        plane = header.info.planes[piece.index]
        head["position"] = (
            np.asarray(plane.position_mm)
            + (columns // 2) * column_mm * np.asarray(plane.row_direction)
            + (rows // 2) * row_mm * np.asarray(plane.column_direction)
        )
    # Partitions of a volume have one slice counter: the index tells them apart.
    head["image_index"] = (piece.index + 1) % 2**16
    head["image_series_index"] = 1
    return head


def _attributes(header: VolumeHeader, piece: ReconstructedSlice) -> str:
    """Give the image's meta as MRD's XML; names as in Siemens' FIRE where it has them."""
    made, checks = piece.provenance, piece.checks
    black, white = display_window(piece.image, header.info.modality)
    comments = ["RESEARCH RECONSTRUCTION BY A LEARNED MODEL. NOT FOR DIAGNOSTIC USE."]
    if piece.fallback is not None:
        comments.append(f"CLASSICAL IMAGE IN PLACE OF THE MODEL'S: {piece.fallback}.")
    values: dict[str, list[str]] = {
        "DataRole": ["Image"],
        "ImageProcessingHistory": ["LDMPIR"],
        "Keep_image_geometry": ["1"],
        "SequenceDescriptionAdditional": ["LDMPIR"],
        "ImageComment": [" ".join(comments)],
        "WindowCenter": [f"{(black + white) / 2:.8g}"],
        "WindowWidth": [f"{white - black:.8g}"],
        "LdmpirSoftware": [f"{MAKER} {made.software_version}"],
        "LdmpirBundle": [made.bundle_name, made.bundle_sha256],
        "LdmpirVariant": [f"{made.n_steps} steps", made.precision, made.backend],
    }
    if piece.fallback is not None:
        values["LdmpirFallback"] = [piece.fallback]
    if planes := header.info.planes:
        plane = planes[piece.index]
        values["ImageRowDir"] = [f"{v:.8f}" for v in plane.row_direction]
        values["ImageColumnDir"] = [f"{v:.8f}" for v in plane.column_direction]
    if (residual := checks.get("residual")) is not None:
        values["LdmpirResidual"] = [f"{residual:.6g}"]
    metas = "".join(
        f"<meta><name>{name}</name>"
        + "".join(f"<value>{escape(_plain(value))}</value>" for value in listed)
        + "</meta>"
        for name, listed in values.items()
    )
    return f"<ismrmrdMeta>{metas}</ismrmrdMeta>"


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
