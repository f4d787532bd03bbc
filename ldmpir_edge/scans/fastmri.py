"""fastMRI HDF5 files: multi-coil and single-coil, with or without reference and mask.

Source: Zbontar et al., arXiv:1811.08839, and the published files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.scans import hdf5
from ldmpir_edge.scans.limits import (
    MAX_COILS,
    MAX_SIDE,
    MAX_SLICES,
    check_count,
    check_slice_size,
)
from ldmpir_edge.scans.model import KspaceScan, ScanInfo
from ldmpir_edge.scans.mrd_header import MAX_HEADER_CHARACTERS, MrdHeader, parse_mrd_header

_REFERENCES = ("reconstruction_rss", "reconstruction_esc")


@dataclass(frozen=True, eq=False, kw_only=True)
class FastMriScan(KspaceScan):
    """An open fastMRI file: k-space `(slices[, coils], readout, phase encode)`."""

    kspace_dataset: h5py.Dataset
    reference_dataset: h5py.Dataset | None

    def _read_kspace(self, index: int) -> NDArray[np.complex64]:
        with hdf5.reading(self.path, f"k-space of slice {index}"):
            samples = np.asarray(self.kspace_dataset[index], np.complex64)
        return samples if samples.ndim == 3 else samples[None]

    def _read_reference(self, index: int) -> NDArray[np.float32] | None:
        if self.reference_dataset is None:
            return None
        with hdf5.reading(self.path, f"reference of slice {index}"):
            return np.asarray(self.reference_dataset[index], np.float32)


def is_fastmri(file: h5py.File) -> bool:
    """Tell whether an open HDF5 file is laid out as fastMRI's are."""
    return isinstance(hdf5.find(file, "kspace"), h5py.Dataset)


def read_fastmri(path: Path, file: h5py.File) -> FastMriScan:
    """Describe an open fastMRI file.

    Raises
    ------
    ScanFormatError
        A data set has another dtype or rank, or the header is not XML.
    ScanDataError
        No coils or slices, an absurd size, or mask, reference and k-space do not fit.
    """
    kspace = hdf5.dataset(path, file, "kspace", kinds="c", ndim=(3, 4))
    shape = kspace.shape if kspace.ndim == 4 else (kspace.shape[0], 1, *kspace.shape[1:])
    n_slices, n_coils, n_readout, n_phase = (int(n) for n in shape)
    check_count(path, "the number of slices", n_slices, MAX_SLICES)
    check_count(path, "the number of coils", n_coils, MAX_COILS)
    check_count(path, "the readout length", n_readout, MAX_SIDE)
    check_count(path, "the number of phase-encode columns", n_phase, MAX_SIDE)
    check_slice_size(path, "k-space", (n_coils, n_readout, n_phase))
    header = _header(path, file)
    reference = _reference(path, file, n_slices)
    recon_matrix, notes = _recon_matrix(path, header, reference, (n_readout, n_phase))
    return FastMriScan(
        path=path,
        files=(path,),
        n_slices=n_slices,
        info=_info(
            file, header, notes, (max(n_readout, recon_matrix[0]), max(n_phase, recon_matrix[1]))
        ),
        n_coils=n_coils,
        recon_matrix=recon_matrix,
        rows_are_phase=False,
        mask=_mask(path, file, header, n_phase),
        kspace_dataset=kspace,
        reference_dataset=reference,
    )


def _header(path: Path, file: h5py.File) -> MrdHeader | None:
    if hdf5.find(file, "ismrmrd_header") is None:
        return None
    return parse_mrd_header(path, hdf5.text(path, file, "ismrmrd_header", MAX_HEADER_CHARACTERS))


def _reference(path: Path, file: h5py.File, n_slices: int) -> h5py.Dataset | None:
    for name in _REFERENCES:
        if hdf5.find(file, name) is None:
            continue
        found = hdf5.dataset(path, file, name, kinds="f", ndim=(3,))
        if found.shape[0] != n_slices:
            raise ScanDataError(
                f"{path}: /{name} has {found.shape[0]} slices and /kspace {n_slices}; "
                "they must agree"
            )
        for side in found.shape[1:]:
            check_count(path, f"a side of /{name}", int(side), MAX_SIDE)
        return found
    return None


def _recon_matrix(
    path: Path,
    header: MrdHeader | None,
    reference: h5py.Dataset | None,
    encoded: tuple[int, int],
) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Choose the image size: the reference's, else the header's, else all that was encoded."""
    if reference is not None:
        return (int(reference.shape[1]), int(reference.shape[2])), ()
    if header is None or header.recon_matrix is None:
        return encoded, ("the file states no reconstruction matrix: the full view is delivered",)
    readout, phase = header.recon_matrix[:2]
    check_count(path, "the header's reconSpace matrix x", readout, MAX_SIDE)
    check_count(path, "the header's reconSpace matrix y", phase, MAX_SIDE)
    if phase > encoded[1]:
        # As fastMRI's own code does for narrow brain scans: a square of the encoded width.
        return (min(readout, encoded[1]), encoded[1]), ()
    return (min(readout, encoded[0]), phase), ()


def _mask(
    path: Path, file: h5py.File, header: MrdHeader | None, n_phase: int
) -> NDArray[np.bool_] | None:
    """Combine the file's mask with the columns that the header declares zero padding."""
    acquired = np.ones(n_phase, np.bool_)
    known = False
    if header and header.encoded_matrix and None not in (header.phase_center, header.phase_maximum):
        first = header.encoded_matrix[1] // 2 - int(header.phase_center or 0)
        last = first + int(header.phase_maximum or 0)
        if header.encoded_matrix[1] == n_phase and 0 <= first <= last < n_phase:
            acquired[:first] = False
            acquired[last + 1 :] = False
            known = True
    if hdf5.find(file, "mask") is not None:
        stored = hdf5.dataset(path, file, "mask", kinds="fiub", ndim=(1,))
        if stored.shape != (n_phase,):
            raise ScanDataError(
                f"{path}: /mask has {stored.shape[0]} entries for {n_phase} phase-encode columns; "
                "they must agree"
            )
        with hdf5.reading(path, "/mask"):
            acquired &= np.asarray(stored[()]) != 0
        known = True
    if not acquired.any():
        raise ScanDataError(f"{path}: the mask samples no column; there is nothing to reconstruct")
    return acquired if known else None


def _info(
    file: h5py.File, header: MrdHeader | None, notes: tuple[str, ...], grid: tuple[int, int]
) -> ScanInfo:
    """Describe the scan; `grid` (readout, phase encode) is what covers the encoded view."""
    acquisition = file.attrs.get("acquisition")
    protocol = acquisition if isinstance(acquisition, str) else None
    if header is None:
        return ScanInfo(modality="mr", protocol_name=protocol, notes=notes)
    spacing, thickness = None, None
    # One pixel of the delivered image is one of that grid: cropping keeps it.
    if header.encoded_fov_mm and header.encoded_matrix and min(header.encoded_matrix) > 0:
        fov = header.encoded_fov_mm
        spacing = (fov[0] / grid[0], fov[1] / grid[1])
        thickness = fov[2] / header.encoded_matrix[2]
    info = header.describe(pixel_spacing_mm=spacing, slice_thickness_mm=thickness, notes=notes)
    return replace(info, protocol_name=info.protocol_name or protocol)
