"""Files that only the holder of a key can read, and that nobody can change unseen.

AES-256-GCM in pieces, so that memory stays flat whatever the size (the STREAM construction of
Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015). Each file has a key of its own, derived from
the given one and a random salt, so that a piece's number may be its nonce:

    magic (8) | salt (32) | length (4, big-endian) and piece with its tag (16) | … | an empty piece

A piece's associated data are magic, the file's name, its number and whether it is the last:
pieces cannot change places, come from another file or be missing at the end.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ldmpir_edge.errors import OutputError, SealError

KEY_BYTES = 32
PIECE_BYTES = 2**20
"""Largest piece before it is sealed."""

MAGIC = b"LDMPIRS\x01"
_SALT_BYTES, _LENGTH_BYTES, _TAG_BYTES, _NONCE_BYTES = 32, 4, 16, 12


def new_key(path: Path) -> None:
    """Make a random key in a new file that its owner alone may read.

    Raises
    ------
    OutputError
        The file exists already or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        raise OutputError(
            f"cannot write the key {path}: {err.strerror}; name a new file in an existing folder"
        ) from err


def read_key(path: Path) -> bytes:
    """Read a key that `new_key` made.

    Raises
    ------
    SealError
        It cannot be read, others than its owner may read or write it, or it is not 32 bytes long.
    """
    remedy = "make one with: ldmpir-edge serve --new-collection-key FILE"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except OSError as err:
        raise SealError(
            f"cannot read the collection's key {path}: {err.strerror}; {remedy}"
        ) from err
    if stat.S_IMODE(mode) & 0o077:
        raise SealError(
            f"the collection's key {path} is open to others (mode {stat.S_IMODE(mode):03o}); "
            f"close it with: chmod 600 {path}"
        )
    if len(key) != KEY_BYTES:
        raise SealError(f"{path} is not a collection's key of {KEY_BYTES} bytes; {remedy}")
    return key


def seal(pieces: Iterable[bytes], sink: BinaryIO, key: bytes, name: str) -> None:
    """Write pieces so that `unseal` gives them back.

    Parameters
    ----------
    pieces
        Of at most `PIECE_BYTES` each; empty ones are left out.
    sink
        Open for writing, at its start.
    key
        `KEY_BYTES` bytes.
    name
        Of the file: under another it does not open.
    """
    salt = secrets.token_bytes(_SALT_BYTES)
    cipher = _cipher(key, salt)
    sink.write(MAGIC + salt)
    number = 0
    for piece in pieces:
        if piece:
            _write(sink, cipher.encrypt(_nonce(number), piece, _bound(name, number, last=False)))
            number += 1
    _write(sink, cipher.encrypt(_nonce(number), b"", _bound(name, number, last=True)))


def unseal(stream: BinaryIO, key: bytes, name: str) -> Iterator[bytes]:
    """Give the pieces of a sealed file, each once it is known to be what was sealed.

    That none is missing is known only when the iteration has ended.

    Raises
    ------
    SealError
        It is damaged, cut short, was changed, renamed or sealed with another key.
    """
    head = stream.read(len(MAGIC) + _SALT_BYTES)
    if len(head) != len(MAGIC) + _SALT_BYTES or not head.startswith(MAGIC):
        raise _damaged(name, "it does not begin as a collected scan of this release")
    cipher = _cipher(key, head[len(MAGIC) :])
    number, last = 0, False
    while not last:
        sealed = _read(stream, name)
        last = len(sealed) == _TAG_BYTES
        try:
            piece = cipher.decrypt(_nonce(number), sealed, _bound(name, number, last=last))
        except InvalidTag as err:
            raise _damaged(name, "it was changed, or sealed with another key") from err
        number += 1
        if piece:
            yield piece
    if stream.read(1):
        raise _damaged(name, "something follows its end")


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=MAGIC).derive(key)
    return AESGCM(derived)


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, "big")


def _bound(name: str, number: int, *, last: bool) -> bytes:
    return b"%s%s\0%d %d" % (MAGIC, name.encode(), number, last)


def _write(sink: BinaryIO, sealed: bytes) -> None:
    sink.write(len(sealed).to_bytes(_LENGTH_BYTES, "big"))
    sink.write(sealed)


def _read(stream: BinaryIO, name: str) -> bytes:
    size = int.from_bytes(stream.read(_LENGTH_BYTES), "big")
    if not _TAG_BYTES <= size <= PIECE_BYTES + _TAG_BYTES:
        raise _damaged(name, "it was changed, or ends too early")
    sealed = stream.read(size)
    if len(sealed) != size:
        raise _damaged(name, "it ends too early")
    return sealed


def _damaged(name: str, why: str) -> SealError:
    return SealError(
        f"the collected scan {name} cannot be read: {why}; remove it, or put its key back"
    )
