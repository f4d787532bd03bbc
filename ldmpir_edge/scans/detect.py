"""Open a scan of any supported kind, told apart by content and never by file name."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import h5py

from ldmpir_edge.errors import ScanError, ScanFormatError
from ldmpir_edge.scans import trial
from ldmpir_edge.scans.dicom_in import is_dicom, read_dicom
from ldmpir_edge.scans.fastmri import is_fastmri, read_fastmri
from ldmpir_edge.scans.hdf5 import open_hdf5, reading
from ldmpir_edge.scans.images_in import GZIP_MAGIC, open_nifti, open_npy
from ldmpir_edge.scans.ismrmrd_file import find_dataset_group, open_ismrmrd
from ldmpir_edge.scans.model import Scan
from ldmpir_edge.scans.mrd_spool import SPOOL_MAGIC, open_spool
from ldmpir_edge.scans.sinogram import is_sinogram, read_sinogram

Container = Literal["hdf5", "dicom", "mrd", "npy", "nifti"]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_NPY_MAGIC = b"\x93NUMPY"
_NIFTI_SIZES = (348, 540)
_MAX_FILES = 16384

_log = logging.getLogger(__name__)


def expect_scans(paths: Sequence[Path]) -> None:
    """Start what opening these files will need, so that it is ready when other things are."""
    for path in paths:
        with suppress(ScanError):  # said when it is opened
            if _container(path) == "hdf5":
                trial.start()
                return


@contextmanager
def open_scan(path: Path | str | Sequence[Path | str]) -> Iterator[Scan]:
    """Open a scan; its slices can be read until the block ends.

    Parameters
    ----------
    path
        A fastMRI, ISMRMRD or sinogram HDF5 file, a DICOM file, a folder of one DICOM series (or
        the list of its files), an NPY or a NIfTI image.

    Yields
    ------
        A `KspaceScan`, `SinogramScan` or `ImageScan`.

    Raises
    ------
    ScanFormatError
        The content is of no known format, truncated or damaged.
    ScanDataError
        The content is well formed but cannot be used.
    ScanError
        There is no such file, or it cannot be read.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]
    if not paths:
        raise ScanError("no scan was given; name a file or a folder")
    files = [file for given in paths for file in _files(given)]
    if len(paths) > 1 or paths[0].is_dir():
        dicom, unreadable = _dicom_among(files, named=set(paths))
        if not dicom or (len(dicom) < len(files) and not any(p.is_dir() for p in paths)):
            other = next((file for file in files if file not in dicom), paths[0])
            raise ScanFormatError(
                f"{other}: not a DICOM file, and only DICOM scans span several files; "
                "give one scan at a time"
            )
        with read_dicom(paths[0], dicom) as scan:
            if unreadable:
                # A slice may be among them.
                note = (
                    f"{len(unreadable)} files that are empty or damaged were passed over, "
                    f"the first {unreadable[0].name}"
                )
                info = replace(scan.info, notes=(*scan.info.notes, note))
                scan = replace(scan, info=info)
            yield scan
        return
    with _open_file(paths[0]) as scan:
        _log.debug("%s is read as %s: %d slices", paths[0], type(scan).__name__, scan.n_slices)
        yield scan


def _dicom_among(files: Sequence[Path], named: Set[Path]) -> tuple[list[Path], list[Path]]:
    """Return those of a folder's files that are DICOM, and those that cannot be read at all."""
    dicom: list[Path] = []
    unreadable: list[Path] = []
    for file in files:
        try:
            container = _container(file)
        except ScanError:
            if file in named:
                raise
            unreadable.append(file)
            continue
        if container == "dicom":
            dicom.append(file)
    return dicom, unreadable


@contextmanager
def _open_file(path: Path) -> Iterator[Scan]:
    container = _container(path)
    if container == "hdf5":
        trial.try_hdf5(path)
        with open_hdf5(path) as file, _open_hdf5_scan(path, file) as scan:
            yield scan
    elif container == "dicom":
        with read_dicom(path, [path]) as scan:
            yield scan
    elif container == "mrd":
        with open_spool(path) as scan:
            yield scan
    elif container == "npy":
        with open_npy(path) as scan:
            yield scan
    elif container == "nifti":
        with open_nifti(path) as scan:
            yield scan
    else:
        raise ScanFormatError(
            f"{path}: not a scan that is known here; give fastMRI, ISMRMRD or sinogram HDF5, "
            "DICOM, NPY or NIfTI"
        )


@contextmanager
def _open_hdf5_scan(path: Path, file: h5py.File) -> Iterator[Scan]:
    with ExitStack() as stack:
        # In a damaged file the library fails wherever it is first asked.
        with reading(path, "its structure"):
            scan = _enter_hdf5_scan(stack, path, file)
        yield scan


def _enter_hdf5_scan(stack: ExitStack, path: Path, file: h5py.File) -> Scan:
    if is_sinogram(file):
        return read_sinogram(path, file)
    if is_fastmri(file):
        return read_fastmri(path, file)
    if (group := find_dataset_group(file)) is not None:
        return stack.enter_context(open_ismrmrd(path, group))
    members = ", ".join(sorted(file)[:6]) or "nothing"
    raise ScanFormatError(
        f"{path}: HDF5 without a scan (it holds {members}); expected /kspace (fastMRI), "
        "a group with xml and data (ISMRMRD) or /sinogram"
    )


def _files(path: Path) -> list[Path]:
    """List the files that `path` stands for: itself, or all in the folder and below it."""
    try:
        if not path.is_dir():
            path.stat()
            return [path]
        found: list[Path] = []
        for entry in sorted(path.rglob("*")):
            if entry.is_file() and not entry.name.startswith("."):
                found.append(entry)
            if len(found) > _MAX_FILES:
                raise ScanFormatError(
                    f"{path}: more than {_MAX_FILES} files; name the folder of one series"
                )
    except FileNotFoundError as err:
        raise ScanError(f"{path}: no such file or folder; check the name") from err
    except OSError as err:
        raise ScanError(f"{path}: cannot be read ({err.strerror}); check permissions") from err
    if not found:
        raise ScanFormatError(f"{path}: the folder is empty; name one that holds a scan")
    return found


def _container(path: Path) -> Container | None:
    """Recognise the outer format by its first bytes.

    Raises
    ------
    ScanFormatError
        The file is empty.
    ScanError
        The file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
    except OSError as err:
        raise ScanError(f"{path}: cannot be read ({err.strerror}); check permissions") from err
    if not start:
        raise ScanFormatError(f"{path}: the file is empty; copy or export it again")
    if start.startswith(_HDF5_MAGIC):
        return "hdf5"
    if is_dicom(start):
        return "dicom"
    if start.startswith(SPOOL_MAGIC):
        return "mrd"
    if start.startswith(_NPY_MAGIC):
        return "npy"
    if start.startswith(GZIP_MAGIC):
        try:
            with gzip.open(path) as stream:
                start = stream.read(4)
        except (OSError, EOFError, zlib.error) as err:
            raise ScanFormatError(f"{path}: damaged gzip file; copy it again") from err
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    return "nifti" if len(start) >= 4 and sizes & set(_NIFTI_SIZES) else None
