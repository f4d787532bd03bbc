"""A courier outlives whatever its target does."""

from __future__ import annotations

import socket
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from ldmpir_edge.serve.config import Pacs
from ldmpir_edge.serve.courier import Courier
from ldmpir_edge.serve.dicom.pacs import DeliveryError, PacsTarget
from ldmpir_edge.serve.jobs import Delivery, Job
from ldmpir_edge.serve.metrics import Metrics
from ldmpir_edge.serve.queue import JobQueue

PATIENCE_S = 30.0


class Flaky:
    """Raises each of `errors` in turn, then takes everything."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.taken: list[str] = []

    def items(self, result: Path) -> Sequence[str]:
        return [""]

    def deliver(self, job: Job, result: Path, items: Sequence[str]) -> Sequence[str]:
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(job.id)
        return items

    def cancel(self) -> None:
        pass


@pytest.fixture
def queue(tmp_path: Path) -> JobQueue:
    made = JobQueue(tmp_path / "q.sqlite3")
    made.add(Job(id="a", source="http", route="r", stem="a", received=time.time(), n_bytes=1))
    made.claim()
    made.finish("a", "done", deliveries=[Delivery("a", "out", "")])
    return made


def courier(queue: JobQueue, target: Flaky, tmp_path: Path) -> Courier:
    return Courier("out", target, queue, lambda _: tmp_path, Metrics())


@pytest.mark.parametrize(
    "error", [OSError(24, "Too many open files"), RuntimeError("odd"), socket.gaierror(-2, "name")]
)
def test_what_a_target_raises_postpones_the_delivery(
    queue: JobQueue, tmp_path: Path, error: Exception
) -> None:
    target = Flaky(error)
    assert courier(queue, target, tmp_path).deliver_next()
    (state,) = queue.delivery_states("a")
    assert (state["waiting"], target.taken) == (1, [])
    assert type(error).__name__ in state["error"]


def test_the_thread_goes_on_after_errors(
    queue: JobQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Flaky(OSError(5, "Input/output error"))
    at_work = courier(queue, target, tmp_path)
    ask, broken = queue.next_deliveries, [sqlite3.OperationalError("disk I/O error")]

    def next_deliveries(name: str) -> list[Delivery]:
        if broken:
            raise broken.pop()
        return ask(name)

    monkeypatch.setattr(queue, "next_deliveries", next_deliveries)
    at_work.start()
    until = time.monotonic() + PATIENCE_S
    while not target.taken and time.monotonic() < until:
        time.sleep(0.05)
    at_work.stop()
    assert target.taken == ["a"]


def test_a_pacs_whose_name_does_not_resolve_is_one_that_is_away(tmp_path: Path) -> None:
    pacs = Pacs(address="no-such-host.invalid:104", ae_title="PACS")
    made = Job(id="a", source="http", route="r", stem="a", received=0.0, n_bytes=1)
    with pytest.raises(DeliveryError, match=r"no-such-host\.invalid:104 cannot be reached"):
        PacsTarget("main", pacs).deliver(made, tmp_path, [f"{generate_uid()}.dcm"])
