"""Where a door listens or a peer is found: `host:port`, on the loopback unless a host is named."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class HostPort:
    """A host name or IP address, and a TCP port; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name other than `localhost` counts as open."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(value: Any) -> HostPort:
    """Read `host:port`, `[ipv6]:port`, `:port` or a port alone.

    Raises
    ------
    ValueError
        It is none of these, or the port is not 0 to 65535.
    """
    if isinstance(value, HostPort):
        return value
    host, _, port = str(value).rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("no address; write IPv6 as [host]:port")
    if not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"no address; write host:port, such as {LOOPBACK}:9002")
    return HostPort(host or LOOPBACK, int(port))


Address = Annotated[HostPort, PlainValidator(parse_address), PlainSerializer(str)]
"""A `HostPort` as a field of the configuration."""
