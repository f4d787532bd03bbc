"""The front: everything but the engines, put together, started and stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from ldmpir_edge.physics.problem import FAMILIES, Family
from ldmpir_edge.serve.bundles import open_route_bundle
from ldmpir_edge.serve.config import OUT, ServeConfig
from ldmpir_edge.serve.courier import Courier, FolderTarget, Target
from ldmpir_edge.serve.intake import Intake
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.queue import JobQueue
from ldmpir_edge.serve.state_folder import StateFolder
from ldmpir_edge.serve.supervisor import Supervisor

HOUR_S = 3600.0


class Appliance:
    """The running appliance, used as a context manager.

    Attributes
    ----------
    folder, queue, intake, supervisor
        Its parts.

    Raises
    ------
    StateError
        The state folder is in use, damaged or not writable.
    BundleError
        A route's bundle cannot be used.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.folder = StateFolder(config.state)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for route in self.config.routes:
            open_route_bundle(route, allow_unsigned=self.config.allow_unsigned)
        # Scans and images are for this user's eyes only, whichever library writes them.
        os.umask(0o077)
        with ExitStack() as stack:
            stack.enter_context(self.folder.hold())
            self.queue = JobQueue(self.folder.database)
            stack.callback(self.queue.close)
            unfinished = self.queue.recover()
            self.folder.sweep(self.queue.known(), unfinished)
            self.intake = Intake(self.config, self.folder, self.queue)
            targets = self._targets()
            self.supervisor = Supervisor(
                *(self.config, self.folder, self.queue, targets, self._families()),
                on_finish=self._on_finish,
            )
            self.couriers = {
                name: Courier(name, target, self.queue, self.supervisor.result)
                for name, target in targets.items()
            }
            self.intake.on_arrival(self.supervisor.wake)
            for courier in self.couriers.values():
                courier.start()
                stack.callback(courier.stop)
            self.supervisor.start()
            stack.callback(self.supervisor.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def keep_house(self) -> None:
        """Remove what was delivered and kept long enough; more, and earlier, on a full disk."""
        limits = self.config.limits
        now = time.time()
        for job_id in self.queue.delivered_before(now - limits.keep_hours * HOUR_S):
            self._remove(job_id)
        for job_id in self.queue.delivered_before(now):
            if self.folder.free_bytes() >= 2 * limits.min_free_bytes:
                return
            self._remove(job_id)

    def _remove(self, job_id: str) -> None:
        # The row goes last: files without a row are swept, a row without files would lie.
        self.folder.remove(job_id)
        self.queue.forget([job_id])

    def _targets(self) -> dict[str, Target]:
        return {OUT: FolderTarget(self.config.out)} if self.config.out is not None else {}

    def _families(self) -> Sequence[Family]:
        """Name the engines that the open doors can ask for, for their golden pairs."""
        if {"http", "watch"} & set(self.config.doors):
            return FAMILIES
        wanted: list[Family] = []
        if self.config.mrd is not None:
            wanted += ["cartesian1d", "separable"]
        if self.config.dicom is not None:
            wanted.append("pointwise")
            if any(route.task == "super-resolve" for route in self.config.routes):
                wanted.append("separable")
        return list(dict.fromkeys(wanted))

    def _on_finish(self, job: Job) -> None:
        for courier in self.couriers.values():
            courier.wake()
