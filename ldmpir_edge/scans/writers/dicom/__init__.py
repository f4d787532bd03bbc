"""The volume as a DICOM series: a folder of single-frame MR or CT images."""

from ldmpir_edge.scans.writers.dicom.series import write_dicom

__all__ = ["write_dicom"]
