"""The DICOM door: a storage SCP for MR and CT images.

Source: DICOM PS3.4, annex B (Storage Service Class) and PS3.7, annex C (status codes).
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from ldmpir_edge.errors import LdmpirError, OverloadError, UsageError
from ldmpir_edge.serve.address import HostPort
from ldmpir_edge.serve.config import DicomDoor
from ldmpir_edge.serve.dicom.series import SeriesStore
from ldmpir_edge.serve.tls import server_context

if TYPE_CHECKING:
    from pynetdicom.events import Event

    from ldmpir_edge.serve.appliance import Appliance

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit VR, little endian
    "1.2.840.10008.1.2",  # implicit VR, little endian
    "1.2.840.10008.1.2.5",  # RLE lossless
)
"""What the reader decodes without further libraries. Not deflated data sets: a few kilobytes may be
gigabytes then, and an image's identifiers are read here, where no memory limit holds."""

SUCCESS = 0x0000
NOT_AUTHORISED = 0x0124
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000

MAX_ASSOCIATIONS = 16
MAX_CONNECTIONS = 64
MAX_PDU_BYTES = 2**20
"""Of a PDU that is accepted; 64 KiB is what peers are asked to keep to."""

MAX_OBJECT_BYTES = 512 * 2**20
SILENCE_S, HANDSHAKE_S, STOP_S = 60.0, 10.0, 2.0

_log = logging.getLogger(__name__)


class DicomServer:
    """The door, open from construction on.

    Parameters
    ----------
    appliance
        Running.
    door
        Where to listen, and whom to let in.

    Raises
    ------
    UsageError
        The address is taken or not this machine's, or TLS files cannot be used.
    """

    def __init__(self, appliance: Appliance, door: DicomDoor) -> None:
        self._store = SeriesStore(appliance.intake, appliance.folder, door.quiet_s)
        ae = AE(ae_title=door.ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = list(door.calling_ae_titles)
        ae.maximum_associations = MAX_ASSOCIATIONS
        ae.maximum_pdu_size = 2**16
        ae.acse_timeout = HANDSHAKE_S
        ae.dimse_timeout = ae.network_timeout = SILENCE_S
        ae.add_supported_context(Verification)
        for storage in (MRImageStorage, CTImageStorage):
            ae.add_supported_context(storage, list(TRANSFER_SYNTAXES))
        try:
            self._server = ae.make_server(
                (door.listen.host, door.listen.port),
                ssl_context=server_context(door.tls) if door.tls is not None else None,
                evt_handlers=[
                    (evt.EVT_C_STORE, self._take),
                    (evt.EVT_C_ECHO, lambda _: SUCCESS),
                    (evt.EVT_CONN_CLOSE, self._end),
                ],
                server_class=_Server,
                request_handler=_Handler,
            )
        except OSError as err:
            raise UsageError(
                f"cannot listen on {door.listen}: {err.strerror or err}; choose another address"
            ) from err
        self._server.is_peer = _peer_check(door)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="ldmpir-dicom", daemon=True
        )

    @property
    def address(self) -> HostPort:
        """Where it listens."""
        host, port, *_ = self._server.server_address
        return HostPort(str(host), int(port))

    def start(self) -> None:
        """Let peers in."""
        self._store.start()
        self._thread.start()

    def stop(self) -> None:
        """Close the door and abort what goes on behind it; what was acknowledged stays."""
        if self._thread.is_alive():
            BaseServer.shutdown(self._server)
            self._thread.join()
        self._server.server_close()
        until = time.monotonic() + STOP_S
        for association in self._server.active_associations:
            # An abort would wait for a peer that may be silent.
            with suppress(OSError, AttributeError):
                association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        for association in self._server.active_associations:
            # One that was never established ends by its own timeout.
            association.join(max(until - time.monotonic(), 0.0))
        self._store.stop()

    def _take(self, event: Event) -> int:
        """Answer a C-STORE: success once the image is on the disk."""
        event.assoc.n_received = 0
        try:
            ds = event.dataset
            series = "\n".join(str(ds[k].value) for k in ("StudyInstanceUID", "SeriesInstanceUID"))
            instance = str(event.request.AffectedSOPInstanceUID)
            data = event.encoded_dataset()
        # pydicom raises whatever its parsing runs into: damaged data have no one error class.
        except Exception as err:  # noqa: BLE001
            _log.warning("DICOM image refused", extra={"error": type(err).__name__})
            return CANNOT_UNDERSTAND
        label = str(event.assoc.requestor.ae_title).strip()
        try:
            self._store.store(label, f"{label}\n{series}", instance, data, id(event.assoc))
        except LdmpirError as err:
            _log.warning("DICOM image refused", extra={"error": type(err).__name__})
            return OUT_OF_RESOURCES if isinstance(err, OverloadError) else NOT_AUTHORISED
        except OSError as err:
            _log.error("DICOM image not written", extra={"error": type(err).__name__})
            return OUT_OF_RESOURCES
        return SUCCESS

    def _end(self, event: Event) -> None:
        self._store.end(id(event.assoc))


class _Server(ThreadedAssociationServer):  # type: ignore[misc]
    """Lets peers in only, and leaves the TLS handshake to their own threads."""

    is_peer: Callable[[str], bool]

    def get_request(self) -> tuple[socket.socket, Any]:
        line, address = self.socket.accept()
        line.settimeout(SILENCE_S)
        if self.ssl_context is not None:
            # With the first read: here it would keep everybody else waiting.
            line = self.ssl_context.wrap_socket(
                line, server_side=True, do_handshake_on_connect=False
            )
        return line, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self.active_associations) < MAX_CONNECTIONS and self.is_peer(
            str(client_address[0])
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.warning("DICOM connection failed")


class _Handler(RequestHandler):  # type: ignore[misc]
    """Bounds what is read of a connection into memory."""

    def _create_association(self) -> Any:
        association = super()._create_association()
        association.n_received = 0
        line = association.dul.socket
        read = line.recv

        def recv(n_bytes: int) -> bytearray:
            # The library reads a PDU of any length that the peer states, up to 4 GiB. Less than
            # was asked for means to it that the connection was closed.
            association.n_received += n_bytes
            if n_bytes > MAX_PDU_BYTES or association.n_received > MAX_OBJECT_BYTES:
                return bytearray()
            data: bytearray = read(n_bytes)
            return data

        line.recv = recv
        return association


def _peer_check(door: DicomDoor) -> Callable[[str], bool]:
    def is_peer(host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        return not door.peers or any(address in network for network in door.peers)

    return is_peer
