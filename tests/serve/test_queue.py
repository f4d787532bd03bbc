"""The queue on disk: order, states, deliveries, and what a restart finds."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from ldmpir_edge.errors import StateError
from ldmpir_edge.serve.jobs import Delivery, Job
from ldmpir_edge.serve.queue import CUT_PAUSE_S, MANY_CUTS, MAX_PAUSE_S, JobQueue

DAY_S = 86400.0


class Clock:
    """Stands still until it is moved."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> JobQueue:
    return JobQueue(tmp_path / "q.sqlite3", clock)


def job(name: str, **changes: object) -> Job:
    made = Job(id=name, source="http", route="default", stem="a", received=Clock.now, n_bytes=10)
    return replace(made, **changes)  # type: ignore[arg-type]


def out(name: str, item: str = "") -> Delivery:
    return Delivery(name, "out", item)


def test_jobs_come_in_order_and_once(queue: JobQueue) -> None:
    for name in "abc":
        queue.add(job(name))
    assert [taken.id for _ in range(3) if (taken := queue.claim())] == ["a", "b", "c"]
    assert queue.claim() is None


def test_what_is_due_first_comes_first(queue: JobQueue) -> None:
    queue.add(job("none"))
    queue.add(job("late", due=Clock.now + 60))
    queue.add(job("soon", due=Clock.now + 5))
    queue.add(job("soon, but later", due=Clock.now + 5))
    order = [taken.id for _ in range(4) if (taken := queue.claim())]
    assert order == ["soon", "soon, but later", "late", "none"]


def test_everything_said_of_a_job_is_kept(queue: JobQueue, tmp_path: Path) -> None:
    queue.add(job("a", origin="o", due=Clock.now + 9, label="SCANNER1"))
    queue.claim()
    queue.finish("a", "fallback", n_bytes=5, reason="why", report={"backend": "x"})
    queue.close()
    again = JobQueue(tmp_path / "q.sqlite3").get("a")
    assert again == job(
        "a",
        **{"origin": "o", "due": Clock.now + 9, "state": "fallback", "attempts": 1},
        **{"n_bytes": 15, "finished": Clock.now, "reason": "why", "label": "SCANNER1"},
        report={"backend": "x"},
    )


def test_the_same_origin_is_the_same_job(queue: JobQueue) -> None:
    assert queue.add(job("a", origin="o")) == "a"
    assert queue.add(job("b", origin="o")) == "a"
    assert queue.add(job("c", origin="p")) == "c"
    assert queue.known() == {"a", "c"}
    assert (queue.find_origin("p"), queue.find_origin("q")) == ("c", None)


def test_a_restart_puts_running_jobs_back(queue: JobQueue, tmp_path: Path) -> None:
    for name in "ab":
        queue.add(job(name))
    queue.claim()
    queue.close()
    again = JobQueue(tmp_path / "q.sqlite3")
    assert sorted(again.recover()) == ["a", "b"]
    taken = again.claim()
    assert taken is not None
    assert (taken.id, taken.attempts, taken.state) == ("a", 2, "running")
    assert (taken.n_cut, taken.n_lost) == (1, 0)
    other = again.claim()
    assert other is not None
    assert (other.id, other.n_cut) == ("b", 0)


def test_a_job_that_many_runs_ended_with_lets_the_others_go_first(
    queue: JobQueue, clock: Clock
) -> None:
    for name in "ab":
        queue.add(job(name))
    for _ in range(MANY_CUTS):
        assert (first := queue.claim()) is not None
        assert first.id == "a"
        queue.recover()
    assert (other := queue.claim()) is not None
    assert other.id == "b"
    assert queue.claim() is None
    clock.now += CUT_PAUSE_S
    assert (last := queue.claim()) is not None
    assert (last.id, last.n_cut) == ("a", MANY_CUTS)


def test_an_attempt_that_its_surroundings_spoilt_does_not_count(
    queue: JobQueue, clock: Clock
) -> None:
    queue.add(job("a"))
    queue.claim()
    queue.release("a", pause_s=10, reason="the disk is full", lost=False)
    assert queue.claim() is None
    clock.now += 10
    taken = queue.claim()
    assert taken is not None
    assert (taken.n_lost, taken.reason) == (0, "the disk is full")
    queue.release("a", pause_s=0, reason="the worker ended", lost=True)
    assert (again := queue.claim()) is not None
    assert (again.n_lost, again.attempts) == (1, 3)


def test_a_job_ends_once(queue: JobQueue) -> None:
    queue.add(job("a"))
    queue.finish("a", "done", deliveries=[out("a")])  # it never ran
    assert queue.waiting_deliveries() == {}
    queue.claim()
    queue.finish("a", "done", deliveries=[out("a")])
    queue.finish("a", "failed", reason="a late worker", deliveries=[Delivery("a", "pacs", "")])
    queue.release("a", pause_s=0, reason="", lost=True)
    assert queue.counts() == {"queued": 0, "running": 0, "done": 1, "fallback": 0, "failed": 0}
    assert queue.waiting_deliveries() == {"out": 1}


def test_deliveries_wait_until_confirmed(queue: JobQueue, clock: Clock) -> None:
    for name in "ab":
        queue.add(job(name))
        queue.claim()
        queue.finish(name, "done", deliveries=[out(name, "1"), out(name, "2")])
    first = queue.next_deliveries("out")
    assert first == [out("a", "1"), out("a", "2")]
    queue.confirm(first[:1])
    queue.postpone(first[1:], "refused")
    assert queue.next_deliveries("out") == [out("b", "1"), out("b", "2")]
    queue.confirm(queue.next_deliveries("out"))
    assert queue.next_deliveries("out") == []
    assert queue.until_due("out") == 1
    assert queue.delivery_states("a") == [
        {"target": "out", "waiting": 1, "delivered": 1, "error": "refused"}
    ]
    clock.now += 1
    assert queue.next_deliveries("out") == [replace(out("a", "2"), attempts=1)]
    assert queue.until_due("out") == 0
    assert queue.next_deliveries("elsewhere") == []
    assert queue.until_due("elsewhere") is None


def test_a_lost_target_is_asked_ever_more_rarely_and_for_ever(
    queue: JobQueue, clock: Clock
) -> None:
    queue.add(job("a"))
    queue.claim()
    queue.finish("a", "done", deliveries=[out("a")])
    start, n_tries = clock.now, 0
    while clock.now < start + 3 * DAY_S:
        if waiting := queue.next_deliveries("out"):
            queue.postpone(waiting, "no answer")
            n_tries += 1
        clock.now += 20
    expected = 3 * DAY_S / MAX_PAUSE_S
    assert expected <= n_tries <= expected + 15
    assert queue.next_deliveries("out") or queue.waiting_deliveries() == {"out": 1}


def test_a_clock_that_is_set_back_holds_nothing_up(queue: JobQueue, clock: Clock) -> None:
    queue.add(job("a"))
    queue.add(job("b"))
    queue.claim()
    queue.finish("a", "done", deliveries=[out("a")])
    queue.postpone(queue.next_deliveries("out"), "no answer")
    queue.claim()
    queue.release("b", pause_s=5.0, reason="", lost=False)
    assert (queue.claim(), queue.next_deliveries("out")) == (None, [])
    clock.now -= 365 * DAY_S
    assert queue.until_due("out") == 0
    assert [delivery.job_id for delivery in queue.next_deliveries("out")] == ["a"]
    claimed = queue.claim()
    assert claimed is not None
    assert claimed.id == "b"


def test_deliveries_to_a_target_that_is_gone_are_given_up(queue: JobQueue) -> None:
    for name in "ab":
        queue.add(job(name))
        queue.claim()
        queue.finish(name, "done", deliveries=[out(name), Delivery(name, "pacs", "1")])
    assert queue.abandon(["out"]) == {"pacs": 2}
    assert queue.waiting_deliveries() == {"out": 2}
    gone = queue.delivery_states("a")[1]
    assert (gone["target"], gone["waiting"]) == ("pacs", 0)
    assert "not configured any more" in gone["error"]
    assert queue.abandon(["out"]) == {}


def test_what_somebody_may_still_fetch_is_told_from_what_was_delivered(
    queue: JobQueue, clock: Clock
) -> None:
    for name, deliveries in (("fetched", []), ("sent", [out("sent")])):
        queue.add(job(name))
        queue.claim()
        queue.finish(name, "done", deliveries=deliveries)
    queue.confirm(queue.next_deliveries("out"))
    clock.now += 1
    assert queue.delivered_before(clock.now) == ["fetched", "sent"]
    assert queue.delivered_before(clock.now, to_a_target=True) == ["sent"]


def test_the_load_is_what_is_not_delivered(queue: JobQueue, clock: Clock) -> None:
    for name in "abc":
        queue.add(job(name))
    assert queue.load() == (3, 30)
    queue.claim()
    queue.finish("a", "done", n_bytes=5, deliveries=[out("a")])
    queue.claim()
    queue.finish("b", "failed", reason="no scan")
    assert queue.load() == (2, 25)
    queue.confirm([out("a")])
    assert queue.load() == (1, 10)
    assert queue.delivered_before(clock.now) == []
    clock.now += 1
    assert queue.delivered_before(clock.now) == ["a", "b"]
    queue.forget(["a", "b"])
    assert queue.known() == {"c"}
    assert queue.delivery_states("a") == []


def test_the_latest_are_shown_first(queue: JobQueue) -> None:
    for name in "abcd":
        queue.add(job(name))
    assert [shown.id for shown in queue.recent(3)] == ["d", "c", "b"]


def test_commits_reach_the_disk(queue: JobQueue, tmp_path: Path) -> None:
    # SQLite's own words for it: 2 is FULL.
    assert queue._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert queue._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    queue.add(job("a"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("q.sqlite3*")}
    assert set(modes.values()) == {0o600}
    assert "q.sqlite3-wal" in modes


def test_a_damaged_queue_is_refused(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "q.sqlite3")
    queue.add(job("a"))
    queue.close()
    data = bytearray((tmp_path / "q.sqlite3").read_bytes())
    data[4096:8192] = bytes(4096)
    (tmp_path / "q.sqlite3").write_bytes(data)
    with pytest.raises(StateError, match="cannot open the queue"):
        JobQueue(tmp_path / "q.sqlite3")


def test_a_queue_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "q.sqlite3"
    with sqlite3.connect(path) as db:
        # As 0.13.0 made them.
        columns = (
            "number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, origin TEXT UNIQUE, source TEXT "
            "NOT NULL, route TEXT NOT NULL, stem TEXT NOT NULL, received REAL NOT NULL, due REAL, "
            "n_bytes INTEGER NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, "
            "n_lost INTEGER NOT NULL DEFAULT 0, n_cut INTEGER NOT NULL DEFAULT 0, not_before REAL "
            "NOT NULL DEFAULT 0, finished REAL, reason TEXT, report TEXT NOT NULL DEFAULT '{}'"
        )
        db.execute(f"CREATE TABLE jobs ({columns})")
        db.execute("CREATE TABLE deliveries (job_id, target, item, delivered)")
        db.execute(
            "INSERT INTO jobs (id, source, route, stem, received, n_bytes, state) "
            "VALUES ('a', 'http', 'r', 's', 1, 2, 'queued')"
        )
        db.execute("PRAGMA user_version = 1")
    queue = JobQueue(path)
    old = queue.get("a")
    assert old is not None
    assert (old.state, old.label) == ("queued", "")
    queue.add(job("b", label="brain"))
    queue.close()
    new = JobQueue(path).get("b")
    assert new is not None
    assert new.label == "brain"


def test_a_queue_of_a_later_release_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "q.sqlite3") as db:
        db.execute("PRAGMA user_version = 3")
    with pytest.raises(StateError, match="version 3, this release knows 2"):
        JobQueue(tmp_path / "q.sqlite3")
    with pytest.raises(StateError, match="cannot open"):
        JobQueue(tmp_path / "no folder" / "q.sqlite3")
