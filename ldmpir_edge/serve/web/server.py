"""The HTTP door's thread: uvicorn on a socket that is open before it starts."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from ldmpir_edge.serve.address import HostPort
from ldmpir_edge.serve.config import HttpDoor
from ldmpir_edge.serve.listening import listen
from ldmpir_edge.serve.tls import server_context
from ldmpir_edge.serve.web.api import build_app
from ldmpir_edge.serve.web.guard import Guard
from ldmpir_edge.serve.web.pages import add_pages
from ldmpir_edge.serve.web.prompt_protocol import MAX_CONNECTIONS, PromptProtocol

if TYPE_CHECKING:
    from ldmpir_edge.serve.appliance import Appliance

STOP_S = 5


class HttpServer:
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

    def __init__(self, appliance: Appliance, door: HttpDoor) -> None:
        app = build_app(appliance)
        add_pages(app, appliance)
        config = uvicorn.Config(
            Guard(app, door),
            loop="asyncio",
            http=PromptProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            # No header of a request says where it is from: only its connection does.
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_S,
        )
        config.load()
        if door.tls is not None:
            config.ssl = server_context(door.tls)
        self._socket: socket.socket = listen(door.listen)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="ldmpir-http", daemon=True)

    @property
    def address(self) -> HostPort:
        """Where it listens."""
        host, port, *_ = self._socket.getsockname()
        return HostPort(host, port)

    def start(self) -> None:
        """Answer requests."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the requests under way, for a few seconds, and close the door."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])
