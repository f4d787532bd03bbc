"""Open HDF5 files and look inside them without trusting them.

A hostile file can point a data set at another file on this machine, declare sizes far beyond its
bytes or nest links: data sets are taken only when they are stored in the file itself, have the
wanted kind and rank, and their chunks stay within the limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.scans.global_heaps import check_heap_of
from ldmpir_edge.scans.limits import MAX_SLICE_ELEMENTS

_KIND_NAMES = {"c": "complex", "f": "float", "i": "integer", "u": "integer", "b": "bool"}


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading and close it at the end of the block.

    Raises
    ------
    ScanFormatError
        The file cannot be opened: truncated, damaged or not HDF5.
    """
    with ExitStack() as stack:
        try:
            source: Path | BinaryIO = path
            if path.is_relative_to("/proc"):
                # An open descriptor, as of a file in memory. libhdf5 follows such a link to the
                # name of the file, which it need not have; Python just opens it.
                source = stack.enter_context(path.open("rb"))
            file = stack.enter_context(h5py.File(source, "r"))
        except OSError as err:
            reason = "truncated" if "truncated" in str(err) else "damaged or not HDF5"
            raise ScanFormatError(
                f"{path}: the file is {reason} ({_first_line(err)}); copy or export it again"
            ) from err
        yield file


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn the errors of the HDF5 library while reading `what` into a `ScanFormatError`."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as err:
        raise ScanFormatError(
            f"{path}: cannot read {what} ({_first_line(err)}); the file is damaged, copy it again"
        ) from err


def find(group: h5py.Group, name: str) -> Any:
    """Give the member `name` of `group` if it is stored in the same file, else None."""
    try:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            return None
        return group.get(name)
    except (OSError, RuntimeError, KeyError):
        return None


def dataset(
    path: Path, group: h5py.Group, name: str, *, kinds: str, ndim: tuple[int, ...]
) -> h5py.Dataset:
    """Give a data set after checking where it is stored, its dtype kind and its rank.

    Parameters
    ----------
    path
        For messages.
    group, name
        Where to look.
    kinds
        Allowed `numpy.dtype.kind` letters.
    ndim
        Allowed ranks.

    Raises
    ------
    ScanFormatError
        The data set is missing, lies in another file, or has another dtype or rank.
    ScanDataError
        A chunk is larger than a slice may be.
    """
    found = find(group, name)
    label = f"/{name}" if group.name == "/" else f"{group.name}/{name}"
    if not isinstance(found, h5py.Dataset):
        raise ScanFormatError(f"{path}: no data set {label}; see docs/formats.md for the layout")
    if found.is_virtual or found.external:
        raise ScanFormatError(
            f"{path}: {label} refers to another file; store the samples in the file itself"
        )
    if found.dtype.kind not in kinds:
        wanted = " or ".join(sorted({_KIND_NAMES[kind] for kind in kinds}))
        raise ScanFormatError(f"{path}: {label} has dtype {found.dtype}; it must be {wanted}")
    if found.ndim not in ndim:
        wanted = " or ".join(str(n) for n in ndim)
        raise ScanFormatError(
            f"{path}: {label} has {found.ndim} axes, shape {found.shape}; it must have {wanted}"
        )
    if found.chunks and math.prod(found.chunks) > MAX_SLICE_ELEMENTS:
        raise ScanDataError(
            f"{path}: {label} is stored in chunks of shape {found.chunks}, more than "
            f"{MAX_SLICE_ELEMENTS} samples; write one chunk for each slice"
        )
    return found


def text(path: Path, group: h5py.Group, name: str, largest: int) -> str:
    """Read a text data set (scalar or one element) of at most `largest` characters.

    Raises
    ------
    ScanFormatError
        It is missing, is not text or is too long.
    """
    found = find(group, name)
    if not isinstance(found, h5py.Dataset) or found.size != 1 or found.dtype.kind not in "OSU":
        raise ScanFormatError(f"{path}: {name} is missing or is not one text")
    check_heap_of(path, found)
    with reading(path, name):
        value = found[()]
    while isinstance(value, np.ndarray):
        value = value.reshape(-1)[0]
    decoded = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if len(decoded) > largest:
        raise ScanFormatError(f"{path}: {name} has {len(decoded)} characters, over {largest}")
    return decoded


def _first_line(err: BaseException) -> str:
    return (str(err) or type(err).__name__).splitlines()[0][:160]
