"""Taking scans in: limits, refusals and what is left of a scan that was not accepted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ldmpir_edge.errors import OverloadError, UsageError
from ldmpir_edge.serve.config import load_config
from ldmpir_edge.serve.intake import Incoming, Intake, PayloadTooLargeError, plain_stem
from ldmpir_edge.serve.metrics import Metrics
from ldmpir_edge.serve.queue import JobQueue
from ldmpir_edge.serve.state_folder import StateFolder

NOON = 1_000_000.0


class Door:
    """An intake with its folder and queue."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.config = load_config(None, {"state": root / "state", **settings})
        self.folder = StateFolder(self.config.state)
        self.folder.jobs.mkdir(parents=True)
        self.folder.incoming.mkdir()
        self.queue = JobQueue(self.folder.database)
        self.intake = Intake(self.config, self.folder, self.queue, Metrics(), lambda: NOON)

    def send(self, data: bytes, **told: Any) -> str:
        with self.intake.open("http", **told) as incoming:
            self.fill(incoming, data)
            return incoming.accept("a.h5")

    def fill(self, incoming: Incoming, data: bytes) -> None:
        with incoming.file() as stream:
            for start in range(0, len(data), 100):
                incoming.write(stream, data[start : start + 100])

    def assert_empty(self) -> None:
        assert self.queue.known() == set()
        assert not [*self.folder.incoming.iterdir(), *self.folder.jobs.iterdir()]


def test_a_scan_is_queued_with_what_its_route_says(tmp_path: Path) -> None:
    door = Door(tmp_path, routes=[{"name": "web", "deadline_s": 30}], limits={"min_free_bytes": 0})
    arrivals: list[int] = []
    door.intake.on_arrival(lambda: arrivals.append(1))
    job = door.queue.get(door.send(b"x" * 250))
    assert job is not None
    assert (job.route, job.source, job.stem, job.n_bytes) == ("web", "http", "a", 250)
    assert (job.received, job.due) == (NOON, NOON + 30)
    scan = door.folder.payload(job.id) / "scan"
    assert scan.read_bytes() == b"x" * 250
    assert scan.stat().st_mode & 0o777 == 0o600
    assert scan.parent.parent.stat().st_mode & 0o077 == 0
    assert arrivals == [1]


def test_a_scan_that_is_not_accepted_leaves_nothing(tmp_path: Path) -> None:
    door = Door(tmp_path)
    with pytest.raises(ConnectionError), door.intake.open("http") as incoming:
        door.fill(incoming, b"half of a scan")
        raise ConnectionError
    with door.intake.open("http") as incoming:
        door.fill(incoming, b"never accepted")
    door.assert_empty()


def test_one_scan_may_not_be_too_large(tmp_path: Path) -> None:
    door = Door(tmp_path, limits={"max_payload_bytes": 250})
    door.send(b"x" * 250)
    with pytest.raises(PayloadTooLargeError, match="250 bytes"):
        door.send(b"x" * 251)
    assert len(door.queue.known()) == 1


def test_a_full_queue_refuses_before_it_reads(tmp_path: Path) -> None:
    door = Door(tmp_path, limits={"max_jobs": 2})
    door.send(b"1")
    with door.intake.open("http") as arriving:
        with pytest.raises(OverloadError, match="as many as are taken"):
            door.intake.open("http")
        door.fill(arriving, b"2")
        arriving.accept("b")
    with pytest.raises(OverloadError):
        door.intake.open("http")
    taken = door.queue.claim()
    assert taken is not None
    door.queue.finish(taken.id, "failed", reason="no scan")
    door.send(b"3")


def test_bytes_that_arrive_at_once_count_together(tmp_path: Path) -> None:
    door = Door(tmp_path, limits={"max_bytes": 1000})
    door.send(b"x" * 400)
    with door.intake.open("http") as one, door.intake.open("http") as other:
        door.fill(one, b"x" * 500)
        with pytest.raises(OverloadError, match="1000 bytes"):
            door.fill(other, b"x" * 101)
        one.accept("one")
    door.send(b"x" * 100)


def test_some_of_the_disk_stays_free(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    more_than_there_is = disk.f_blocks * disk.f_frsize
    door = Door(tmp_path, limits={"min_free_bytes": more_than_there_is})
    with pytest.raises(OverloadError, match="free on the appliance's disk"):
        door.intake.open("http")
    door.assert_empty()


def test_a_scan_without_a_route_is_refused(tmp_path: Path) -> None:
    door = Door(tmp_path, routes=[{"name": "mri", "sources": ["mrd"], "label": "brain"}])
    with pytest.raises(UsageError, match="no route takes a scan from mrd"):
        door.intake.open("mrd", "knee")
    with pytest.raises(UsageError):
        door.intake.open("http", "brain")
    with door.intake.open("mrd", "brain") as incoming:
        assert incoming.route.name == "mri"


def test_a_repeated_scan_is_the_first(tmp_path: Path) -> None:
    door = Door(tmp_path)
    first = door.send(b"1", origin="request 1")
    assert door.send(b"1", origin="request 1") == first
    assert door.send(b"1", origin="request 2") != first
    assert {path.name for path in door.folder.jobs.iterdir()} == door.queue.known()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("brain.h5", "brain"),
        ("brain.nii.gz", "brain"),
        ("../../etc/passwd", "passwd"),
        ("C:\\scans\\knee 2.h5", "knee-2"),
        ("Müller^Anna.dcm", "M-ller-Anna"),
        ("..", "scan"),
        ("", "scan"),
        (".h5", "h5"),
        ("a\x00b\nc", "a-b-c"),
        ("x" * 300 + ".h5", "x" * 48),
    ],
)
def test_a_clients_name_becomes_a_plain_one(name: str, stem: str) -> None:
    assert plain_stem(name) == stem
