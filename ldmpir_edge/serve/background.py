"""Work beside the appliance that gives way to it, in everything that the system lets it."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from ldmpir_edge.errors import StateError

LOOK_S = 0.5
LEAST_NICE = 19
FIRST_TO_GO = "1000"


def give_way() -> None:
    """Run this process only when nothing else wants to, and let it go first where memory ends.

    On Linux all threads are meant, which each have their own priority; threads that they start have
    it too. With SCHED_IDLE comes the idle class of input and output (`ioprio_set(2)`).
    """
    if sys.platform != "linux":
        os.nice(LEAST_NICE)
        return
    for task in Path("/proc/self/task").iterdir():
        # Refused in some containers: then as far as it goes.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, int(task.name), LEAST_NICE)
        with suppress(OSError):
            os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)


def n_unfinished_jobs(database: Path) -> int:
    """Count the jobs of an appliance's queue that wait or run, without writing to it.

    Raises
    ------
    StateError
        The queue cannot be read.
    """
    if not database.exists():  # it has not been started yet
        return 0
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as queue:
            query = "SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'running')"
            return int(queue.execute(query).fetchone()[0])
    except sqlite3.Error as err:
        raise StateError(
            f"cannot read the queue {database}: {err}; run this as the user that the appliance "
            "runs as"
        ) from err


def wait_until_idle(database: Path, on_wait: Callable[[int], None]) -> None:
    """Return once no job waits or runs.

    Parameters
    ----------
    database
        Of the queue.
    on_wait
        Called with the number of jobs at each look that found some.

    Raises
    ------
    StateError
        The queue cannot be read.
    """
    while n_jobs := n_unfinished_jobs(database):
        on_wait(n_jobs)
        time.sleep(LOOK_S)
