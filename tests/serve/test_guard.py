"""Who is let in over HTTP: peers, tokens, other sites' pages, and how often."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest
from command_line import ldmpir_edge
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from ldmpir_edge.serve.config import HttpDoor
from ldmpir_edge.serve.tokens import find_name, hash_token, new_token
from ldmpir_edge.serve.web.guard import Guard, RateLimit

TOKEN, OTHER = "a-token", "another"
TOKENS = {"ris": hash_token(TOKEN), "console": hash_token(OTHER)}


async def who(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(scope["state"]["client"])(scope, receive, send)


def ask(
    settings: dict[str, Any], path: str = "/", peer: str = "127.0.0.1", **headers: str
) -> httpx.Response:
    guard = Guard(who, HttpDoor(**{"listen": "127.0.0.1:8080", **settings}))

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(guard, client=(peer, 5000))
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.get(f"http://127.0.0.1:8080{path}", headers=headers)

    return asyncio.run(send())


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "name"),
    [
        (f"Bearer {TOKEN}", "ris"),
        (f"bearer  {OTHER} ", "console"),
        (basic(TOKEN), "ris"),
        ("", None),
        (TOKEN, None),
        ("Bearer", None),
        ("Bearer wrong", None),
        (f"Bearer {TOKENS['ris']}", None),
        (basic("wrong"), None),
        ("Basic %%%", None),
        ("Basic " + base64.b64encode(b"\xff:\xff").decode(), None),
    ],
)
def test_a_token_opens_the_door(authorization: str, name: str | None) -> None:
    answer = ask({"tokens": TOKENS}, Authorization=authorization)
    assert answer.status_code == (200 if name else 401)
    assert answer.text == name or "www-authenticate" in answer.headers


def test_without_tokens_the_loopback_is_open() -> None:
    assert ask({}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_monitoring_needs_no_token(path: str) -> None:
    assert ask({"tokens": TOKENS}, path).status_code == 200
    for other in ("/metrics", "/openapi.json", "/v1/reconstructions", f"{path}/"):
        assert ask({"tokens": TOKENS}, other).status_code == 401


@pytest.mark.parametrize(
    ("peer", "status"), [("10.1.2.3", 200), ("10.2.0.1", 403), ("fd00::1", 200), ("name", 403)]
)
def test_only_peers_are_heard(peer: str, status: int) -> None:
    settings = {"listen": "10.1.0.1:80", "peers": ["10.1.0.0/16", "fd00::/8"]}
    assert ask(settings, peer=peer).status_code == status
    assert ask(settings, "/healthz", peer=peer).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:8080"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8080"}, 403),
        ({"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}, 403),
        ({"Host": "localhost:9000"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:9000"}, 200),
    ],
)
def test_another_sites_page_cannot_use_the_loopback(headers: dict[str, str], status: int) -> None:
    assert ask({}, **headers).status_code == status


def test_every_answer_tells_a_browser_to_be_careful() -> None:
    for answer in (ask({}), ask({"tokens": TOKENS})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"


def test_the_rate_is_limited_for_each_client() -> None:
    now = [0.0]
    limit = RateLimit(60, lambda: now[0])
    assert [limit.allows("a") for _ in range(61)] == [True] * 60 + [False]
    assert limit.allows("b")
    now[0] += 1.0
    assert [limit.allows("a") for _ in range(2)] == [True, False]
    now[0] += 3600.0
    assert sum(limit.allows("a") for _ in range(200)) == 60


def test_clients_without_number_take_no_memory_without_number() -> None:
    limit = RateLimit(60, lambda: 0.0)
    for number in range(20_000):
        limit.allows(str(number))
    assert len(limit._left) <= 4096


def test_too_many_requests_are_told_to_wait() -> None:
    door = HttpDoor(listen="127.0.0.1:8080", requests_per_minute=2)
    guard = Guard(who, door, lambda: 0.0)

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard)) as client:
            return [await client.get("http://127.0.0.1:8080/") for _ in range(3)]

    answers = asyncio.run(send())
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["retry-after"] == "60"


def test_a_token_is_kept_as_its_hash_alone() -> None:
    finished = ldmpir_edge("serve", "--new-token", "ris")
    token, section, entry = finished.out.split("\n")[:3]
    assert section == "[http.tokens]"
    name, _, hashed = entry.partition(" = ")
    assert find_name(token, {name: hashed.strip('"')}) == "ris"
    assert token not in hashed
    assert new_token() != new_token()
    assert find_name("", {"ris": hashed.strip('"')}) is None
