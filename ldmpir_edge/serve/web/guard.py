"""Who may ask, how often, and what every answer says to a browser."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ldmpir_edge.serve.config import HttpDoor
from ldmpir_edge.serve.tokens import find_name
from ldmpir_edge.serve.web.body import Body

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Asked by machines that hold no token; they say one word."""

_MAX_CLIENTS = 4096
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; img-src 'self'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class Guard:
    """Refuses a request before anything of it is looked at.

    The name of the token, or an empty string where none is needed, is left in the request's
    state as `client`.

    Parameters
    ----------
    app
        What answers the requests that pass.
    door
        Peers, tokens and the rate.
    clock
        Gives seconds.
    """

    def __init__(
        self, app: ASGIApp, door: HttpDoor, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app, self._door = app, door
        self._rate = RateLimit(door.requests_per_minute, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = str((scope.get("client") or ("", 0))[0])
        headers = Headers(scope=scope)
        client, refusal = self._examine(scope, headers, host)
        if refusal is None and not self._rate.allows(client or host):
            refusal = HTTPStatus.TOO_MANY_REQUESTS
        if refusal is not None:
            await Body(receive, headers).discard()
            await _refuse(refusal, send_guarded)
            return
        scope.setdefault("state", {})["client"] = client
        await self._app(scope, receive, send_guarded)

    def _examine(self, scope: Scope, headers: Headers, host: str) -> tuple[str, HTTPStatus | None]:
        """Answer the name of the token, and why the request is refused or None."""
        if not self._is_peer(host) or not self._is_same_site(headers):
            return "", HTTPStatus.FORBIDDEN
        if not self._door.tokens or scope["path"] in OPEN_PATHS:
            return "", None
        token = _token(headers.get("authorization", ""))
        name = find_name(token, self._door.tokens) if token is not None else None
        return name or "", None if name else HTTPStatus.UNAUTHORIZED

    def _is_peer(self, host: str) -> bool:
        if not self._door.peers:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._door.peers)

    def _is_same_site(self, headers: Headers) -> bool:
        """Tell a request of our own page from one that another site's page makes a browser send.

        A page elsewhere may post forms to the loopback, or have its name resolve to it; the
        browser then says where the page is from (RFC 6454), or names another host than ours.
        """
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return False
        if self._door.listen.is_loopback and not self._door.tokens:
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
            return name.strip("[]") in {"localhost", "127.0.0.1", "::1", self._door.listen.host}
        return True


class RateLimit:
    """So many requests a minute from each client, with a minute's worth at once.

    Parameters
    ----------
    per_minute
        How many.
    clock
        Gives seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, client: str) -> bool:
        """Count a request, and answer whether it is within the limit."""
        now = self._clock()
        left, since = self._left.pop(client, (float(self._per_minute), now))
        left = min(left + (now - since) * self._per_minute / 60.0, float(self._per_minute))
        allowed = left >= 1.0
        self._left[client] = (left - 1.0 if allowed else left, now)
        if len(self._left) > _MAX_CLIENTS:
            self._left.popitem(last=False)
        return allowed


def _token(authorization: str) -> str | None:
    """Read a bearer token, or the password of basic authentication, which browsers ask for."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


async def _refuse(status: HTTPStatus, send: Send) -> None:
    extra: Mapping[HTTPStatus, tuple[bytes, bytes]] = {
        HTTPStatus.UNAUTHORIZED: (b"www-authenticate", b'Basic realm="ldmpir-edge"'),
        HTTPStatus.TOO_MANY_REQUESTS: (b"retry-after", b"60"),
    }
    body = json.dumps({"detail": status.phrase}).encode()
    headers: list[Any] = [(b"content-type", b"application/json")]
    headers += [extra[status]] if status in extra else []
    # Some of the request's body may never be read: the connection cannot be used again.
    headers += [(b"connection", b"close"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
