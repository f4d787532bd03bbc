"""API tokens: made here, kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

_PREFIX = "sha256:"


def new_token() -> tuple[str, str]:
    """Make a token of 256 random bits; answer it and the hash for the configuration.

    A plain hash is enough: there are too many such tokens to try any share of them.
    """
    token = secrets.token_urlsafe(32)
    return token, hash_token(token)


def hash_token(token: str) -> str:
    """Answer what the configuration holds in place of a token."""
    return _PREFIX + hashlib.sha256(token.encode()).hexdigest()


def find_name(token: str, hashes: Mapping[str, str]) -> str | None:
    """Answer the name of a token, or None; takes as long for every token."""
    offered = hash_token(token)
    found = None
    for name, known in hashes.items():
        if hmac.compare_digest(offered, known):
            found = name
    return found
