"""Series that are being received: image by image on disk, and a job once they are complete."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ldmpir_edge.atomic import flush_file, flush_folder
from ldmpir_edge.errors import LdmpirError
from ldmpir_edge.scans.limits import MAX_SLICES
from ldmpir_edge.serve.intake import Incoming, Intake, PayloadTooLargeError
from ldmpir_edge.serve.state_folder import SERIES, StateFolder

STEM = "series"
LEAST_OPEN_QUIET_S = 60.0
"""A series whose association stays open is complete after this much silence, at least."""

_TICK_S = 0.5
_log = logging.getLogger(__name__)


@dataclass
class _Series:
    """What is known of one while it arrives; `associations` are those that sent parts of it."""

    incoming: Incoming
    stack: ExitStack
    heard: float
    names: set[str]
    associations: set[int] = field(default_factory=set)


class SeriesStore:
    """Keeps images until their series is complete.

    Parameters
    ----------
    intake, folder
        Where a series goes, and where it lies until then.
    quiet_s
        A series is complete when its associations have ended and nothing came for so long.
    clock
        Gives seconds that never go back.
    """

    def __init__(
        self,
        intake: Intake,
        folder: StateFolder,
        quiet_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._intake, self._folder, self._quiet_s, self._clock = intake, folder, quiet_s, clock
        self._lock = threading.Lock()
        self._series: dict[str, _Series] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ldmpir-series", daemon=True)

    def start(self) -> None:
        """Take up what was received before, and begin to complete series."""
        for home in self._folder.series.iterdir():
            self._resume(home)
        self._thread.start()

    def stop(self) -> None:
        """End; what was received waits for the next start."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            for series in self._series.values():
                series.stack.close()
            self._series.clear()

    def store(self, label: str, key: str, instance: str, data: bytes, association: int) -> None:
        """Bring one image to the disk; it may be acknowledged when this returns.

        Parameters
        ----------
        label
            The calling AE title, for the route.
        key, instance
            Identify the series and the image in it; one that came before is replaced.
        data
            A DICOM file.
        association
            Identifies the connection.

        Raises
        ------
        UsageError, OverloadError
            As `Intake.open_series` and `Incoming.write`.
        """
        with self._lock:
            series = self._series.get(key) or self._open(label, key)
            name = f"{hashlib.sha256(instance.encode()).hexdigest()[:32]}.dcm"
            if name not in series.names and len(series.names) >= MAX_SLICES:
                raise PayloadTooLargeError(f"the series has more than {MAX_SLICES} images")
            _write(series.incoming, name, data)
            series.names.add(name)
            series.associations.add(association)
            series.heard = self._clock()

    def end(self, association: int) -> None:
        """Say that a connection has ended."""
        with self._lock:
            for series in self._series.values():
                series.associations.discard(association)

    def complete(self) -> None:
        """Make jobs of the series that are complete now; drop those of which nothing was taken."""
        now = self._clock()
        with self._lock:
            for key, series in list(self._series.items()):
                quiet_s = self._quiet_s
                if series.associations:
                    quiet_s = max(10 * self._quiet_s, LEAST_OPEN_QUIET_S)
                if now - series.heard < quiet_s:
                    continue
                try:
                    if series.names:
                        series.incoming.accept(STEM)
                # One that has to wait must not keep the others from becoming jobs.
                except (LdmpirError, OSError, sqlite3.Error) as err:
                    _log.warning("a complete series waits", extra={"error": type(err).__name__})
                    continue
                _drop(series)
                del self._series[key]

    def _run(self) -> None:
        while not self._stopping.wait(_TICK_S):
            self.complete()

    def _open(self, label: str, key: str) -> _Series:
        series = self._enter(self._intake.open_series(label), set())
        home = series.incoming.payload.parent
        try:
            (home / SERIES).write_text(json.dumps({"label": label, "key": key}))
            flush_file(home / SERIES)
            flush_folder(home)
            flush_folder(home.parent)
        except BaseException:
            _drop(series)
            raise
        self._series[key] = series
        return series

    def _enter(self, incoming: Incoming, names: set[str]) -> _Series:
        stack = ExitStack()
        stack.enter_context(incoming)
        return _Series(incoming, stack, self._clock(), names)

    def _resume(self, home: Path) -> None:
        try:
            marker = json.loads((home / SERIES).read_text())
            label, key = str(marker["label"]), str(marker["key"])
        except (OSError, ValueError, KeyError, TypeError):
            # The marker is flushed before the first image is taken: none was acknowledged.
            shutil.rmtree(home, ignore_errors=True)
            return
        try:
            incoming = self._intake.resume_series(home.name, label)
        except LdmpirError as err:
            _log.error("a received series cannot be queued", extra={"error": type(err).__name__})
            return
        with self._lock:
            series = self._enter(incoming, set())
            for path in incoming.payload.iterdir():
                if path.suffix == ".dcm":
                    series.names.add(path.name)
                else:
                    path.unlink()
            self._series[key] = series


def _drop(series: _Series) -> None:
    """Give back the series' place; what of it became a job has left its folder."""
    series.stack.close()
    shutil.rmtree(series.incoming.payload.parent, ignore_errors=True)


def _write(incoming: Incoming, name: str, data: bytes) -> None:
    """Write a file so that it is whole, or is not there; and then on the disk."""
    part = incoming.payload / f"{name}.part"
    try:
        with incoming.file(part.name) as stream:
            incoming.write(stream, data)
        flush_file(part)
        part.replace(incoming.payload / name)
    finally:
        part.unlink(missing_ok=True)
    flush_folder(incoming.payload)
