"""The front's end of the worker: its process, and the socket between them."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmpir_edge.errors import LdmpirError

if TYPE_CHECKING:
    # The first worker is started before anything of this is imported here.
    from ldmpir_edge.serve.config import ServeConfig
    from ldmpir_edge.serve.work import Order

_CHUNK = 65536


class WorkerLostError(LdmpirError):
    """The worker's process ended, or fell silent and was ended."""


class WorkerProcess:
    """A running worker, which imports what it needs and then waits for its configuration."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        self._received = b""
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                [
                    *(sys.executable, "-m", "ldmpir_edge.serve.worker"),
                    *(str(theirs.fileno()), str(os.getpid())),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def configure(self, config: ServeConfig, latencies: Path) -> None:
        """Have it load its engines.

        Parameters
        ----------
        config
            Sent to it as it is.
        latencies
            File of its measured times.

        Raises
        ------
        WorkerLostError
            The process has ended.
        """
        self._send({"config": config.model_dump(mode="json"), "latencies": str(latencies)})

    def fileno(self) -> int:
        """Give the socket's descriptor, to wait for messages."""
        return self._line.fileno()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def order(self, order: Order) -> None:
        """Send an order.

        Raises
        ------
        WorkerLostError
            The process has ended.
        """
        self._send(asdict(order))

    def has_message(self, timeout_s: float) -> bool:
        """Wait until `receive` has something to say, or for `timeout_s`."""
        if b"\n" in self._received:
            return True  # it came together with the one before
        return bool(select.select([self._line], [], [], timeout_s)[0])

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the next message.

        Raises
        ------
        WorkerLostError
            The process has ended, or said nothing for `timeout_s`.
        """
        until = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._line], [], [], max(until - time.monotonic(), 0.0))
            if not ready:
                raise WorkerLostError(f"the engine's process was silent for {timeout_s:.0f} s")
            try:
                data = self._line.recv(_CHUNK)
            except ConnectionError:
                data = b""
            if not data:
                raise WorkerLostError(f"the engine's process ended {self._ending()}")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def end(self) -> None:
        """End the process, whatever it is doing, and wait until it has; once is enough."""
        self._line.close()
        self._process.kill()
        self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._line.sendall(json.dumps(message).encode() + b"\n")
        except OSError as err:
            raise WorkerLostError(f"the engine's process ended {self._ending()}") from err

    def _ending(self) -> str:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "its connection"
        return f"by signal {-code}" if code < 0 else f"with code {code}"
