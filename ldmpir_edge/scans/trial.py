"""Have an HDF5 file read in a process that may die of it, before it is opened in this one.

libhdf5 is C, and damaged files can end the process that reads them: versions 1.14.6 and 2.0.0 free
twice what they made of some damaged compound types. `trial_process` is started once and forks for
each file, so that a file costs some milliseconds.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from ldmpir_edge.errors import ScanDataError, ScanError, ScanFormatError

_ERRORS = {kind.__name__: kind for kind in (ScanError, ScanDataError, ScanFormatError)}


class _Process:
    """The process, and a line to it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ldmpir_edge.scans.trial_process"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                # What the allocator says of a double free is no message for a user.
                stderr=subprocess.DEVNULL,
                # A fork of a process with threads is slow, and none of them computes here.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        with ours:
            self._line = ours.makefile("rwb")

    def ask(self, path: Path) -> dict[str, str] | None:
        """Return what became of the trial, or None if the process has ended."""
        answer = b""
        with suppress(OSError):
            self._line.write(json.dumps(str(path)).encode() + b"\n")
            self._line.flush()
            answer = self._line.readline()
        outcome: dict[str, str] | None = json.loads(answer) if answer else None
        return outcome

    def end(self) -> None:
        """End it, and wait for that."""
        with suppress(OSError):  # what could not be sent to one that has ended
            self._line.close()
        self._process.kill()
        self._process.wait()


_lock = threading.Lock()
_process: _Process | None = None


def start() -> None:
    """Start the process now, so that it is ready when the first file comes."""
    if not hasattr(os, "fork"):
        return
    with _lock:
        _running()


def try_hdf5(path: Path) -> None:
    """Have all but the samples of an HDF5 scan read elsewhere; not on Windows, which cannot fork.

    Raises
    ------
    ScanFormatError
        Reading the file ended the process, or did not end itself; or as the file's reader.
    ScanDataError
        As the file's reader.
    ScanError
        The file cannot be read, or the process cannot be had.
    """
    if not hasattr(os, "fork"):
        return
    with _lock:
        outcome = _running().ask(path)
        if outcome is None:
            # Something ended it, such as a lack of memory.
            _stop()
            outcome = _running().ask(path)
    if outcome is None:
        raise ScanError(
            f"{path}: HDF5 files are tried in a process of their own, which ended twice; "
            "free memory and try again"
        )
    if "died" in outcome:
        raise ScanFormatError(
            f"{path}: the HDF5 library {outcome['died']} on this file; it is damaged, copy or "
            "export it again"
        )
    if "error" in outcome:
        raise _ERRORS[outcome["error"]](outcome["message"])


def _running() -> _Process:
    global _process
    # A fork of the process that started it must not talk to it as well.
    if _process is None or _process.owner != os.getpid():
        _process = _Process()
    return _process


@atexit.register
def _stop() -> None:
    global _process
    if _process is not None and _process.owner == os.getpid():
        _process.end()
        _process = None
