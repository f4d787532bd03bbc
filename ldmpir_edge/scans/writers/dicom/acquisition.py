"""The acquisition attributes of an image made from raw data, as far as the raw file states them."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from ldmpir_edge.scans.model import ScanInfo
from ldmpir_edge.scans.writers.dicom.text import ascii_text

PATIENT_POSITIONS = frozenset(
    {"HFP", "HFS", "HFDR", "HFDL", "FFP", "FFS", "FFDR", "FFDL"}
    | {"LFP", "LFS", "RFP", "RFS", "AFP", "AFS", "PFP", "PFS"}
)
"""Defined terms of Patient Position (PS3.3 C.7.3.1.1.2); anything else is left unknown."""

_SCANNING_SEQUENCES = (
    ("EP", re.compile(r"\bepi\b|echo.?planar", re.IGNORECASE)),
    ("SE", re.compile(r"spin.?echo|\b[tf]se\b|\bse\b|rare", re.IGNORECASE)),
    ("GR", re.compile(r"gradient|flash|\bgre\b|spgr|truefisp|bssfp|mprage", re.IGNORECASE)),
)


def describe_acquisition(ds: Dataset, info: ScanInfo, index: int) -> None:
    """Add equipment, patient position and, for MR, the sequence parameters of slice `index`."""
    for keyword, text in (
        ("Manufacturer", info.manufacturer),
        ("ManufacturerModelName", info.model_name),
        ("ProtocolName", info.protocol_name),
    ):
        if text:
            setattr(ds, keyword, ascii_text(text, 64))
    if info.patient_position in PATIENT_POSITIONS:
        ds.PatientPosition = info.patient_position
    if info.modality == "mr":
        _describe_mr(ds, info, index)


def _describe_mr(ds: Dataset, info: ScanInfo, index: int) -> None:
    ds.ScanningSequence = _scanning_sequence(info.sequence_type)
    ds.SequenceVariant = "NONE"
    echo_time_ms = info.echo_time_ms
    if info.echoes:
        ds.EchoNumbers, echo_time_ms = info.echoes[index]
    for keyword, value in (
        ("MagneticFieldStrength", info.field_strength_t),
        ("EchoTime", echo_time_ms),
        ("RepetitionTime", info.repetition_time_ms),
        ("InversionTime", info.inversion_time_ms),
        ("FlipAngle", info.flip_angle_deg),
        ("SpacingBetweenSlices", info.slice_spacing_mm),
    ):
        if value is not None:
            setattr(ds, keyword, format_number_as_ds(float(value)))


def _scanning_sequence(sequence_type: str | None) -> str:
    # RM, research mode, for a sequence that is not known: it claims nothing.
    for code, pattern in _SCANNING_SEQUENCES:
        if sequence_type and pattern.search(sequence_type):
            return code
    return "RM"
