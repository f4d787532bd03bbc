"""The bytes of a bundle's zip container, in the one form that is allowed.

Given the name, CRC-32 and size of every entry, each header byte of a bundle is determined:
stored entries back to back from offset 0, then the central directory, then the end record; no
extra fields, comments, data descriptors, zip64 or gaps. The reader compares the file with this
form, so a changed header byte is seen as surely as a changed content byte, and two zip readers
cannot be made to see two different bundles.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ldmpir_edge.bundle.schema import check_entry_name

MAX_ENTRIES = 4096
MAX_BUNDLE_BYTES = 2**31 - 1

_VERSION_NEEDED = 20
_MADE_BY = (3 << 8) | 20  # Unix, so that the permissions below are honoured
_DOS_TIME, _DOS_DATE = 0, (1 << 5) | 1  # 1980-01-01 00:00, zip's earliest
_UNIX_FILE_0644 = 0o100644 << 16
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"

END_SIZE = _END.size


class LayoutError(ValueError):
    """The container is not in the allowed form; the reader adds the file's name."""


@dataclass(frozen=True)
class StoredEntry:
    """One file in the container: `offset` is where its local header starts."""

    name: str
    crc32: int
    size: int
    offset: int

    @property
    def local_header(self) -> bytes:
        """The bytes that precede the entry's content."""
        name = self.name.encode("ascii")
        fields = (_VERSION_NEEDED, 0, 0, _DOS_TIME, _DOS_DATE)
        sizes = (self.crc32, self.size, self.size)
        return _LOCAL.pack(_LOCAL_MAGIC, *fields, *sizes, len(name), 0) + name

    @property
    def data_offset(self) -> int:
        """Where the entry's content starts."""
        return self.offset + _LOCAL.size + len(self.name)

    @property
    def end(self) -> int:
        """The first byte after the entry."""
        return self.data_offset + self.size


def pack_directory(entries: Sequence[StoredEntry]) -> bytes:
    """Build the central directory and the end record that close a container."""
    records = []
    for entry in entries:
        name = entry.name.encode("ascii")
        fields = (_MADE_BY, _VERSION_NEEDED, 0, 0, _DOS_TIME, _DOS_DATE)
        sizes = (entry.crc32, entry.size, entry.size)
        lengths = (len(name), 0, 0, 0, 0)
        record = _CENTRAL.pack(
            _CENTRAL_MAGIC, *fields, *sizes, *lengths, _UNIX_FILE_0644, entry.offset
        )
        records.append(record + name)
    directory = b"".join(records)
    start = entries[-1].end if entries else 0
    count = len(entries)
    end = _END.pack(_END_MAGIC, 0, 0, count, count, len(directory), start, 0)
    return directory + end


def directory_start(end_record: bytes, file_size: int) -> int:
    """Find the central directory from the last `END_SIZE` bytes of the file.

    Raises
    ------
    LayoutError
        No end record is there, or it states impossible numbers.
    """
    magic, _, _, _, count, size, start, _ = _END.unpack(end_record)
    if magic != _END_MAGIC:
        raise LayoutError("the end of the file is missing or changed")
    if count > MAX_ENTRIES:
        raise LayoutError(f"it claims {count} entries; at most {MAX_ENTRIES} are allowed")
    if start + size + END_SIZE != file_size:
        raise LayoutError("its directory does not end where the file ends")
    return int(start)


def parse_directory(tail: bytes, start: int) -> tuple[StoredEntry, ...]:
    """Read the central directory and compare it with the allowed form.

    Parameters
    ----------
    tail
        The file from the central directory to its end.
    start
        The directory's offset in the file.

    Raises
    ------
    LayoutError
        An entry is compressed, unsafely named, doubled or overlapping, or any byte differs from
        the allowed form.
    """
    entries: list[StoredEntry] = []
    taken: set[str] = set()
    position, expected = 0, 0
    while position < len(tail) - END_SIZE:
        if position + _CENTRAL.size > len(tail) - END_SIZE:
            raise LayoutError("its directory is cut short")
        record = _CENTRAL.unpack_from(tail, position)
        method, crc32, size, name_length, offset = (record[i] for i in (4, 7, 9, 10, 16))
        position += _CENTRAL.size
        name = _safe_name(tail[position : position + name_length], taken)
        position += name_length
        if method:
            raise LayoutError(f"entry {name} is compressed; bundles store their entries plainly")
        entry = StoredEntry(name, crc32, size, offset)
        if offset != expected or entry.end > start:
            raise LayoutError(f"entry {name} overlaps another or leaves a gap")
        expected = entry.end
        entries.append(entry)
    if pack_directory(entries) != tail or expected != start:
        raise LayoutError("its directory is not in the form that bundles have")
    return tuple(entries)


def _safe_name(raw: bytes, taken: set[str]) -> str:
    try:
        name = check_entry_name(raw.decode("ascii"))
    except ValueError as err:
        raise LayoutError(f"unsafe entry: {err}") from err
    # Two names that differ in case only would be one file on some systems.
    folded = name.casefold()
    if folded in taken:
        raise LayoutError(f"entry {name} occurs twice")
    taken.add(folded)
    return name
