"""Find damage in an HDF5 file that libhdf5 never comes back from.

Samples of variable length lie in global heaps: collections of objects behind one another, the free
rest being object 0 with its own header. libhdf5 (2.0 and before) walks a collection by the sizes
that its objects state; where one states nothing, as in a file of which a part is still zeros, it
stands still for ever. The layout is in the HDF5 File Format Specification, III.E.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import h5py

from ldmpir_edge.errors import ScanFormatError

_SIGNATURE = b"GCOL\x01\0\0\0"
_HEADER = len(_SIGNATURE) + 8
_OBJECT = struct.Struct("<HHIQ")
_REFERENCE = struct.Struct("<IQI")
"""Length, address of the collection and number of the object, which stand for the samples."""


def check_heaps(path: Path) -> None:
    """Check every collection of a file, before all of its samples of variable length are read.

    Raises
    ------
    ScanFormatError
        Reading from one would not end.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_SIGNATURE)
        while at >= 0:
            _check(path, data, at)
            at = data.find(_SIGNATURE, at + _HEADER)


def check_heap_of(path: Path, found: h5py.Dataset) -> None:
    """Check the collection of a data set of one element, if its length is variable.

    Raises
    ------
    ScanFormatError
        Reading from it would not end.
    """
    if found.dtype.kind != "O":
        return
    place = found.id.get_offset()
    if place is None:  # it is stored in a chunk, or in its header
        check_heaps(path)
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if place + _REFERENCE.size <= len(data):
            _, at, _ = _REFERENCE.unpack_from(data, place)
            if data[at : at + len(_SIGNATURE)] == _SIGNATURE:
                _check(path, data, at)


def _check(path: Path, data: mmap.mmap, start: int) -> None:
    size = int.from_bytes(data[start + len(_SIGNATURE) : start + _HEADER], "little")
    at, end = start + _HEADER, min(start + size, len(data))
    while at + _OBJECT.size <= end:
        number, _, _, n_bytes = _OBJECT.unpack_from(data, at)
        if number == 0 and n_bytes < _OBJECT.size:
            raise ScanFormatError(
                f"{path}: the samples at byte {start} are damaged or not all there yet; copy or "
                "export the file again"
            )
        at += n_bytes if number == 0 else _OBJECT.size + -(-n_bytes // 8) * 8
