"""TLS and mutual TLS on the HTTP door."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
from certificates import Authority
from running_appliance import running

from ldmpir_edge.errors import UsageError
from ldmpir_edge.serve.config import Tls
from ldmpir_edge.serve.tls import client_context, server_context


def test_only_peers_with_a_certificate_are_heard(tmp_path: Path) -> None:
    ours, theirs = (Authority(tmp_path / "pki", name) for name in ("ours", "theirs"))
    certificate, key = ours.issue("appliance")
    tls = {"certificate": certificate, "key": key, "client_ca": ours.ca}
    with running(tmp_path, http={"listen": "127.0.0.1:0", "tls": tls}) as appliance:
        url = f"https://{appliance.open_doors['http']}/healthz"

        def ask(trusted: Path | None, shown: Authority | None) -> int:
            context = ssl.create_default_context(cafile=trusted)
            if shown is not None:
                context.load_cert_chain(*shown.issue("client"))
            return httpx.get(url, verify=context).status_code

        assert ask(ours.ca, ours) == 200
        with pytest.raises(httpx.TransportError):
            ask(ours.ca, None)
        with pytest.raises(httpx.TransportError):
            ask(ours.ca, theirs)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            ask(theirs.ca, ours)
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"))


def test_a_stated_authority_is_the_only_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("a")
    own = client_context(Tls(certificate=certificate, key=key, client_ca=authority.ca))
    assert (own.check_hostname, own.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert len(own.get_ca_certs()) == 1
    assert client_context(Tls(certificate=certificate, key=key)).check_hostname


def test_files_that_are_no_certificates_are_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("a")
    _, other_key = authority.issue("b")
    server_context(Tls(certificate=certificate, key=key))
    for wrong in (
        Tls(certificate=certificate, key=other_key),
        Tls(certificate=key, key=key),
        Tls(certificate=tmp_path / "none", key=key),
        Tls(certificate=certificate, key=key, client_ca=key),
    ):
        with pytest.raises(UsageError, match="cannot use the TLS files"):
            server_context(wrong)
