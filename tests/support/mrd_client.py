"""The client side of an MRD stream, written from the description of the protocol.

It shares no code with the server: messages are built with `struct`, acquisitions and images are
the `ismrmrd` package's.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import ismrmrd

CONFIG_FILE, CONFIG_TEXT, HEADER, CLOSE, TEXT = 1, 2, 3, 4, 5
ACQUISITION, IMAGE, WAVEFORM = 1008, 1022, 1026


@dataclass
class Answer:
    """What came back up to the close, or up to the end of the connection."""

    images: list[ismrmrd.Image] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    closed: bool = False


class MrdClient:
    """A connection to a server."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=90)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def config(self, name: str) -> None:
        self.send(struct.pack("<H1024s", CONFIG_FILE, name.encode()))

    def config_text(self, text: str) -> None:
        self.send(struct.pack("<HI", CONFIG_TEXT, len(text)) + text.encode())

    def header(self, xml: bytes) -> None:
        self.send(struct.pack("<HI", HEADER, len(xml)) + xml)

    def text(self, text: str) -> None:
        self.send(struct.pack("<HI", TEXT, len(text)) + text.encode())

    def acquisition(self, acquisition: ismrmrd.Acquisition) -> None:
        parts = [struct.pack("<H", ACQUISITION)]
        acquisition.serialize_into(lambda part: parts.append(bytes(part)))
        self.send(b"".join(parts))

    def waveform(self, n_channels: int, n_samples: int) -> None:
        waveform = ismrmrd.Waveform.from_array(
            __import__("numpy").zeros((n_channels, n_samples), "uint32")
        )
        parts = [struct.pack("<H", WAVEFORM)]
        waveform.serialize_into(lambda part: parts.append(bytes(part)))
        self.send(b"".join(parts))

    def close(self) -> None:
        self.send(struct.pack("<H", CLOSE))

    def receive(self) -> Answer:
        answer = Answer()
        while (head := self._read(2, may_end=True)) is not None:
            (kind,) = struct.unpack("<H", head)
            if kind == CLOSE:
                answer.closed = True
            elif kind == TEXT:
                answer.texts.append(self._exactly(self._u32()).decode())
            elif kind == IMAGE:
                answer.images.append(ismrmrd.Image.deserialize_from(self._exactly))
            else:
                raise AssertionError(f"the server sent message {kind}")
        return answer

    def _u32(self) -> int:
        (value,) = struct.unpack("<I", self._exactly(4))
        return int(value)

    def _exactly(self, n_bytes: int) -> bytes:
        data = self._read(n_bytes)
        assert data is not None
        return data

    def _read(self, n_bytes: int, *, may_end: bool = False) -> bytes | None:
        data = b""
        while len(data) < n_bytes:
            more = self._socket.recv(n_bytes - len(data))
            if not more:
                assert may_end and not data, "the connection ended in the middle of a message"
                return None
            data += more
        return data


def read_file(path: Path) -> tuple[bytes, list[ismrmrd.Acquisition]]:
    """Read an ISMRMRD file's XML header and acquisitions with the reference package."""
    with ismrmrd.Dataset(str(path), "dataset", mode="r") as dataset:
        lines = [dataset.read_acquisition(i) for i in range(dataset.number_of_acquisitions())]
        return dataset.read_xml_header(), lines


def send_scan(
    client: MrdClient, xml: bytes, lines: Iterable[ismrmrd.Acquisition], config: str = "default"
) -> None:
    """Send a whole scan, as a scanner does."""
    client.config(config)
    client.header(xml)
    for line in lines:
        client.acquisition(line)
    client.close()
