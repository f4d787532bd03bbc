"""The watched folder: HDF5 scans that appear in it are taken once they are complete.

It is looked at again and again, since a network share tells nobody of its changes. The files
stay where they are; which were taken is remembered in the queue.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import signal
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ldmpir_edge.errors import LdmpirError, OverloadError, UsageError
from ldmpir_edge.serve.config import WatchDoor
from ldmpir_edge.serve.hdf5_size import HEADER_BYTES, MAGIC, stated_size
from ldmpir_edge.serve.intake import Intake, PayloadTooLargeError
from ldmpir_edge.serve.queue import JobQueue

DAY_S = 86400.0
REMEMBERED_S = 30 * DAY_S
"""How long a taken file is remembered after it was seen last: a share may be away for a while."""

_MAX_FILES = 65536
_CHUNK = 2**20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Found:
    """A file as it lies in the folder; another size or time makes it another scan."""

    path: Path
    label: str
    size: int
    changed_ns: int

    @property
    def origin(self) -> str:
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()
        return f"watch {name} {self.size} {self.changed_ns}"


class Watcher:
    """The thread that looks at the folder.

    Parameters
    ----------
    door
        The folder, and how patient to be.
    intake, queue
        Take the scans, and remember them.
    clock
        Gives seconds that never go back.

    Raises
    ------
    UsageError
        There is no such folder.
    """

    def __init__(
        self,
        door: WatchDoor,
        intake: Intake,
        queue: JobQueue,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not door.folder.is_dir():
            raise UsageError(f"there is no folder {door.folder} to watch; create it")
        self._door, self._intake, self._queue, self._clock = door, intake, queue, clock
        self._since: dict[_Found, float] = {}
        self._refused: set[_Found] = set()
        self._refreshed = -DAY_S
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ldmpir-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End after the file that is being taken."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Look once: note what is new or has changed, and take what has not for long enough."""
        now = self._clock()
        present = list(self._files())
        self._since = {found: self._since.get(found, now) for found in present}
        self._refused &= set(present)
        for found, since in self._since.items():
            if self._stopping.is_set():
                return
            if now - since >= self._door.settle_s and found not in self._refused:
                try:
                    self._consider(found)
                except PayloadTooLargeError as err:
                    self._refuse(found, err)
                except OverloadError:
                    break  # the others would be refused too; they lie there until the next time
                except UsageError as err:
                    self._refuse(found, err)
                except OSError as err:
                    # Of this file, such as a bad sector: those behind it are for the next lines.
                    _log.warning("a watched file cannot be read", extra={"error": _name(err)})
        if now - self._refreshed >= DAY_S:
            self._refreshed = now
            self._queue.remember([found.origin for found in present], REMEMBERED_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except (LdmpirError, OSError, sqlite3.Error) as err:
                _log.warning(
                    "the watched folder cannot be read", extra={"error": type(err).__name__}
                )
            self._stopping.wait(self._door.poll_s)

    def _files(self) -> Iterator[_Found]:
        n_found = 0
        for folder, folders, names in os.walk(self._door.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if name.startswith("."):
                    continue
                n_found += 1
                if n_found > _MAX_FILES:
                    _log.warning(
                        "the watched folder holds too many files: not all are looked at",
                        extra={"most": _MAX_FILES},
                    )
                    return
                path = Path(folder, name)
                try:
                    status = path.lstat()
                except OSError:
                    continue  # it went meanwhile
                if stat.S_ISREG(status.st_mode) and status.st_size > 0:
                    # A name need not be UTF-8, which the queue's text has to be.
                    parent = os.fsencode(path.parent.relative_to(self._door.folder).as_posix())
                    label = parent.decode("utf-8", "replace")
                    yield _Found(
                        path, "" if label == "." else label, status.st_size, status.st_mtime_ns
                    )

    def _consider(self, found: _Found) -> None:
        if self._queue.find_origin(found.origin) is not None:
            self._refused.add(found)  # no need to ask again
            return
        try:
            descriptor = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as err:
            _log.info("a watched file cannot be opened", extra={"error": _name(err)})
            return
        with os.fdopen(descriptor, "rb") as stream:
            header = stream.read(HEADER_BYTES)
            if not header.startswith(MAGIC):
                self._refused.add(found)
                return
            size = stated_size(header)
            if size is None or size > found.size or _has_writer(stream):
                return
            stream.seek(0)
            self._take(found, stream)

    def _take(self, found: _Found, stream: BinaryIO) -> None:
        with self._intake.open(
            "watch", found.label, origin=found.origin, n_bytes=found.size
        ) as incoming:
            with incoming.file() as copy:
                while data := stream.read(_CHUNK):
                    incoming.write(copy, data)
            status = os.fstat(stream.fileno())
            if (status.st_size, status.st_mtime_ns) == (found.size, found.changed_ns):
                incoming.accept(found.path.name)

    def _refuse(self, found: _Found, err: LdmpirError) -> None:
        self._refused.add(found)
        _log.warning("watched file refused", extra={"error": type(err).__name__})


def _has_writer(stream: BinaryIO) -> bool:
    """Tell whether some process on this machine has the file open for writing.

    Linux grants a read lease only where none has (fcntl(2), F_SETLEASE), and only to the file's
    owner; the HDF5 library locks what it writes (flock(2)). On a share neither may be known: there
    the file's size, time and superblock must do.
    """
    import fcntl

    descriptor = stream.fileno()
    if hasattr(fcntl, "F_SETLEASE"):
        # A writer that comes while the lease is held makes the kernel send a signal: one that is
        # ignored unless somebody handles it, in place of SIGIO, which ends a process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as err:
            if err.errno == errno.EAGAIN:
                return True
        else:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as err:
        return err.errno in {errno.EAGAIN, errno.EACCES}
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _name(err: OSError) -> str:
    return errno.errorcode.get(err.errno or 0, type(err).__name__)
