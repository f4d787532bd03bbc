"""Ed25519 signatures over the manifest, and whose keys are trusted.

The entry `signature.ed25519` is the 32-byte public key followed by the 64-byte signature of
the manifest's bytes (RFC 8032, pure Ed25519). The manifest holds the hash of every other entry,
so the signature covers the whole bundle.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from ldmpir_edge.bundle.paths import trusted_key_folders
from ldmpir_edge.errors import BundleError, BundleTamperedError, OutputError

SIGNATURE_BYTES = 96
_PUBLIC_KEY_BYTES = 32


@dataclass(frozen=True)
class Trust:
    """Who vouches for a bundle.

    `key_name` is the trusted key's file stem; `fingerprint` the first 16 hex digits of the
    SHA-256 of the raw public key. Both are empty where they do not apply.
    """

    status: Literal["trusted", "untrusted", "unsigned"]
    key_name: str = ""
    fingerprint: str = ""

    def __str__(self) -> str:
        if self.status == "trusted":
            return f"trusted:{self.key_name}"
        if self.status == "untrusted":
            return f"untrusted key {self.fingerprint}"
        return "unsigned"


def generate_key(path: Path) -> Path:
    """Make a signing key pair.

    Parameters
    ----------
    path
        File for the private key (PEM, PKCS #8, readable by its owner only); must not exist.

    Returns
    -------
        The public key's file, `path` with the suffix `.pub.pem`, for the trusted-key folder.

    Raises
    ------
    OutputError
        A file exists already or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    public_path = path.with_suffix(".pub.pem")
    try:
        for target, data, mode in ((path, private, 0o600), (public_path, public, 0o644)):
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
    except OSError as err:
        raise OutputError(
            f"cannot write the key {err.filename}: {err.strerror}; name a new file"
        ) from err
    return public_path


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key that `generate_key` (or `openssl genpkey`) wrote.

    Raises
    ------
    BundleError
        The file cannot be read or is not an unencrypted Ed25519 private key in PEM.
    """
    remedy = "make one with: ldmpir_edge.bundle.generate_key(path)"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as err:
        raise BundleError(f"cannot read signing key {path}: {err.strerror}; {remedy}") from err
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        raise BundleError(f"{path} is not an unencrypted PEM private key; {remedy}") from err
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{path} holds a {type(key).__name__}, not an Ed25519 key; {remedy}")
    return key


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """Answer the content of the signature entry for these manifest bytes."""
    return key.public_key().public_bytes_raw() + key.sign(manifest)


def verify(manifest: bytes, signature: bytes | None, source: str) -> Trust:
    """Check a signature entry against the manifest and the trusted keys.

    Parameters
    ----------
    manifest
        The manifest's bytes as stored.
    signature
        The signature entry, or None where the bundle has none.
    source
        The bundle's name, for messages.

    Raises
    ------
    BundleTamperedError
        The signature is malformed or not one of these bytes.
    BundleError
        A file in a trusted-key folder is not an Ed25519 public key.
    """
    if signature is None:
        return Trust("unsigned")
    if len(signature) != SIGNATURE_BYTES:
        raise BundleTamperedError(
            f"{source}: the signature has {len(signature)} bytes in place of {SIGNATURE_BYTES}; "
            "fetch the bundle again"
        )
    raw = signature[:_PUBLIC_KEY_BYTES]
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature[_PUBLIC_KEY_BYTES:], manifest)
    except InvalidSignature as err:
        raise BundleTamperedError(
            f"{source}: the signature does not match the manifest; fetch the bundle again from "
            "its publisher"
        ) from err
    name = _trusted_keys().get(raw)
    if name is not None:
        return Trust("trusted", name, _fingerprint(raw))
    return Trust("untrusted", fingerprint=_fingerprint(raw))


def _fingerprint(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def _trusted_keys() -> dict[bytes, str]:
    keys: dict[bytes, str] = {}
    for folder in trusted_key_folders():
        for path in sorted(folder.glob("*.pem")):
            try:
                key = serialization.load_pem_public_key(path.read_bytes())
            except (OSError, ValueError, UnsupportedAlgorithm) as err:
                raise BundleError(f"trusted key {path} is unreadable ({err}); remove it") from err
            if not isinstance(key, Ed25519PublicKey):
                raise BundleError(f"trusted key {path} is not an Ed25519 public key; remove it")
            keys.setdefault(key.public_bytes_raw(), path.name.split(".")[0])
    return keys
