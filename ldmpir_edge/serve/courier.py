"""Bring results to their targets: a thread a target, which tries until the target has confirmed."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ldmpir_edge.atomic import TEMPORARY_PREFIX, atomic_folder, make_folder
from ldmpir_edge.errors import LdmpirError
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.metrics import Metrics
from ldmpir_edge.serve.queue import JobQueue

POLL_S = 30.0
LEFT_BEHIND_S = 3600.0
MAX_REST_S = 60.0
"""Longest rest after failures; each job waits besides, by `JobQueue.postpone`."""

_log = logging.getLogger(__name__)


class Target(Protocol):
    """Where results go."""

    def items(self, result: Path) -> Sequence[str]:
        """List what is delivered of a result's folder, each confirmed on its own."""

    def deliver(self, job: Job, result: Path, items: Sequence[str]) -> Sequence[str]:
        """Deliver and return the items that the target has now, all or some.

        Raises
        ------
        LdmpirError
            It has none of them.
        """

    def cancel(self) -> None:
        """End a delivery that is under way in another thread, if it may take long."""


class FolderTarget:
    """The output folder: a result is the folder `STEM-ID` in it, complete or absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for left in folder.glob(f"{TEMPORARY_PREFIX}*"):
            # By a killed process. A younger one may be another program's, at work.
            with suppress(OSError):
                if left.stat().st_mtime < time.time() - LEFT_BEHIND_S:
                    shutil.rmtree(left, ignore_errors=True)

    def items(self, result: Path) -> Sequence[str]:
        """List the whole result as one."""
        return [""]

    def deliver(self, job: Job, result: Path, items: Sequence[str]) -> Sequence[str]:
        """Copy the result; one of the same job is replaced.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        make_folder(self._folder)
        with atomic_folder(self._folder / f"{job.stem}-{job.id[:12]}") as place:
            shutil.copytree(result, place, dirs_exist_ok=True, copy_function=shutil.copyfile)
        return items

    def cancel(self) -> None:
        """Let a copy end by itself."""


class Courier:
    """The thread of one target.

    Parameters
    ----------
    name, target
        The target, and what it is called in the configuration.
    queue
        Holds the outbox.
    result
        Answers the folder of a job's result.
    metrics
        Counts what arrived and what did not.
    """

    def __init__(
        self,
        name: str,
        target: Target,
        queue: JobQueue,
        result: Callable[[Job], Path],
        metrics: Metrics,
    ) -> None:
        self._name, self._target, self._queue, self._result = name, target, queue, result
        self._metrics = metrics
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._n_failures = 0
        self._thread = threading.Thread(target=self._run, name=f"ldmpir-to-{name}", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Look into the outbox now."""
        self._wake.set()

    def stop(self) -> None:
        """End; what is being delivered is delivered again at the next start, if need be."""
        self._stopping.set()
        self._wake.set()
        self._target.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def deliver_next(self) -> bool:
        """Try the next job; answer whether there was one."""
        deliveries = self._queue.next_deliveries(self._name)
        if not deliveries:
            return False
        job = self._queue.get(deliveries[0].job_id)
        if job is None:
            return False
        by_item = {delivery.item: delivery for delivery in deliveries}
        try:
            arrived = self._target.deliver(job, self._result(job), [*by_item])
            error = "the target did not confirm it"
        except LdmpirError as err:
            arrived, error = [], str(err)
        # What a library makes of a strange answer, no descriptor left: none of it may end the
        # thread, for nobody else delivers to this target.
        except Exception as err:  # noqa: BLE001
            arrived, error = [], f"the delivery failed: {type(err).__name__}"
            _log.exception("delivery failed", extra={"job": job.id, "target": self._name})
        self._queue.confirm([by_item[item] for item in arrived])
        self._metrics.delivered(self._name, len(arrived))
        told = {"job": job.id, "target": self._name, "n_items": len(arrived)}
        _log.info("delivered", extra=told)
        missing = [delivery for item, delivery in by_item.items() if item not in set(arrived)]
        if missing:
            self._queue.postpone(missing, error)
            self._metrics.not_delivered(self._name, len(missing))
            _log.warning("delivery postponed", extra={**told, "n_items": len(missing)})
        self._n_failures = self._n_failures + 1 if missing else 0
        return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                if self.deliver_next() and not self._n_failures:
                    continue
            except (LdmpirError, sqlite3.Error, OSError) as err:
                # The outbox itself, or its disk: full, or failing.
                _log.warning(
                    "the outbox cannot be used",
                    extra={"target": self._name, "error": type(err).__name__},
                )
                self._n_failures += 1
            if self._n_failures:
                # A new result is no reason to ask a target again that just failed.
                self._stopping.wait(min(2.0 ** (self._n_failures - 1), MAX_REST_S))
            else:
                self._wake.wait(self._rest_s())

    def _rest_s(self) -> float:
        with suppress(sqlite3.Error):
            due_s = self._queue.until_due(self._name)
            return POLL_S if due_s is None else min(due_s, POLL_S)
        return POLL_S
