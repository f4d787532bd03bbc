"""The front: everything but the engines, put together, started and stopped."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol, Self

from ldmpir_edge.errors import LdmpirError
from ldmpir_edge.serve.address import HostPort
from ldmpir_edge.serve.bundles import open_route_bundle
from ldmpir_edge.serve.collection import CollectedScans, clean_collection
from ldmpir_edge.serve.collector import Collector
from ldmpir_edge.serve.config import OUT, ServeConfig, Source
from ldmpir_edge.serve.courier import Courier, FolderTarget, Target
from ldmpir_edge.serve.intake import Intake
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.metrics import Metrics
from ldmpir_edge.serve.mrd.server import MrdServer
from ldmpir_edge.serve.notices import Notices
from ldmpir_edge.serve.promotions import Promotions
from ldmpir_edge.serve.queue import JobQueue
from ldmpir_edge.serve.sealing import read_key
from ldmpir_edge.serve.state_folder import StateFolder
from ldmpir_edge.serve.supervisor import Supervisor
from ldmpir_edge.serve.watch import Watcher
from ldmpir_edge.serve.worker_process import WorkerProcess

_log = logging.getLogger(__name__)

HOUR_S = 3600.0
HOUSE_S = 60.0
LOOK_S = 1.0


class ListeningDoor(Protocol):
    """A server with threads of its own; its socket is open before it starts."""

    @property
    def address(self) -> HostPort:
        """Where it listens."""

    def start(self) -> None:
        """Let peers in."""

    def stop(self) -> None:
        """Close the door, and end what is going on behind it."""


class Appliance:
    """The running appliance, used as a context manager.

    Parameters
    ----------
    config
        What it is told.
    first_worker
        Started before, to save its time.

    Attributes
    ----------
    folder, queue, metrics, notices, intake, supervisor
        Its parts.

    Raises
    ------
    StateError
        The state folder is in use, damaged or not writable.
    BundleError
        A route's bundle cannot be used.
    SealError
        The collection's key cannot be used.
    """

    def __init__(self, config: ServeConfig, first_worker: WorkerProcess | None = None) -> None:
        self.config = config
        self._first_worker = first_worker
        self.folder = StateFolder(config.state)
        self._stack = ExitStack()
        self._listening: dict[Source, ListeningDoor] = {}
        self._collector: Collector | None = None

    def __enter__(self) -> Self:
        in_service = Promotions(self.config.state).in_service
        for route in self.config.routes:
            open_route_bundle(in_service(route), allow_unsigned=self.config.allow_unsigned)
        collection = self.config.collection
        key = None if collection is None else read_key(collection.key)
        # Scans and images are for this user's eyes only, whichever library writes them.
        os.umask(0o077)
        with ExitStack() as stack:
            stack.enter_context(self.folder.hold())
            self.queue = JobQueue(self.folder.database)
            stack.callback(self.queue.close)
            unfinished = self.queue.recover()
            self.folder.sweep(self.queue.known(), unfinished)
            self.metrics = Metrics()
            self.notices = Notices()
            self.intake = Intake(self.config, self.folder, self.queue, self.metrics)
            targets = self._targets()
            for name, n_items in self.queue.abandon(targets.keys()).items():
                _log.warning(
                    "deliveries to a target that is not configured any more were given up",
                    extra={"target": name, "n_items": n_items},
                )
            self.supervisor = Supervisor(
                *(self.config, self.folder, self.queue, targets),
                metrics=self.metrics,
                on_finish=self._on_finish,
                first_worker=self._first_worker,
            )
            self.couriers = {
                name: Courier(name, target, self.queue, self.supervisor.result, self.metrics)
                for name, target in targets.items()
            }
            clean_collection(self.folder.collected, self.config.collecting)
            if collection is not None and key is not None:
                scans = CollectedScans(self.folder.collected, collection, key)
                self._collector = Collector(self.config, self.folder, self.metrics, scans)
                self._collector.prune()
                self._collector.start()
                stack.callback(self._collector.stop)
            self.metrics.watch(self.queue, self.supervisor, self.folder.free_bytes)
            self.intake.on_arrival(self.supervisor.wake)
            for courier in self.couriers.values():
                courier.start()
                stack.callback(courier.stop)
            self.supervisor.start()
            stack.callback(self.supervisor.stop)
            self._open_doors(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def open_doors(self) -> dict[Source, str]:
        """The doors and where they are, with the ports that the system chose."""
        return {
            **self.config.doors,
            **{name: str(d.address) for name, d in self._listening.items()},
        }

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; the process must not handle them otherwise.

        Raises
        ------
        LdmpirError
            Nothing works on the jobs any more.
        """
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        for name, where in self.open_doors.items():
            _log.info("door open", extra={"door": name, "address": where})
        kept = time.monotonic()
        while not stop.wait(LOOK_S):
            if not self.supervisor.is_alive:
                raise LdmpirError("the supervisor ended unexpectedly; start the appliance again")
            if time.monotonic() - kept > HOUSE_S:
                kept = time.monotonic()
                try:
                    self.keep_house()
                except (LdmpirError, OSError) as err:
                    # A full disk is no reason to end: what is here still comes out.
                    _log.warning("nothing could be removed", extra={"error": type(err).__name__})

    def keep_house(self) -> None:
        """Remove what was kept long enough; what was delivered also earlier, on a full disk."""
        if self._collector is not None:
            self._collector.prune()
        limits = self.config.limits
        now = time.time()
        for job_id in self.queue.delivered_before(now - limits.keep_hours * HOUR_S):
            self._remove(job_id)
        for job_id in self.queue.delivered_before(now, to_a_target=True):
            if self.folder.free_bytes() >= 2 * limits.min_free_bytes:
                return
            self._remove(job_id)

    def _open_doors(self, stack: ExitStack) -> None:
        if self.config.watch is not None:
            watcher = Watcher(self.config.watch, self.intake, self.queue)
            stack.callback(watcher.stop)
            watcher.start()
        if self.config.mrd is not None:
            self._open("mrd", MrdServer(self, self.config.mrd), stack)
        if self.config.dicom is not None:
            from ldmpir_edge.serve.dicom.receiver import DicomServer

            self._open("dicom", DicomServer(self, self.config.dicom), stack)
        if self.config.http is not None:
            from ldmpir_edge.serve.web.server import HttpServer

            self._open("http", HttpServer(self, self.config.http), stack)

    def _open(self, name: Source, door: ListeningDoor, stack: ExitStack) -> None:
        self._listening[name] = door
        stack.callback(door.stop)
        # Before: nobody behind the door may wait for a job that nobody will do.
        stack.callback(self.notices.close)
        door.start()

    def _remove(self, job_id: str) -> None:
        # The row goes last: files without a row are swept, a row without files would lie.
        self.folder.remove(job_id)
        self.queue.forget([job_id])

    def _targets(self) -> dict[str, Target]:
        targets: dict[str, Target] = {}
        if self.config.out is not None:
            targets[OUT] = FolderTarget(self.config.out)
        if self.config.pacs:
            from ldmpir_edge.serve.dicom.pacs import PacsTarget

            targets |= {name: PacsTarget(name, pacs) for name, pacs in self.config.pacs.items()}
        return targets

    def _on_finish(self, job: Job) -> None:
        self.notices.tell(job.id)
        if self._collector is not None:
            self._collector.offer(job)
        for courier in self.couriers.values():
            courier.wake()
