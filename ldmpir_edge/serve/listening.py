"""A listening socket, or one line that says why there is none."""

from __future__ import annotations

import socket

from ldmpir_edge.errors import UsageError
from ldmpir_edge.serve.address import HostPort


def listen(address: HostPort) -> socket.socket:
    """Open a listening TCP socket.

    Raises
    ------
    UsageError
        The address is taken, needs privileges or is not this machine's.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as err:
        raise UsageError(
            f"cannot listen on {address}: {err.strerror or err}; choose another address"
        ) from err
