"""Coded values."""

from __future__ import annotations

from pydicom.dataset import Dataset


def code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    """Build the item of a code sequence (PS3.3 table 8.8-1); the scheme is DICOM's own or UCUM."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item
