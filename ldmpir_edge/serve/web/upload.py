"""A scan in a multipart form, written to the state folder while it arrives."""

from __future__ import annotations

from contextlib import ExitStack
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ldmpir_edge.errors import ScanFormatError
from ldmpir_edge.serve.intake import Incoming, Intake

FIELD = b"scan"
MAX_PART_HEADER = 8192


class FormError(ScanFormatError):
    """The request's body is no multipart form with one field `scan`."""


class Upload:
    """One request's form; its methods block on the disk.

    Parameters
    ----------
    intake
        Takes the scan.
    label, origin
        As for `Intake.open`.
    content_type
        The request's header.
    n_bytes
        Announced size of the scan.

    Raises
    ------
    FormError
        `content_type` is not a multipart form's.
    UsageError, OverloadError
        As `Intake.open`.
    """

    def __init__(
        self, intake: Intake, label: str, origin: str | None, content_type: str, n_bytes: int
    ) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:  # RFC 2046, 5.1.1
            raise FormError("the body is no multipart/form-data; send the scan as field scan")
        self._name, self._n_parts, self._complete = "", 0, False
        self._header, self._value, self._disposition = b"", b"", b""
        self._stream: BinaryIO | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._take_header,
                "on_header_value": self._take_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )
        self._stack, self._file = ExitStack(), ExitStack()
        self._incoming: Incoming = self._stack.enter_context(
            intake.open("http", label, origin=origin, n_bytes=n_bytes)
        )
        self._stack.push(self._file)

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body.

        Raises
        ------
        FormError
            It is malformed, or holds another field than one `scan`.
        OverloadError
            As `Incoming.write`.
        """
        try:
            self._parser.write(data)
        except FormParserError as err:
            raise FormError(f"the multipart form is malformed ({err}); send it again") from err

    def finish(self) -> str:
        """Queue the scan; answer the job's id.

        Raises
        ------
        FormError
            The form has not come to its end, or held no scan.
        OverloadError
            As `Incoming.accept`.
        """
        if not self._complete or self._n_parts != 1:
            raise FormError("the form ended without a complete field scan; send it again")
        return self._incoming.accept(self._name)

    def close(self) -> None:
        """Drop what was received and not queued."""
        self._stack.close()

    def _begin(self) -> None:
        self._n_parts += 1
        self._disposition = b""
        if self._n_parts > 1:
            raise FormError("the form holds more than one field; send the scan alone")

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header = self._bounded(self._header + data[start:end])

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value = self._bounded(self._value + data[start:end])

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != FIELD:
            raise FormError("the form's field is not called scan; send the scan as that")
        self._name = options.get(b"filename", b"").decode("utf-8", "replace")
        self._stream = self._file.enter_context(self._incoming.file())

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._stream is not None:
            self._incoming.write(self._stream, memoryview(data)[start:end])

    def _end_part(self) -> None:
        self._file.close()

    def _end(self) -> None:
        self._complete = True

    @staticmethod
    def _bounded(header: bytes) -> bytes:
        if len(header) > MAX_PART_HEADER:
            raise FormError(f"a header of the form is longer than {MAX_PART_HEADER} bytes")
        return header
