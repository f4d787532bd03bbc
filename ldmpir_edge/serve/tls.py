"""TLS for the listening doors and the connections to a PACS."""

from __future__ import annotations

import ssl

from ldmpir_edge.errors import UsageError
from ldmpir_edge.serve.config import Tls


def server_context(tls: Tls) -> ssl.SSLContext:
    """Make the context of a listening door; with `client_ca` peers must show a certificate.

    Raises
    ------
    UsageError
        A file cannot be read or does not hold what it should.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load(context, tls)
    if tls.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """Make the context of a connection: ours shows `certificate`, the peer's must be trusted.

    The peer is trusted by `client_ca`, or by the system's authorities without it.

    Raises
    ------
    UsageError
        As `server_context`.
    """
    if tls.client_ca is None:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    else:
        # The default context would hold the system's authorities as well.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, tls)
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.client_ca is not None:
            context.load_verify_locations(tls.client_ca)
    except (OSError, ssl.SSLError) as err:
        raise UsageError(
            f"cannot use the TLS files {tls.certificate}, {tls.key} or {tls.client_ca}: {err}; "
            "give PEM files that this user may read"
        ) from err
