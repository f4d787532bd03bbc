"""Series on their way in: acknowledged image by image, a job once complete, safe at any moment."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest

from ldmpir_edge.errors import OverloadError, UsageError
from ldmpir_edge.serve.config import load_config
from ldmpir_edge.serve.dicom import series
from ldmpir_edge.serve.dicom.series import LEAST_OPEN_QUIET_S, SeriesStore
from ldmpir_edge.serve.intake import Incoming, Intake, PayloadTooLargeError
from ldmpir_edge.serve.metrics import Metrics
from ldmpir_edge.serve.queue import JobQueue
from ldmpir_edge.serve.state_folder import StateFolder

QUIET_S = 5.0


class Node:
    """A store whose clock stands still; a new one on the same folder is a restart."""

    def __init__(self, root: Path, **settings: Any) -> None:
        config = load_config(
            None, {"state": root / "state", "limits": {"min_free_bytes": 0}, **settings}
        )
        self.folder = StateFolder(config.state)
        for place in (self.folder.jobs, self.folder.incoming, self.folder.series):
            place.mkdir(parents=True, exist_ok=True)
        self.queue = JobQueue(self.folder.database)
        self.folder.sweep(self.queue.known(), self.queue.recover())
        self.intake = Intake(config, self.folder, self.queue, Metrics())
        self.now = 0.0
        self.store = SeriesStore(self.intake, self.folder, QUIET_S, lambda: self.now)
        self.store.start()
        self.store.stop()  # the thread: these tests tick themselves
        for home in self.folder.series.iterdir():
            self.store._resume(home)

    def take(self, key: str, instance: str, data: bytes = b"data", association: int = 1) -> None:
        self.store.store("SCANNER1", key, instance, data, association)

    def after(self, seconds: float) -> list[list[bytes]]:
        """Let time pass; gives the payloads of all jobs, each as the contents of its files."""
        self.now += seconds
        self.store.complete()
        return [
            sorted(path.read_bytes() for path in self.folder.payload(job.id).iterdir())
            for job in reversed(self.queue.recent(99))
        ]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_series_is_a_job_when_its_association_ended_and_nothing_follows(node: Node) -> None:
    for index in range(3):
        node.take("a", str(index), b"%d" % index)
        assert node.after(QUIET_S - 1) == []
    node.store.end(1)
    assert node.after(0.5) == []
    assert node.after(0.5) == [[b"0", b"1", b"2"]]
    job = node.queue.recent(1)[0]
    assert (job.source, job.stem, job.n_bytes) == ("dicom", "series", 3)
    assert not [*node.folder.series.iterdir()]


def test_an_association_that_stays_open_is_waited_for_longer(node: Node) -> None:
    node.take("a", "1")
    assert node.after(QUIET_S) == []
    assert node.after(LEAST_OPEN_QUIET_S - QUIET_S - 0.1) == []
    assert node.after(0.2) == [[b"data"]]


def test_series_and_scanners_are_told_apart(node: Node) -> None:
    for key in "abab":
        node.take(key, f"{key}1", key.encode())
    node.take("a", "a2", b"second")
    node.store.end(1)
    assert node.after(QUIET_S) == [[b"a", b"second"], [b"b"]]


def test_one_series_may_come_over_several_associations(node: Node) -> None:
    node.take("a", "1", b"1", association=1)
    node.store.end(1)
    node.now += QUIET_S - 1
    node.take("a", "2", b"2", association=2)
    assert node.after(QUIET_S) == []
    node.store.end(2)
    assert node.after(0) == [[b"1", b"2"]]


def test_an_image_that_comes_again_replaces_itself(node: Node) -> None:
    node.take("a", "1", b"first")
    node.take("a", "1", b"again")
    node.store.end(1)
    assert node.after(QUIET_S) == [[b"again"]]


def test_what_was_acknowledged_survives_a_restart(node: Node, tmp_path: Path) -> None:
    node.take("a", "1", b"1")
    (payload,) = node.folder.series.glob("*/payload")
    (payload / "half.dcm.part").write_bytes(b"killed in the middle")
    again = Node(tmp_path)
    again.take("a", "2", b"2")
    again.store.end(1)
    assert again.after(QUIET_S) == [[b"1", b"2"]]


@pytest.mark.parametrize("moment", ["before the rename", "before the row", "after the row"])
def test_a_kill_while_it_becomes_a_job_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class KilledError(BaseException):
        pass

    node = Node(tmp_path)
    node.take("a", "1", b"1")
    node.store.end(1)
    add = node.queue.add

    def kill(*_: object) -> None:
        raise KilledError

    if moment == "before the rename":
        monkeypatch.setattr(Path, "rename", kill)
    elif moment == "before the row":
        monkeypatch.setattr(node.queue, "add", kill)
        # A dead process does not tidy up behind itself.
        rename = Path.rename
        monkeypatch.setattr(
            Path, "rename", lambda a, b: rename(a, b) if a.parent.name == "series" else a
        )
    else:
        monkeypatch.setattr(node.queue, "add", lambda job: (add(job), kill()))
        monkeypatch.setattr(Path, "rename", Path.rename)
        rename = Path.rename
        monkeypatch.setattr(
            Path, "rename", lambda a, b: rename(a, b) if a.parent.name == "series" else a
        )
    with pytest.raises(KilledError):
        node.after(QUIET_S)
    monkeypatch.undo()
    again = Node(tmp_path)
    assert again.after(QUIET_S) == [[b"1"]]
    assert Node(tmp_path).after(QUIET_S) == [[b"1"]]


def test_a_full_disk_at_the_last_moment_keeps_the_series(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OverloadError("the disk is full")

    node.take("a", "1", b"1")
    node.store.end(1)
    with monkeypatch.context() as patch:
        patch.setattr(node.queue, "add", refuse)
        assert node.after(QUIET_S) == []
    assert node.after(0) == [[b"1"]]


def test_a_series_that_has_to_wait_keeps_no_other_waiting(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in "ab":
        node.take(key, key, key.encode())
    node.store.end(1)
    accept = Incoming.accept

    def broken(incoming: Incoming, stem: str) -> str:
        if (incoming.payload / name).exists():
            raise OSError(errno.EIO, "input/output error")
        return accept(incoming, stem)

    name = f"{hashlib.sha256(b'a').hexdigest()[:32]}.dcm"
    with monkeypatch.context() as patch:
        patch.setattr(Incoming, "accept", broken)
        assert node.after(QUIET_S) == [[b"b"]]
    assert node.after(0) == [[b"b"], [b"a"]]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_series_of_which_nothing_was_taken_gives_its_place_back(
    tmp_path: Path, restarted: bool
) -> None:
    limits = {"min_free_bytes": 0, "max_jobs": 2, "max_bytes": 10}
    node = Node(tmp_path, limits=limits)
    for key in "ab":
        with pytest.raises(OverloadError):
            node.take(key, "1", b"12345678901")
    with pytest.raises(OverloadError, match="as many as are taken"):
        node.take("c", "1", b"1")
    if restarted:
        node = Node(tmp_path, limits=limits)
    assert node.after(QUIET_S) == []
    assert not [*node.folder.series.iterdir()]
    node.take("c", "1", b"1")
    node.store.end(1)
    assert node.after(QUIET_S) == [[b"1"]]


def test_a_series_whose_marker_cannot_be_written_leaves_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(series, "flush_folder", fail)
        with pytest.raises(OSError, match="input/output"):
            node.take("a", "1")
    assert not [*node.folder.series.iterdir()]
    assert not node.intake._arriving


def test_limits_hold_for_series_too(tmp_path: Path) -> None:
    limits = {"min_free_bytes": 0, "max_jobs": 2, "max_payload_bytes": 10}
    node = Node(tmp_path, limits=limits)
    node.take("a", "1", b"12345")
    with pytest.raises(PayloadTooLargeError):
        node.take("a", "2", b"123456")
    node.take("b", "1", b"1")
    with pytest.raises(OverloadError, match="as many as are taken"):
        node.take("c", "1", b"1")
    node.store.end(1)
    assert node.after(QUIET_S) == [[b"12345"], [b"1"]]


def test_a_series_without_a_route_is_refused(tmp_path: Path) -> None:
    node = Node(tmp_path, routes=[{"name": "a", "label": "OTHER"}])
    with pytest.raises(UsageError, match="no route"):
        node.take("a", "1")
    assert not [*node.folder.series.iterdir()]


def test_a_series_whose_route_is_gone_is_kept(node: Node, tmp_path: Path) -> None:
    node.take("a", "1", b"1")
    without = Node(tmp_path, routes=[{"name": "a", "label": "OTHER"}])
    without.store.end(1)
    assert without.after(1000) == []
    again = Node(tmp_path)
    again.store.end(1)
    assert again.after(QUIET_S) == [[b"1"]]


def test_a_marker_that_was_not_finished_holds_nothing(node: Node, tmp_path: Path) -> None:
    home = node.folder.series / ("0" * 32)
    (home / "payload").mkdir(parents=True)
    (home / "series.json").write_text("{")
    again = Node(tmp_path)
    assert again.after(1000) == []
    assert not home.exists()
