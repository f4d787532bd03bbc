"""The MRD streaming protocol: what may come when, and how long it may be.

Each message is a little-endian u16 and its payload. Source: the message table of the project's
REFERENCE.md, section 3; ismrmrd/ismrmrd, include/ismrmrd/ismrmrd.h and waveform.h for the headers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, IntEnum

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.scans.limits import MAX_COILS
from ldmpir_edge.scans.mrd_header import MAX_HEADER_CHARACTERS

CONFIG_NAME_BYTES = 1024
WAVEFORM_HEAD_BYTES = 40

MAX_CONFIG_BYTES = 2**20
MAX_TEXT_BYTES = 2**16
MAX_LINE_SAMPLES = 2**24
"""Complex samples of one acquisition over all coils: 128 MiB."""

MAX_TRAJECTORY_DIMENSIONS = 16
MAX_LABEL = 64

U16, U32, U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_PIECE = 2**20
_WAVEFORM_COUNTS = struct.Struct("<HH")
_WAVEFORM_COUNTS_AT = 28

Read = Callable[[int], bytes]
"""Reads exactly so many bytes."""


class Message(IntEnum):
    """Identifiers of the messages."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ACQUISITION = 1008
    IMAGE = 1022
    WAVEFORM = 1026


class Stage(Enum):
    """How far a connection has come."""

    START = "before the configuration"
    CONFIGURED = "before the XML header"
    OPEN = "among the data"
    CLOSED = "after the close"


NEXT_STAGE: Mapping[tuple[Stage, Message], Stage] = {
    (Stage.START, Message.CONFIG_FILE): Stage.CONFIGURED,
    (Stage.START, Message.CONFIG_TEXT): Stage.CONFIGURED,
    (Stage.START, Message.TEXT): Stage.START,
    (Stage.START, Message.CLOSE): Stage.CLOSED,
    (Stage.CONFIGURED, Message.HEADER): Stage.OPEN,
    (Stage.CONFIGURED, Message.TEXT): Stage.CONFIGURED,
    (Stage.CONFIGURED, Message.CLOSE): Stage.CLOSED,
    (Stage.OPEN, Message.ACQUISITION): Stage.OPEN,
    (Stage.OPEN, Message.WAVEFORM): Stage.OPEN,
    (Stage.OPEN, Message.TEXT): Stage.OPEN,
    (Stage.OPEN, Message.CLOSE): Stage.CLOSED,
}
"""Where a message leads; what is not listed is refused."""


def read_message(read: Read, stage: Stage) -> tuple[Message, Stage]:
    """Read the identifier of the next message; answer it and the stage that follows.

    Raises
    ------
    ScanFormatError
        There is no such message, or it may not come now.
    """
    number = U16.unpack(read(U16.size))[0]
    try:
        message = Message(number)
        return message, NEXT_STAGE[stage, message]
    except (ValueError, KeyError) as err:
        raise ScanFormatError(
            f"MRD message {number} {stage.value} is not part of the protocol; send a "
            "configuration, the XML header, acquisitions, then close"
        ) from err


def read_text(read: Read, largest: int, what: str) -> bytes:
    """Read a text with its u32 length.

    Raises
    ------
    ScanFormatError
        It is longer than `largest` bytes.
    """
    length = U32.unpack(read(U32.size))[0]
    if length > largest:
        raise ScanFormatError(f"the MRD {what} has {length} bytes; at most {largest} are taken")
    return read(length)


def read_header(read: Read) -> bytes:
    """Read the XML header, as `read_text` does."""
    return read_text(read, MAX_HEADER_CHARACTERS, "XML header")


def read_label(read: Read) -> str:
    """Read the configuration's name, which selects a route and is used for nothing else."""
    name = read(CONFIG_NAME_BYTES).partition(b"\0")[0].decode("ascii", "replace").strip()
    return "".join(c for c in name if c.isprintable())[:MAX_LABEL]


def line_sizes(n_samples: int, n_coils: int, n_dimensions: int) -> tuple[int, int]:
    """Give the bytes of an acquisition's trajectory and samples, checked before they are read.

    Raises
    ------
    ScanDataError
        It has more samples, coils or dimensions than any scan.
    """
    if (
        n_coils > MAX_COILS
        or n_dimensions > MAX_TRAJECTORY_DIMENSIONS
        or n_samples * n_coils > MAX_LINE_SAMPLES
    ):
        raise ScanDataError(
            f"an MRD acquisition of {n_coils} coils, {n_samples} samples and {n_dimensions} "
            f"trajectory dimensions is larger than the {MAX_LINE_SAMPLES} samples that are taken"
        )
    return 4 * n_samples * n_dimensions, 8 * n_samples * n_coils


def skip_waveform(read: Read) -> None:
    """Read a waveform, which no reconstruction here uses.

    Raises
    ------
    ScanDataError
        It is longer than any.
    """
    head = read(WAVEFORM_HEAD_BYTES)
    n_samples, n_channels = _WAVEFORM_COUNTS.unpack_from(head, _WAVEFORM_COUNTS_AT)
    if n_samples * n_channels > MAX_LINE_SAMPLES:
        raise ScanDataError(f"an MRD waveform has {n_samples} samples of {n_channels} channels")
    for _ in read_pieces(read, 4 * n_samples * n_channels):
        pass


def read_pieces(read: Read, n_bytes: int) -> Iterator[bytes]:
    """Read so many bytes, piece by piece: nobody holds more than one."""
    for start in range(0, n_bytes, _PIECE):
        yield read(min(_PIECE, n_bytes - start))


def text_message(text: str) -> bytes:
    """Give a text message."""
    data = text.encode()[:MAX_TEXT_BYTES]
    return U16.pack(Message.TEXT) + U32.pack(len(data)) + data


def close_message() -> bytes:
    """Give the message that ends a connection."""
    return U16.pack(Message.CLOSE)
