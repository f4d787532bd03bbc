"""The documented sinogram HDF5 (docs/formats.md): line integrals with their full geometry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.physics.geometry import KINDS, GeometryKind, RadonGeometry
from ldmpir_edge.scans import hdf5
from ldmpir_edge.scans.global_heaps import check_heaps
from ldmpir_edge.scans.limits import (
    MAX_SIDE,
    MAX_SLICES,
    MAX_VIEWS,
    check_count,
    check_slice_size,
)
from ldmpir_edge.scans.model import MU_WATER_PER_MM, ScanInfo, SinogramScan

FORMAT = "ldmpir-sinogram"
VERSION = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class SinogramFile(SinogramScan):
    """An open sinogram file."""

    sinogram_dataset: h5py.Dataset
    reference_dataset: h5py.Dataset | None

    def _read_sinogram(self, index: int) -> NDArray[np.float32]:
        with hdf5.reading(self.path, f"sinogram of slice {index}"):
            return np.asarray(self.sinogram_dataset[index], np.float32)

    def _read_reference(self, index: int) -> NDArray[np.float32] | None:
        if self.reference_dataset is None:
            return None
        with hdf5.reading(self.path, f"reference of slice {index}"):
            return np.asarray(self.reference_dataset[index], np.float32)


def is_sinogram(file: h5py.File) -> bool:
    """Tell whether an open HDF5 file claims to be a sinogram, or looks like one."""
    return "format" in file.attrs or isinstance(hdf5.find(file, "sinogram"), h5py.Dataset)


def read_sinogram(path: Path, file: h5py.File) -> SinogramFile:
    """Describe an open sinogram file.

    Raises
    ------
    ScanFormatError
        Another format or version, a missing attribute or data set, or another dtype or rank.
    ScanDataError
        The geometry is contradictory, a size is absurd, or the data sets do not fit together.
    """
    check_heaps(path)  # texts among the attributes lie there
    attributes = _Attributes(path, file)
    if (name := attributes.text("format")) != FORMAT:
        raise ScanFormatError(f"{path}: format is {name!r}; it must be {FORMAT!r}")
    if (version := attributes.number("version")) != VERSION:
        raise ScanFormatError(
            f"{path}: sinogram version {version:g} is unknown; this release reads {VERSION}"
        )
    sinogram = hdf5.dataset(path, file, "sinogram", kinds="f", ndim=(3,))
    n_slices, n_views, n_detectors = (int(n) for n in sinogram.shape)
    check_count(path, "the number of slices", n_slices, MAX_SLICES)
    check_count(path, "the number of views", n_views, MAX_VIEWS)
    check_count(path, "the number of detectors", n_detectors, MAX_SIDE)
    check_slice_size(path, "/sinogram", (n_views, n_detectors))
    recon_matrix = attributes.matrix("recon_matrix")
    spacing = attributes.positive("pixel_spacing_mm")
    reference = None
    if hdf5.find(file, "reference") is not None:
        reference = hdf5.dataset(path, file, "reference", kinds="f", ndim=(3,))
        if reference.shape != (n_slices, *recon_matrix):
            raise ScanDataError(
                f"{path}: /reference has shape {reference.shape}; it must be "
                f"{(n_slices, *recon_matrix)} (slices, recon_matrix)"
            )
    has_mu = "mu_water_per_mm" in file.attrs
    return SinogramFile(
        path=path,
        files=(path,),
        n_slices=n_slices,
        info=ScanInfo(modality="ct", pixel_spacing_mm=(spacing, spacing)),
        geometry=_geometry(path, file, attributes, n_views, n_detectors),
        recon_matrix=recon_matrix,
        pixel_spacing_mm=spacing,
        photons=attributes.positive("photons") if "photons" in file.attrs else None,
        mu_water_per_mm=attributes.positive("mu_water_per_mm") if has_mu else MU_WATER_PER_MM,
        sinogram_dataset=sinogram,
        reference_dataset=reference,
    )


def _geometry(
    path: Path, file: h5py.File, attributes: _Attributes, n_views: int, n_detectors: int
) -> RadonGeometry:
    kind = attributes.text("geometry")
    known: dict[str, GeometryKind] = {name: name for name in KINDS}
    if kind not in known:
        raise ScanFormatError(f"{path}: geometry is {kind!r}; it must be one of {', '.join(KINDS)}")
    angles = hdf5.dataset(path, file, "angles_rad", kinds="f", ndim=(1,))
    if angles.shape[0] != n_views:
        raise ScanDataError(
            f"{path}: /angles_rad has {angles.shape[0]} entries and /sinogram {n_views} views; "
            "they must agree"
        )
    with hdf5.reading(path, "/angles_rad"):
        angles_rad = np.asarray(angles[()], np.float64)
    fan = kind != "parallel"
    equiangular = kind == "fan-equiangular"
    pitch = "detector_spacing_rad" if equiangular else "detector_spacing_mm"
    lengths = {pitch: attributes.number(pitch)}
    if fan:
        lengths["source_origin_mm"] = attributes.number("source_origin_mm")
    if fan and not (equiangular and "origin_detector_mm" not in file.attrs):
        lengths["origin_detector_mm"] = attributes.number("origin_detector_mm")
    try:
        return RadonGeometry(
            kind=known[kind],
            angles_rad=angles_rad,
            n_detectors=n_detectors,
            detector_offset=(
                attributes.number("detector_offset") if "detector_offset" in file.attrs else 0.0
            ),
            **lengths,
        )
    except ScanDataError as err:
        raise ScanDataError(f"{path}: {err}") from err


class _Attributes:
    """Reads root attributes with the file's name in every message."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self._path, self._file = path, file

    def text(self, name: str) -> str:
        value = self._value(name)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if not isinstance(value, str):
            raise ScanFormatError(f"{self._path}: attribute {name} is {value!r}; it must be text")
        return value

    def number(self, name: str) -> float:
        value = np.asarray(self._value(name))
        if value.size != 1 or value.dtype.kind not in "fiu":
            raise ScanFormatError(
                f"{self._path}: attribute {name} is {value.tolist()!r}; it must be one number"
            )
        return float(value.reshape(-1)[0])

    def positive(self, name: str) -> float:
        value = self.number(name)
        if not (np.isfinite(value) and value > 0):
            raise ScanDataError(
                f"{self._path}: attribute {name} is {value:g}; it must be positive and finite"
            )
        return value

    def matrix(self, name: str) -> tuple[int, int]:
        value = np.asarray(self._value(name))
        if value.shape != (2,) or value.dtype.kind not in "iu":
            raise ScanFormatError(
                f"{self._path}: attribute {name} is {value.tolist()!r}; "
                "it must be two integers (H, W)"
            )
        height, width = int(value[0]), int(value[1])
        check_count(self._path, f"{name} height", height, MAX_SIDE)
        check_count(self._path, f"{name} width", width, MAX_SIDE)
        return height, width

    def _value(self, name: str) -> Any:
        with hdf5.reading(self._path, f"attribute {name}"):
            value = self._file.attrs.get(name)
        if value is None:
            raise ScanFormatError(
                f"{self._path}: root attribute {name} is missing; see docs/formats.md"
            )
        return value
