"""A scan off an MRD connection and into the queue."""

from __future__ import annotations

import shutil
from typing import BinaryIO

import numpy as np

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.scans.limits import MAX_ACQUISITIONS
from ldmpir_edge.scans.mrd_spool import ACQUISITION_HEAD, SPOOL_MAGIC, spool_trailer
from ldmpir_edge.serve.intake import Incoming, Intake
from ldmpir_edge.serve.mrd.protocol import (
    MAX_CONFIG_BYTES,
    MAX_TEXT_BYTES,
    Message,
    Read,
    Stage,
    line_sizes,
    read_header,
    read_label,
    read_message,
    read_pieces,
    read_text,
    skip_waveform,
)

_HEADS = "heads"


def receive_scan(read: Read, intake: Intake) -> str | None:
    """Read messages up to the close, and queue the scan.

    Parameters
    ----------
    read
        Reads exactly so many bytes off the connection.
    intake
        Takes the scan.

    Returns
    -------
        The job's id, or None where the client closed without sending a scan.

    Raises
    ------
    ScanError
        What came is not the protocol's, or larger than any scan.
    UsageError, OverloadError
        As `Intake.open` and `Incoming.write`.
    """
    stage, label = Stage.START, ""
    while stage is not Stage.OPEN:
        message, stage = read_message(read, stage)
        if stage is Stage.CLOSED:
            return None
        if message is Message.CONFIG_FILE:
            label = read_label(read)
        elif message is Message.CONFIG_TEXT:
            # Its length is bounded and its content is nobody's business here.
            read_text(read, MAX_CONFIG_BYTES, "configuration")
        elif message is Message.TEXT:
            read_text(read, MAX_TEXT_BYTES, "text")
        else:
            xml = read_header(read)
    with intake.open("mrd", label) as incoming:
        n_lines = _spool(read, incoming, xml)
        return incoming.accept(label or "mrd") if n_lines else None


def _spool(read: Read, incoming: Incoming, xml: bytes) -> int:
    """Write the acquisitions that come before the close; answer how many."""
    with incoming.file() as stream, incoming.file(_HEADS) as heads:
        incoming.write(stream, SPOOL_MAGIC)
        n_lines = 0
        while True:
            message, stage = read_message(read, Stage.OPEN)
            if stage is Stage.CLOSED:
                break
            if message is Message.ACQUISITION:
                n_lines += 1
                if n_lines > MAX_ACQUISITIONS:
                    raise ScanDataError(f"more than {MAX_ACQUISITIONS} MRD acquisitions")
                _spool_line(read, incoming, stream, heads)
            elif message is Message.WAVEFORM:
                skip_waveform(read)
            else:
                read_text(read, MAX_TEXT_BYTES, "text")
        n_sample_bytes = stream.tell() - len(SPOOL_MAGIC)
        incoming.write(stream, xml)
        incoming.reserve(heads.tell())
        heads.seek(0)
        shutil.copyfileobj(heads, stream)
        incoming.write(stream, spool_trailer(n_sample_bytes, xml, n_lines))
    (incoming.payload / _HEADS).unlink()
    return n_lines


def _spool_line(read: Read, incoming: Incoming, stream: BinaryIO, heads: BinaryIO) -> None:
    head = read(ACQUISITION_HEAD.itemsize)
    fields = np.frombuffer(head, ACQUISITION_HEAD)[0]
    n_trajectory, n_samples = line_sizes(
        int(fields["number_of_samples"]),
        int(fields["active_channels"]),
        int(fields["trajectory_dimensions"]),
    )
    for _ in read_pieces(read, n_trajectory):
        pass
    incoming.write(heads, head)
    for piece in read_pieces(read, n_samples):
        incoming.write(stream, piece)
