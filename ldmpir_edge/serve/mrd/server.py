"""The MRD door's threads: one that accepts, and one a connection."""

from __future__ import annotations

import ipaddress
import logging
import select
import socket
import sqlite3
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ldmpir_edge.errors import LdmpirError
from ldmpir_edge.serve.address import HostPort
from ldmpir_edge.serve.config import MrdDoor
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.listening import listen
from ldmpir_edge.serve.mrd.protocol import close_message, text_message
from ldmpir_edge.serve.mrd.receive import receive_scan
from ldmpir_edge.serve.tls import server_context
from ldmpir_edge.serve.work import REPLY

if TYPE_CHECKING:
    from ldmpir_edge.serve.appliance import Appliance

MAX_CONNECTIONS = 32
IDLE_S = 300.0
"""How long a client may send nothing, or not take what is sent to it."""

HANDSHAKE_S = 10.0
LINGER_S = 5.0
LOOK_S = 1.0
"""How often a client that waits for its images is looked after."""

KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}
"""Seconds of silence after which a client's machine is asked whether it is there, between two
questions, and how many of them go unanswered (tcp(7))."""

MAX_DISCARDED = 64 * 2**20

_CHUNK = 2**20
_log = logging.getLogger(__name__)


class MrdServer:
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

    def __init__(self, appliance: Appliance, door: MrdDoor) -> None:
        self._appliance, self._door = appliance, door
        self._tls = server_context(door.tls) if door.tls is not None else None
        self._socket = listen(door.listen)
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._waiting: dict[_Line, None] = {}  # for their images, the longest first
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="ldmpir-mrd", daemon=True)

    @property
    def address(self) -> HostPort:
        """Where it listens."""
        host, port, *_ = self._socket.getsockname()
        return HostPort(host, port)

    def start(self) -> None:
        """Let clients in."""
        self._thread.start()

    def stop(self) -> None:
        """Close the door and all connections; scans that were not closed yet are dropped."""
        self._stopping.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            open_now = dict(self._connections)
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in open_now.values():
            thread.join()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, peer = self._socket.accept()
            except OSError:
                if self._stopping.is_set():
                    return
                time.sleep(1.0)  # out of descriptors: some will be given back
                continue
            with self._lock:
                if not self._is_peer(peer[0]):
                    connection.close()
                    continue
                if not self._has_place():
                    _log.warning("MRD connection refused", extra={"open": len(self._connections)})
                    connection.close()
                    continue
                thread = threading.Thread(
                    target=self._serve, args=(connection,), name="ldmpir-mrd-client", daemon=True
                )
                try:
                    thread.start()  # it waits for the lock before it lets go of its place
                except RuntimeError:  # no more threads: some will end
                    connection.close()
                    continue
                self._connections[connection] = thread

    def _has_place(self) -> bool:
        """Say whether one more may come, if need be in the place of one that has hung up.

        Who has sent a scan may close its own half and wait for the images, so that nobody is
        turned out for that alone.
        """
        if len(self._connections) < MAX_CONNECTIONS:
            return True
        for line in self._waiting:
            if line.has_hung_up(getattr(select, "POLLRDHUP", 0)):  # Linux alone tells
                del self._waiting[line]
                line.cut()
                return True
        return False

    def _is_peer(self, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        return not self._door.peers or any(address in network for network in self._door.peers)

    def _serve(self, connection: socket.socket) -> None:
        line = connection
        try:
            line = self._secured(connection)
            with line:
                line.settimeout(IDLE_S)
                with suppress(OSError):
                    _keep_alive(line)
                self._converse(_Line(line))
        except EOFError:
            pass  # the client has gone; what it sent whole is in the queue
        except OSError as err:
            _log.warning("MRD connection failed", extra={"error": type(err).__name__})
        finally:
            with self._lock:
                del self._connections[line]
            connection.close()

    def _secured(self, connection: socket.socket) -> socket.socket:
        if self._tls is None:
            return connection
        connection.settimeout(HANDSHAKE_S)
        line = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            # Wrapping took the descriptor: only the new socket can be shut down by `stop`.
            self._connections[line] = self._connections.pop(connection)
        try:
            line.do_handshake()
        except OSError as err:
            with self._lock:
                self._connections[connection] = self._connections.pop(line)
            line.close()
            raise EOFError from err
        return line

    def _converse(self, line: _Line) -> None:
        try:
            job_id = receive_scan(line.read, self._appliance.intake)
        except (LdmpirError, OSError, sqlite3.Error) as err:
            _log.warning("MRD scan refused", extra={"error": type(err).__name__})
            told = str(err) if isinstance(err, LdmpirError) else "the scan could not be stored"
            line.send(text_message(told) + close_message())
            line.linger()
            return
        if job_id is not None:
            job = self._wait(job_id, line)
            if job is None:
                return
            self._answer(line, job)
        line.send(close_message())
        line.linger()

    def _wait(self, job_id: str, line: _Line) -> Job | None:
        """Wait until a job has ended; None where the appliance stops or the client goes before."""
        with self._lock:
            self._waiting[line] = None
        try:
            with self._appliance.notices.of(job_id) as wait:
                while not self._stopping.is_set() and not line.has_hung_up():
                    job = self._appliance.queue.get(job_id)
                    if job is None or job.finished is not None:
                        return job
                    wait(LOOK_S)
        finally:
            with self._lock:
                self._waiting.pop(line, None)
        return None

    def _answer(self, line: _Line, job: Job) -> None:
        path = self._appliance.supervisor.result(job).parent / REPLY
        if job.state == "failed" or not path.is_file():
            line.send(text_message(f"there is no image: {job.reason}"))
            return
        if job.reason is not None:
            line.send(text_message(f"the classical image is delivered: {job.reason}"))
        line.send_file(path)


def _keep_alive(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):  # Linux; elsewhere the system's own times hold
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Line:
    """A connection that reads exactly, and parts so that the last word is heard."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def read(self, n_bytes: int) -> bytes:
        """Read `n_bytes`, which are checked by the caller before.

        Raises
        ------
        EOFError
            The client has gone.
        """
        buffer = bytearray(n_bytes)
        view, n_read = memoryview(buffer), 0
        while n_read < n_bytes:
            try:
                n_more = self._line.recv_into(view[n_read:])
            except OSError as err:  # of the line: those of the disk are another matter
                raise EOFError from err
            if n_more == 0:
                raise EOFError
            n_read += n_more
        return bytes(buffer)

    def send(self, data: bytes) -> None:
        """Send all of `data`.

        Raises
        ------
        EOFError
            The client has gone.
        """
        try:
            self._line.sendall(data)
        except OSError as err:
            raise EOFError from err

    def send_file(self, path: Path) -> None:
        """Send a file's content."""
        with path.open("rb") as stream:
            while data := stream.read(_CHUNK):
                self.send(data)

    def has_hung_up(self, also: int = 0) -> bool:
        """Say whether it has ended in both directions, or has seen what `also` names."""
        poll = select.poll()
        try:
            poll.register(self._line, also)
        except ValueError:  # closed here
            return True
        return bool(poll.poll(0))

    def cut(self) -> None:
        """End it in both directions."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def linger(self) -> None:
        """Say that nothing follows, and read what is still being sent, within limits.

        Closing with unread data resets the connection, and what was sent last is lost.
        """
        until, n_bytes = time.monotonic() + LINGER_S, 0
        with suppress(OSError, ValueError):  # all was said: it may leave as it likes
            if isinstance(self._line, ssl.SSLSocket):
                self._line.settimeout(LINGER_S)
                self._line.unwrap()
                return
            self._line.shutdown(socket.SHUT_WR)
            while n_bytes < MAX_DISCARDED and (left := until - time.monotonic()) > 0:
                self._line.settimeout(left)
                data = self._line.recv(_CHUNK)
                if not data:
                    return
                n_bytes += len(data)
