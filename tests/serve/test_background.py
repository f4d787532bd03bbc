"""Work beside the appliance: it waits while there are jobs, writes nothing, and comes last."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ldmpir_edge.errors import StateError
from ldmpir_edge.serve.background import n_unfinished_jobs, wait_until_idle
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.queue import JobQueue


def job(name: str) -> Job:
    return Job(id=name, source="http", route="r", stem="scan", received=0.0, n_bytes=1)


def test_jobs_that_wait_or_run_are_counted_while_the_front_has_the_queue(tmp_path: Path) -> None:
    database = tmp_path / "queue.sqlite3"
    assert n_unfinished_jobs(database) == 0
    assert not database.exists()
    queue = JobQueue(database)
    assert n_unfinished_jobs(database) == 0
    for name in ("a", "b"):
        queue.add(job(name))
    assert n_unfinished_jobs(database) == 2
    claimed = queue.claim()
    assert claimed is not None
    assert n_unfinished_jobs(database) == 2
    queue.finish(claimed.id, "done")
    assert n_unfinished_jobs(database) == 1
    queue.close()
    # Nobody has it open now, and SQLite has removed the log beside it.
    assert n_unfinished_jobs(database) == 1


def test_looking_changes_nothing(tmp_path: Path) -> None:
    database = tmp_path / "queue.sqlite3"
    queue = JobQueue(database)
    queue.add(job("a"))
    queue.close()
    before = database.read_bytes(), database.stat().st_mtime_ns
    n_unfinished_jobs(database)
    assert (database.read_bytes(), database.stat().st_mtime_ns) == before


def test_what_is_no_queue_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "queue.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(StateError, match="cannot read the queue"):
        n_unfinished_jobs(tmp_path / "queue.sqlite3")


def test_waiting_ends_when_the_last_job_does(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "queue.sqlite3")
    queue.add(job("a"))
    seen: list[int] = []

    def work() -> None:
        while not seen:
            time.sleep(0.01)
        queue.finish(queue.claim().id, "done")  # type: ignore[union-attr]

    worker = threading.Thread(target=work)
    worker.start()
    wait_until_idle(tmp_path / "queue.sqlite3", seen.append)
    worker.join()
    assert set(seen) == {1}
    wait_until_idle(tmp_path / "queue.sqlite3", lambda n_jobs: pytest.fail("nothing waits"))


PROBE = """
import threading, os
hold = threading.Event()
threading.Thread(target=hold.wait).start()
from ldmpir_edge.serve.background import give_way
give_way()
threading.Thread(target=hold.wait).start()
for task in sorted(map(int, os.listdir("/proc/self/task"))):
    print(os.sched_getscheduler(task) == os.SCHED_IDLE, os.getpriority(os.PRIO_PROCESS, task))
print(open("/proc/self/oom_score_adj").read().strip())
hold.set()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities on Linux alone")
def test_every_thread_gives_way_those_before_and_those_after() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines() == ["True 19"] * 3 + ["1000"]
