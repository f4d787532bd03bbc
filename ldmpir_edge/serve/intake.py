"""Take a scan in: bounded, streamed to disk, and acknowledged only when it is safe there."""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ldmpir_edge.atomic import flush_file, flush_folder
from ldmpir_edge.errors import LdmpirError, OverloadError, UsageError
from ldmpir_edge.serve.config import Route, ServeConfig, Source
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.metrics import Metrics
from ldmpir_edge.serve.queue import JobQueue
from ldmpir_edge.serve.state_folder import PAYLOAD, StateFolder, folder_bytes
from ldmpir_edge.serve.write_back import WriteBack

SCAN = "scan"
"""Name of a payload that is one file: the client's own may identify a patient."""

_log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_STEM_LENGTH = 48


class PayloadTooLargeError(OverloadError):
    """One scan is larger than the appliance takes, now or later."""


class Intake:
    """The one way into the queue for all doors, and its limits.

    Parameters
    ----------
    config
        Routes and limits.
    folder, queue
        Where payloads and jobs are kept.
    metrics
        Counts what is taken and refused.
    clock
        Gives seconds since 1970.
    """

    def __init__(
        self,
        config: ServeConfig,
        folder: StateFolder,
        queue: JobQueue,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._folder, self._queue, self._clock = config, folder, queue, clock
        self._metrics = metrics
        self._lock = threading.Lock()
        self._arriving: dict[str, int] = {}
        self._n_queued_bytes = 0
        self._arrived: Callable[[], None] = lambda: None

    def on_arrival(self, call: Callable[[], None]) -> None:
        """Have `call` called after every job that was added."""
        self._arrived = call

    def open(
        self, source: Source, label: str = "", *, origin: str | None = None, n_bytes: int = 0
    ) -> Incoming:
        """Admit a scan, before anything of it is read.

        Parameters
        ----------
        source, label
            The door, and the peer's own word; they select the route.
        origin
            Names what is sent: a second scan of the same origin is the first one again.
        n_bytes
            Size of the scan as announced; what arrives is counted all the same.

        Raises
        ------
        UsageError
            No route takes it.
        PayloadTooLargeError
            One scan may not have so many bytes.
        OverloadError
            The queue is full or the disk nearly so.
        """
        with self._counted(source):
            self._check_payload(n_bytes)
            job_id, route = self._admit(source, label, n_bytes)
        return Incoming(self, job_id, source, route, origin, label=label)

    def open_series(self, label: str) -> Incoming:
        """Admit a series of images: what was received of it stays, also over a restart.

        Raises
        ------
        UsageError, OverloadError
            As `open`.
        """
        with self._counted("dicom"):
            job_id, route = self._admit("dicom", label, 0)
        return Incoming(self, job_id, "dicom", route, None, label=label, stays=True)

    def resume_series(self, job_id: str, label: str) -> Incoming:
        """Take up a series that a process before this one has received parts of.

        Raises
        ------
        UsageError
            No route takes it any more.
        """
        route = self._route("dicom", label)
        with self._lock:
            self._arriving[job_id] = folder_bytes(self._folder.series / job_id)
        return Incoming(self, job_id, "dicom", route, None, label=label, stays=True)

    @contextmanager
    def _counted(self, source: Source) -> Iterator[None]:
        try:
            yield
        except LdmpirError as err:
            self._metrics.refused(source, type(err).__name__)
            raise

    def _admit(self, source: Source, label: str, n_bytes: int) -> tuple[str, Route]:
        route = self._route(source, label)
        job_id = secrets.token_hex(16)
        with self._lock:
            n_jobs, self._n_queued_bytes = self._queue.load()
            if n_jobs + len(self._arriving) >= self._config.limits.max_jobs:
                raise OverloadError(
                    f"{n_jobs} scans wait or are not delivered, as many as are taken; send this "
                    "one again later"
                )
            self._check_room(n_bytes)
            self._arriving[job_id] = 0
        return job_id, route

    def _route(self, source: Source, label: str) -> Route:
        route = self._config.route(source, label)
        if route is None:
            raise UsageError(f"no route takes a scan from {source} with label {label[:64]!r}")
        return route

    def _check_payload(self, n_bytes: int) -> None:
        largest = self._config.limits.max_payload_bytes
        if n_bytes > largest:
            raise PayloadTooLargeError(f"the scan is larger than {largest} bytes; split it")

    def _check_room(self, n_more_bytes: int = 0) -> None:
        limits = self._config.limits
        if self._n_queued_bytes + sum(self._arriving.values()) + n_more_bytes > limits.max_bytes:
            raise OverloadError(
                f"the queue holds its {limits.max_bytes} bytes; send this scan again later"
            )
        if self._folder.free_bytes() < limits.min_free_bytes + n_more_bytes:
            raise OverloadError(
                f"less than {limits.min_free_bytes} bytes are free on the appliance's disk; "
                "send this scan again later"
            )

    def _grow(self, job_id: str, n_bytes: int) -> None:
        with self._lock:
            self._check_payload(self._arriving[job_id] + n_bytes)
            self._check_room(n_bytes)
            self._arriving[job_id] += n_bytes

    def _accept(self, incoming: Incoming, stem: str) -> str:
        n_bytes = self._arriving[incoming.job_id]
        place = self._folder.jobs / incoming.job_id
        with _full_disk():
            for path in incoming.payload.iterdir():
                flush_file(path)
            flush_folder(incoming.payload)
            flush_folder(incoming.payload.parent)
            home = incoming.payload.parent
            home.rename(place)
            flush_folder(self._folder.jobs)
        received = self._clock()
        deadline_s = incoming.route.deadline_s
        try:
            job_id = self._queue.add(
                Job(
                    id=incoming.job_id,
                    source=incoming.source,
                    route=incoming.route.name,
                    stem=plain_stem(stem),
                    received=received,
                    n_bytes=n_bytes,
                    origin=incoming.origin,
                    due=received + deadline_s if deadline_s is not None else None,
                    label=incoming.label,
                )
            )
        except BaseException:
            place.rename(home)
            raise
        if job_id == incoming.job_id:
            self._metrics.received(incoming.source)
            told = {"job": job_id, "source": incoming.source, "route": incoming.route.name}
            _log.info("job received", extra={**told, "n_bytes": n_bytes})
            self._arrived()
        else:
            shutil.rmtree(place, ignore_errors=True)
        return job_id

    def _leave(self, incoming: Incoming) -> None:
        with self._lock:
            self._arriving.pop(incoming.job_id, None)
        if not incoming.stays:
            shutil.rmtree(incoming.payload.parent, ignore_errors=True)


class Incoming:
    """A scan that is being received; used as a context manager, it goes unless accepted.

    Attributes
    ----------
    job_id : str
        What the job will be called.
    payload : Path
        The folder that the scan is written to.
    stays : bool
        Whether it stays when the block ends, for another process to take up.
    """

    def __init__(
        self,
        intake: Intake,
        job_id: str,
        source: Source,
        route: Route,
        origin: str | None,
        *,
        label: str,
        stays: bool = False,
    ) -> None:
        self._intake = intake
        self.job_id, self.source, self.route, self.origin = job_id, source, route, origin
        self.label, self.stays = label, stays
        folder = intake._folder.series if stays else intake._folder.incoming
        self.payload: Path = folder / job_id / PAYLOAD
        self._write_backs: dict[BinaryIO, WriteBack] = {}

    def __enter__(self) -> Self:
        try:
            with _full_disk():
                self.payload.parent.mkdir(mode=0o700, exist_ok=self.stays)
                self.payload.mkdir(mode=0o700, exist_ok=self.stays)
        except BaseException:
            self._intake._leave(self)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._intake._leave(self)

    @contextmanager
    def file(self, name: str = SCAN) -> Iterator[BinaryIO]:
        """Open a file of the payload for `write`.

        Raises
        ------
        OverloadError
            The disk is full.
        """
        with _full_disk():
            descriptor = os.open(self.payload / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w+b") as stream, WriteBack(descriptor) as write_back:
                self._write_backs[stream] = write_back
                try:
                    yield stream
                finally:
                    del self._write_backs[stream]

    def write(self, stream: BinaryIO, data: bytes | memoryview) -> None:
        """Append to a file of the payload, within the limits.

        Raises
        ------
        PayloadTooLargeError
            The scan exceeds the size of one.
        OverloadError
            The queue or the disk is full.
        """
        self.reserve(len(data))
        with self._intake._counted(self.source), _full_disk():
            stream.write(data)
            self._write_backs[stream].grown(len(data))

    def reserve(self, n_bytes: int) -> None:
        """Count bytes that are about to be written by other means.

        Raises
        ------
        PayloadTooLargeError, OverloadError
            As `write`.
        """
        with self._intake._counted(self.source):
            self._intake._grow(self.job_id, n_bytes)

    def accept(self, stem: str) -> str:
        """Make the payload durable and queue it: from here on the appliance answers for it.

        Parameters
        ----------
        stem
            What outputs are named after; reduced to a plain name.

        Returns
        -------
            The job's id; that of the first, if a scan of this origin was accepted before.

        Raises
        ------
        OverloadError
            The disk is full; nothing was queued.
        """
        with self._intake._counted(self.source):
            return self._intake._accept(self, stem)


def plain_stem(name: str) -> str:
    """Reduce a client's name to a file name of letters, digits, dots and dashes."""
    base = name.replace("\\", "/").rpartition("/")[2]
    for suffix in (".nii.gz", *Path(base).suffixes[-1:]):
        base = base.removesuffix(suffix)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", base)[:_STEM_LENGTH].strip(".-")
    return plain or SCAN


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno not in _FULL:
            raise
        raise OverloadError(
            "the appliance's disk is full; free space there, and send this scan again"
        ) from err
