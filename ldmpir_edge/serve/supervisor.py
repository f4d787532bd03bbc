"""The front's thread that keeps a worker and gives it the jobs of the queue."""

from __future__ import annotations

import logging
import os
import select
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ldmpir_edge.errors import OverloadError
from ldmpir_edge.serve.config import OUT, Route, ServeConfig
from ldmpir_edge.serve.courier import Target
from ldmpir_edge.serve.jobs import Delivery, Job
from ldmpir_edge.serve.metrics import Metrics
from ldmpir_edge.serve.queue import MANY_CUTS, JobQueue
from ldmpir_edge.serve.state_folder import StateFolder, folder_bytes
from ldmpir_edge.serve.work import RESULT, Order, Outcome
from ldmpir_edge.serve.worker_process import WorkerLostError, WorkerProcess

START_S = 300.0
"""How long a worker may take until it is ready: engines may have to be compiled."""

STALL_S = 300.0
"""How long it may say nothing while it has a job without a deadline."""

LEAST_STALL_S = 10.0

MAX_LOST, MAX_CUT = 4, 100
"""How many workers, and how many runs of the appliance, a job may take with it; after half of the
first, or `MANY_CUTS`, the engine is left out. A power cut is no job's fault: the second is only
there to end what ends the machine each time."""

FULL_DISK_PAUSE_S = 30.0
RESTART_PAUSE_S = 5.0
_IDLE_S = 5.0

_log = logging.getLogger(__name__)

OnFinish = Callable[[Job], None]


class Supervisor:
    """Claims jobs, has them reconstructed and files what comes of them.

    Parameters
    ----------
    config, folder, queue
        Of the appliance.
    targets
        By name, for what a result's deliveries are.
    metrics
        Counts jobs that ended and workers that were lost.
    on_finish
        Called with every job that has ended, after its row is committed.
    first_worker
        Started before, to save its time.
    clock
        Gives seconds since 1970, as the jobs' times are.
    """

    def __init__(
        self,
        config: ServeConfig,
        folder: StateFolder,
        queue: JobQueue,
        targets: Mapping[str, Target],
        metrics: Metrics,
        on_finish: OnFinish,
        first_worker: WorkerProcess | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._folder, self._queue = config, folder, queue
        self._targets, self._on_finish = targets, on_finish
        self._metrics, self._clock = metrics, clock
        self._routes = {route.name: route for route in config.routes}
        self._first_worker = first_worker
        self._worker: WorkerProcess | None = None
        self._blamed: dict[str, str] = {}
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name="ldmpir-supervisor", daemon=True)
        self.engines: list[dict[str, Any]] = []
        self.not_ready: str | None = "the engines are being loaded"

    @property
    def is_alive(self) -> bool:
        """Whether jobs are being worked on, or could be."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the worker, and give it jobs."""
        self._thread.start()

    def wake(self) -> None:
        """Look into the queue now."""
        with suppress(BlockingIOError):  # it is full of reasons to wake up already
            os.write(self._wake_write, b".")

    def stop(self) -> None:
        """End the worker; its job goes back to the queue."""
        self._stopping.set()
        self.wake()
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def result(self, job: Job) -> Path:
        """Give the folder of a finished job's result."""
        return self._folder.attempt(job.id, job.attempts) / RESULT

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._worker is None:
                    self._worker = self._start_worker()
                    continue
                job = self._queue.claim()
                if job is not None:
                    self._handle(self._worker, job)
                else:
                    self._idle(self._worker)
            except WorkerLostError as err:
                self._drop_worker(str(err))
            except OverloadError as err:
                _log.warning("the queue cannot be written", extra={"error": type(err).__name__})
                self._stopping.wait(RESTART_PAUSE_S)
        if self._worker is not None:
            self._worker.end()

    def _start_worker(self) -> WorkerProcess | None:
        worker, self._first_worker = self._first_worker or WorkerProcess(), None
        until = time.monotonic() + START_S
        try:
            worker.configure(self._config, self._folder.root / "latencies.json")
            # In short waits, so that the appliance can be stopped meanwhile.
            while not worker.has_message(0.5):
                if self._stopping.is_set() or time.monotonic() > until:
                    raise WorkerLostError("the engine's process did not get ready")
            message = worker.receive(START_S)
        except WorkerLostError as err:
            worker.end()
            self._wait_before_restart(str(err))
            return None
        if "engines" in message:
            self._take_engines(message["engines"])
            return worker
        worker.end()
        self._wait_before_restart(str(message.get("error")))
        return None

    def _wait_before_restart(self, reason: str) -> None:
        self.not_ready = reason
        if not self._stopping.is_set():
            _log.error("the worker did not start")
            self._stopping.wait(RESTART_PAUSE_S)

    def _take_engines(self, engines: list[dict[str, Any]]) -> None:
        served = {engine["route"]: engine["bundle_sha256"] for engine in self.engines}
        for engine in engines:
            if engine["bundle_sha256"] != served.get(engine["route"]):
                keys = ("route", "bundle", "bundle_version", "bundle_sha256", "bundle_origin")
                _log.info("bundle in service", extra={key: engine[key] for key in keys})
        self.engines = engines
        failures = [
            f"{test['family']} in {test['precision']}: {test['failure']}"
            for engine in engines
            for test in engine["golden"]
            if test["failure"]
        ]
        self.not_ready = f"golden pair failed, {failures[0]}" if failures else None
        told = {"n_routes": len(engines), "n_failed": len(failures)}
        told["n_untested"] = sum(len(engine["untested"]) for engine in engines)
        _log.info("engines loaded", extra=told)

    def _drop_worker(self, reason: str) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None
        self.not_ready = reason

    def _idle(self, worker: WorkerProcess) -> None:
        ready, _, _ = select.select([worker.fileno(), self._wake_read], [], [], _IDLE_S)
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if worker.fileno() in ready or worker.has_message(0.0):
            self._take_engines(worker.receive(START_S)["engines"])

    def _handle(self, worker: WorkerProcess, job: Job) -> None:
        route = self._routes.get(job.route) or self._config.route(job.source, job.label)
        if route is None:
            self._fail(job, f"its route {job.route} is not configured any more")
            return
        if job.n_lost >= MAX_LOST or job.n_cut >= MAX_CUT:
            self._fail(job, f"{_cuts(job)}: {job.reason}")
            return
        try:
            order = self._order(job, route)
        except OSError as err:
            self._put_back(job, FULL_DISK_PAUSE_S, f"its folder: {err.strerror}", lost=False)
            return
        try:
            worker.order(order)
            outcome = self._await(worker, order)
        except WorkerLostError as err:
            worker.end()  # before its folder goes, and before another has the job
            shutil.rmtree(order.attempt, ignore_errors=True)
            if self._stopping.is_set():
                self._put_back(job, 0.0, "the appliance was stopped", lost=False)
            else:
                self._metrics.worker_lost()
                _log.error("worker lost", extra={"job": job.id})
                self._blamed[job.id] = str(err)
                self._put_back(job, 0.0, str(err), lost=True)
            raise
        self._conclude(job, route, outcome)

    def _order(self, job: Job, route: Route) -> Order:
        attempt = self._folder.attempt(job.id, job.attempts)
        shutil.rmtree(attempt, ignore_errors=True)
        attempt.mkdir(mode=0o700, exist_ok=True)
        classical = self._blamed.get(job.id)
        if classical is None and (2 * job.n_lost >= MAX_LOST or job.n_cut >= MANY_CUTS):
            classical = _cuts(job)
        return Order(
            job_id=job.id,
            route=route.name,
            payload=str(self._folder.payload(job.id)),
            attempt=str(attempt),
            remaining_s=None if job.due is None else job.due - self._clock(),
            deadline_s=None if job.due is None else round(job.due - job.received, 3),
            classical=classical,
            reply=job.source == "mrd",
            formats=self._formats(route),
        )

    def _formats(self, route: Route) -> tuple[str, ...]:
        """Give the route's formats, and DICOM where a PACS wants it."""
        has_pacs = any(name != OUT for name in self._config.targets(route))
        return tuple(dict.fromkeys((*route.formats, *(("dicom",) if has_pacs else ()))))

    def _await(self, worker: WorkerProcess, order: Order) -> Outcome:
        patience = STALL_S
        if order.classical is None and order.remaining_s is not None and order.remaining_s > 0:
            # Half of the time is left for a new worker and the classical image; what is late or
            # classical already has nothing to save by it.
            patience = min(STALL_S, max(LEAST_STALL_S, order.remaining_s / 2))
        heard = time.monotonic()
        while True:
            if self._stopping.is_set():
                raise WorkerLostError("the appliance is stopping")
            if not worker.has_message(0.5):
                if time.monotonic() - heard > patience:
                    raise WorkerLostError(f"the engine's process was silent for {patience:.0f} s")
                continue
            message = worker.receive(patience)
            heard = time.monotonic()
            if "outcome" in message:
                return Outcome(**message["outcome"])
            if "engines" in message:
                self._take_engines(message["engines"])

    def _conclude(self, job: Job, route: Route, outcome: Outcome) -> None:
        self._blamed.pop(job.id, None)
        if outcome.state == "unwritable":
            shutil.rmtree(self._folder.attempt(job.id, job.attempts), ignore_errors=True)
            self._put_back(job, FULL_DISK_PAUSE_S, str(outcome.reason), lost=False)
            return
        if outcome.state == "failed":
            self._fail(job, str(outcome.reason), outcome.report)
            return
        result = self.result(job)
        deliveries = [
            Delivery(job.id, name, item)
            for name in self._config.targets(route)
            for item in self._targets[name].items(result)
        ]
        state, n_bytes = outcome.state, folder_bytes(result.parent)
        self._persist(
            lambda: self._queue.finish(
                job.id,
                state,
                n_bytes=n_bytes,
                reason=outcome.reason,
                report=outcome.report,
                deliveries=deliveries,
            )
        )
        self._tell(job)

    def _fail(self, job: Job, reason: str, report: dict[str, Any] | None = None) -> None:
        shutil.rmtree(self._folder.attempt(job.id, job.attempts), ignore_errors=True)
        self._persist(lambda: self._queue.finish(job.id, "failed", reason=reason, report=report))
        self._tell(job)

    def _put_back(self, job: Job, pause_s: float, reason: str, *, lost: bool) -> None:
        self._persist(
            lambda: self._queue.release(job.id, pause_s=pause_s, reason=reason, lost=lost)
        )

    def _persist(self, write: Callable[[], None]) -> None:
        """Write to the queue, for as long as it takes until the disk has room."""
        while True:
            try:
                write()
            except OverloadError:
                _log.warning("a job waits for room on the disk")
                if self._stopping.wait(RESTART_PAUSE_S):
                    return  # it is found running at the next start, and done again
            else:
                return

    def _tell(self, job: Job) -> None:
        finished = self._queue.get(job.id)
        if finished is not None:
            self._metrics.finished(finished)
            _log.info("job finished", extra=_told(finished))
            self._on_finish(finished)


def _cuts(job: Job) -> str:
    return f"{job.n_lost + job.n_cut} attempts were cut short"


def _told(job: Job) -> dict[str, Any]:
    """Give what a log may hold of a job: its reason may quote the scan, the error's class not."""
    report = job.report
    told: dict[str, Any] = {"job": job.id, "source": job.source, "route": job.route}
    told |= {"state": job.state, "attempts": job.attempts, "error": report.get("error")}
    for key in ("n_slices", "n_fallbacks", "fallback_cause", "max_residual", "steps", "precision"):
        told[key] = report.get(key)
    told["backend"], told["seconds"] = report.get("backend"), report.get("seconds")
    return {key: value for key, value in told.items() if value is not None}
