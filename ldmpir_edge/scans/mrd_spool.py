"""A received MRD stream on disk: written as it arrives, read like an ISMRMRD file.

An own format, since HDF5 costs more time to write than a stream has. All numbers are
little-endian: 16 bytes magic; the samples of one acquisition after the other, complex64; the XML
header; the acquisitions' headers of 340 bytes; and the trailer: four u64 (where the XML lies and
how long it is, where the headers lie and how many there are) and the magic again. Trajectories
are left out, as only Cartesian scans can be read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanFormatError
from ldmpir_edge.scans.ismrmrd_file import IsmrmrdScan, open_lines
from ldmpir_edge.scans.ismrmrd_lines import Lines
from ldmpir_edge.scans.limits import MAX_ACQUISITIONS, check_count
from ldmpir_edge.scans.mrd_header import MAX_HEADER_CHARACTERS, parse_mrd_header

SPOOL_MAGIC = b"ldmpir-mrd-spool"

ACQUISITION_HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("number_of_samples", "<u2"),
        ("available_channels", "<u2"),
        ("active_channels", "<u2"),
        ("channel_mask", "<u8", (16,)),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("patient_table_position", "<f4", (3,)),
        (
            "idx",
            [
                ("kspace_encode_step_1", "<u2"),
                ("kspace_encode_step_2", "<u2"),
                ("average", "<u2"),
                ("slice", "<u2"),
                ("contrast", "<u2"),
                ("phase", "<u2"),
                ("repetition", "<u2"),
                ("set", "<u2"),
                ("segment", "<u2"),
                ("user", "<u2", (8,)),
            ],
        ),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)
"""Source: ismrmrd/ismrmrd, include/ismrmrd/ismrmrd.h, ISMRMRD_AcquisitionHeader; 340 bytes."""

_TRAILER = struct.Struct("<4Q16s")
_SAMPLE_BYTES = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class SpooledLines(Lines):
    """Lines in a spool: `samples_f4` is all of it as float32, `ends` where each line ends."""

    samples_f4: NDArray[np.float32]
    ends: NDArray[np.int64]

    def _read(self, indices: NDArray[np.intp]) -> Iterable[NDArray[np.float32]]:
        for index in indices:
            start = int(self.ends[index - 1]) if index else 0
            yield np.array(self.samples_f4[start : int(self.ends[index])])


def spool_trailer(n_sample_bytes: int, xml: bytes, n_heads: int) -> bytes:
    """Give the end of a spool, which follows its samples, XML and headers."""
    xml_at = len(SPOOL_MAGIC) + n_sample_bytes
    return _TRAILER.pack(xml_at, len(xml), xml_at + len(xml), n_heads, SPOOL_MAGIC)


@contextmanager
def open_spool(path: Path) -> Iterator[IsmrmrdScan]:
    """Open a spool; its slices can be read until the block ends.

    Raises
    ------
    ScanFormatError
        It is not complete, or its parts contradict each other.
    ScanDataError
        As `open_lines`.
    """
    with path.open("rb") as stream:
        xml, heads, n_sample_bytes = _read_parts(path, stream)
        header = parse_mrd_header(path, xml)
        counts = heads["number_of_samples"].astype(np.int64) * heads["active_channels"]
        ends = np.cumsum(counts * 2)
        if int(ends[-1]) * 4 != n_sample_bytes:
            raise _damaged(path, "its headers declare another number of samples than it holds")
        # Of a file without samples there is nothing to map.
        samples: NDArray[np.float32] = np.empty(0, np.float32)
        if n_sample_bytes:
            samples = np.memmap(
                stream, "<f4", "r", offset=len(SPOOL_MAGIC), shape=(n_sample_bytes // 4,)
            )
        lines = SpooledLines(path=path, heads=heads, samples_f4=samples, ends=ends)
        with open_lines(path, header, lines) as scan:
            yield scan


def _read_parts(path: Path, stream: BinaryIO) -> tuple[str, NDArray[np.void], int]:
    size = stream.seek(0, 2)
    if size < len(SPOOL_MAGIC) + _TRAILER.size:
        raise _damaged(path, "it ends too early")
    stream.seek(size - _TRAILER.size)
    xml_at, n_xml, heads_at, n_heads, magic = _TRAILER.unpack(stream.read(_TRAILER.size))
    if (
        magic != SPOOL_MAGIC
        or xml_at < len(SPOOL_MAGIC)
        or heads_at != xml_at + n_xml
        or size != heads_at + n_heads * ACQUISITION_HEAD.itemsize + _TRAILER.size
    ):
        raise _damaged(path, "it ends too early, or its parts overlap")
    check_count(path, "the number of acquisitions", n_heads, MAX_ACQUISITIONS)
    if n_xml > MAX_HEADER_CHARACTERS:
        raise _damaged(path, f"its XML header has {n_xml} bytes")
    stream.seek(xml_at)
    try:
        xml = stream.read(n_xml).decode("utf-8")
    except UnicodeDecodeError as err:
        raise _damaged(path, "its XML header is not UTF-8") from err
    heads = np.fromfile(stream, ACQUISITION_HEAD, n_heads)
    return xml, heads, xml_at - len(SPOOL_MAGIC)


def _damaged(path: Path, why: str) -> ScanFormatError:
    return ScanFormatError(f"{path}: not a complete MRD stream: {why}; send the scan again")
