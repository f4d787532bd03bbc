"""HTTP connections that must say what they want: uvicorn itself waits for ever for a header."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_S = 10.0
"""How long a request's header may take, from the connection or from its first byte."""

MAX_CONNECTIONS = 128


class PromptProtocol(H11Protocol):
    """Drops connections over `MAX_CONNECTIONS`, and those whose header has not come in time.

    Silent connections, which cost a stranger nothing, would else use up the process's descriptors.
    """

    _header_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Let a client in, if there is room."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._wait_for_header()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait_for_header()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a client that has gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_header(self) -> None:
        if self._header_due is None:
            self._header_due = self.loop.call_later(HEADER_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._header_due is not None:
            self._header_due.cancel()
            self._header_due = None
