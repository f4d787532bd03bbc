"""The front's thread that keeps scans of the routes that collect; no job ever waits for it."""

from __future__ import annotations

import logging
import queue
import threading

from ldmpir_edge.errors import LdmpirError, OutputError
from ldmpir_edge.serve.collection import CollectedScans
from ldmpir_edge.serve.config import ServeConfig
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.metrics import Metrics
from ldmpir_edge.serve.state_folder import StateFolder, folder_bytes

LEARNABLE = ("mri", "ct", "denoise")
"""Tasks on whose scans a model can be fine-tuned."""

_log = logging.getLogger(__name__)


class Collector:
    """Seals the scans of jobs that ended well, one after another.

    Parameters
    ----------
    config, folder, metrics
        Of the appliance.
    scans
        Where they are kept.
    """

    def __init__(
        self, config: ServeConfig, folder: StateFolder, metrics: Metrics, scans: CollectedScans
    ) -> None:
        self._config, self._folder, self._metrics, self._scans = config, folder, metrics, scans
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ldmpir-collector", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Leave the scan that is being sealed, and those that wait, uncollected."""
        self._stopping.set()
        self._jobs.put(None)
        self._thread.join()

    def offer(self, job: Job) -> None:
        """Keep a job's scan, if its route collects and the model alone made all its images."""
        if (
            job.route in self._config.collecting
            and job.state == "done"
            and job.report.get("task") in LEARNABLE
        ):
            self._jobs.put(job)

    def prune(self) -> None:
        """Remove what is kept long enough."""
        for route in self._config.collecting:
            self._scans.prune(route)
            self._metrics.holds(route, len(self._scans.names(route)))

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopping.is_set():
            told = {"job": job.id, "route": job.route}
            try:
                self._collect(job)
            except (LdmpirError, OSError) as err:
                self._metrics.collected(job.route, type(err).__name__)
                _log.warning("scan not collected", extra={**told, "error": type(err).__name__})
            else:
                self._metrics.collected(job.route, "collected")
                self._metrics.holds(job.route, len(self._scans.names(job.route)))
                _log.info("scan collected", extra=told)

    def _collect(self, job: Job) -> None:
        payload = self._folder.payload(job.id)
        # What is collected must never be why a scan is refused, or a result removed early.
        least = 2 * self._config.limits.min_free_bytes
        if self._folder.free_bytes() - folder_bytes(payload) < least:
            raise OutputError("the disk is nearly full; free space there to collect scans")
        self._scans.add(job.route, sorted(payload.iterdir()), self._stopping.is_set)
