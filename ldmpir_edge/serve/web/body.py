"""The body of a request, piece by piece, and how to get rid of one that is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

SILENCE_S = 60.0
"""How long a client may send nothing in the middle of a body."""

MAX_DISCARDED = 32 * 2**20
MAX_DISCARD_S = 10.0


class Body:
    """The body of one request.

    Parameters
    ----------
    receive, headers
        The request's.
    """

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._more = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._asked = "expect" not in headers

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises
        ------
        ClientDisconnect
            The client has gone.
        TimeoutError
            It sent nothing for too long.
        """
        while self._more:
            yield await self._next(SILENCE_S)

    async def discard(
        self, max_bytes: int = MAX_DISCARDED, max_seconds: float = MAX_DISCARD_S
    ) -> None:
        """Read what is still being sent and not wanted, within limits: then the answer is read.

        Closing a connection with unread data resets it, and the client never learns why. One that
        waits for permission to send (RFC 9110, 10.1.1) gets its answer at once.
        """
        until, n_bytes = time.monotonic() + max_seconds, 0
        try:
            while self._asked and self._more and n_bytes <= max_bytes:
                n_bytes += len(await self._next(max(until - time.monotonic(), 0.0)))
        except (TimeoutError, ClientDisconnect):
            self._more = False

    async def _next(self, timeout_s: float) -> bytes:
        self._asked = True
        message = await asyncio.wait_for(self._receive(), timeout_s)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece
