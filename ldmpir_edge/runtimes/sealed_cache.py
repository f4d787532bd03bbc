"""Files kept between processes under a message authentication code, in bounded space.

Made for what a library would load without looking (compiled models): a file comes back only if
it is, byte for byte, what this user stored under that name.

What the seal detects: damage on the disk, and changes by anyone who cannot read the user's
secret, even if they can write to the cache folder, such as a shared one. What it does not: an
intruder with the user's own rights, who could as well replace the program. Data is authenticated,
not encrypted.

A file is 16 bytes that name the format, the 32 bytes of HMAC-SHA256 (RFC 2104) over format, name
and content, and the content. The content is verified and used from one read, so that nothing can
change in between.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.errors import OutputError

MAX_BYTES = 256 * 2**20
"""Space that a cache may take: some twenty compiled shapes."""

SUFFIX = ".sealed"

_GUARDED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_FORMAT = b"ldmpir sealed 1\n"
_MAC_BYTES = 32
_SECRET_BYTES = 32

_log = logging.getLogger(__name__)


class SealedCache:
    """A folder of sealed files, of which the least recently used go first.

    A file that is absent, damaged, of another format or sealed by another user is only a miss,
    and a folder that cannot be written stores nothing: neither is an error. Processes may share
    the folder; of two that store under one name, the later wins.

    Parameters
    ----------
    folder
        Holds the files; made when the first is stored.
    secret_file
        The user's secret, 32 random bytes that only its owner can read; made where it is
        missing, and replaced where others can read it, which turns all older files to misses.
    max_bytes
        Space for all files together; a larger single one is not stored.
    """

    def __init__(self, folder: Path, secret_file: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._secret_file = secret_file
        self._max_bytes = max_bytes

    def get(self, name: str) -> bytes | None:
        """Answer the content stored under `name`, or None."""
        path = self._path(name)
        secret = _read_secret(self._secret_file)
        if secret is None:
            return None
        try:
            # Another's link or pipe under this name must be neither followed nor waited for.
            descriptor = os.open(path, os.O_RDONLY | _GUARDED)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_size > self._max_bytes:
                    return None
                head, data = file.read(len(_FORMAT) + _MAC_BYTES), file.read()
        except OSError:
            return None
        if not hmac.compare_digest(head, _FORMAT + _mac(secret, name, data)):
            _log.debug("%s is damaged or not sealed by this user: not used", path)
            return None
        with suppress(OSError):  # only the order of use is lost
            os.utime(path)
        return data

    def put(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, a file name without separators; make space for it."""
        if len(_FORMAT) + _MAC_BYTES + len(data) > self._max_bytes:
            return
        try:
            secret = _read_secret(self._secret_file) or _make_secret(self._secret_file)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_file(self._path(name)) as temporary, temporary.open("wb") as file:
                file.write(_FORMAT + _mac(secret, name, data))
                file.write(data)
            self._make_space()
        except (OSError, OutputError) as err:
            _log.debug("%s is not cached: %s", name, err)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"

    def _make_space(self) -> None:
        # Temporaries that a killed process left have the suffix too, and go in their turn.
        states = {path: path.stat() for path in self._folder.glob(f"*{SUFFIX}")}
        total = 0
        for path, state in sorted(states.items(), key=lambda item: -item[1].st_mtime_ns):
            total += state.st_size
            if total > self._max_bytes:
                path.unlink(missing_ok=True)


def _mac(secret: bytes, name: str, data: bytes) -> bytes:
    # The name is of the seal: a sound file under another's name is not sound.
    code = hmac.new(secret, _FORMAT + len(name).to_bytes(8) + name.encode(), sha256)
    code.update(data)
    return code.digest()


def _read_secret(path: Path) -> bytes | None:
    """Answer the secret if nobody but its owner, this user, can have read or written it."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            secret = file.read(_SECRET_BYTES + 1)
    except OSError:
        return None
    if os.name == "posix" and (state.st_uid != os.geteuid() or state.st_mode & 0o077):
        _log.debug("%s can be read by others: not used", path)
        return None
    return secret if len(secret) == _SECRET_BYTES else None


def _make_secret(path: Path) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_bytes(secrets.token_bytes(_SECRET_BYTES))
    # Read back: of two processes that make one at the same time, the later's holds for both.
    secret = _read_secret(path)
    if secret is None:
        raise OSError(f"{path} cannot be kept from other readers")
    return secret
