"""The durable queue: jobs and their deliveries in SQLite, committed before anyone is told.

Write-ahead log with `synchronous=FULL`: a transaction is on disk when `commit` returns (SQLite,
"PRAGMA synchronous"). One connection serves all threads of the front, one at a time.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from ldmpir_edge.errors import OverloadError, StateError
from ldmpir_edge.serve.jobs import STATES, Delivery, Job, State

SCHEMA_VERSION = 2
MAX_PAUSE_S = 600.0
"""Longest wait between two attempts to deliver."""

MANY_CUTS = 8
"""After so many runs of the appliance that ended with a job, others go before it."""

CUT_PAUSE_S = 10.0
"""For how long."""

_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    origin TEXT UNIQUE,
    source TEXT NOT NULL,
    route TEXT NOT NULL,
    stem TEXT NOT NULL,
    received REAL NOT NULL,
    due REAL,
    n_bytes INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    n_lost INTEGER NOT NULL DEFAULT 0,
    n_cut INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    finished REAL,
    reason TEXT,
    report TEXT NOT NULL DEFAULT '{}',
    label TEXT NOT NULL DEFAULT ''
);
CREATE INDEX jobs_by_state ON jobs (state, due, number);
CREATE TABLE deliveries (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    target TEXT NOT NULL,
    item TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    error TEXT,
    delivered REAL,
    PRIMARY KEY (job_id, target, item)
);
CREATE TABLE taken (
    origin TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    seen REAL NOT NULL
);
CREATE INDEX deliveries_waiting ON deliveries (target, not_before) WHERE delivered IS NULL;
"""

_FIELDS = tuple(field.name for field in fields(Job))
_UNDELIVERED = (
    "(state IN ('queued', 'running') OR id IN "
    "(SELECT job_id FROM deliveries WHERE delivered IS NULL))"
)


_DUE = "(not_before <= ? OR not_before > ?)"
"""Nothing waits longer than `MAX_PAUSE_S`: a later time is of a clock that was set back since."""


class JobQueue:
    """Jobs and deliveries on disk.

    Parameters
    ----------
    path
        The database; created where missing.
    clock
        Gives seconds since 1970.

    Raises
    ------
    StateError
        It is damaged, from a later release, or cannot be opened.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._open_schema()
        except (sqlite3.Error, OSError) as err:
            raise StateError(
                f"cannot open the queue {path}: {err}; restore it, or choose another --state"
            ) from err

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def recover(self) -> list[str]:
        """Put the jobs that were running when the process ended back into the queue.

        One that many runs have ended with, by chance or not, lets the others go first.

        Returns
        -------
            The unfinished jobs, all queued now.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET state = 'queued', n_cut = n_cut + 1, not_before = "
                "CASE WHEN n_cut + 1 < ? THEN not_before ELSE ? END WHERE state = 'running'",
                (MANY_CUTS, self._clock() + CUT_PAUSE_S),
            )
            return [row[0] for row in self._db.execute("SELECT id FROM jobs WHERE state='queued'")]

    def known(self) -> set[str]:
        """Answer the ids of all jobs that have a row."""
        with self._lock:
            return {row[0] for row in self._db.execute("SELECT id FROM jobs")}

    def add(self, job: Job) -> str:
        """Commit a job whose payload is on disk; answer its id, or that of the same origin's.

        An origin in the watched folder is known until `remember` drops it, any other until
        `forget` does.

        Raises
        ------
        OverloadError
            The disk is full.
        """
        with self._transaction():
            if job.origin is not None and (found := self._by_origin(job.origin)) is not None:
                return found
            self._db.execute(
                "INSERT INTO jobs (id, origin, source, route, stem, received, due, n_bytes, state, "
                "label) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(job.id, job.origin, job.source, job.route, job.stem),
                    *(job.received, job.due, job.n_bytes, job.state, job.label),
                ),
            )
            if job.origin is not None and job.source == "watch":
                self._db.execute(
                    "INSERT INTO taken VALUES (?, ?, ?)", (job.origin, job.id, self._clock())
                )
            return job.id

    def remember(self, origins: Sequence[str], for_s: float) -> None:
        """Note which taken origins are still there; drop those not seen for `for_s`."""
        with self._transaction():
            now = self._clock()
            self._db.executemany(
                "UPDATE taken SET seen = ? WHERE origin = ?", [(now, origin) for origin in origins]
            )
            self._db.execute("DELETE FROM taken WHERE seen < ?", (now - for_s,))

    def find_origin(self, origin: str) -> str | None:
        """Answer the job that was made from `origin`, or None."""
        with self._lock:
            return self._by_origin(origin)

    def get(self, job_id: str) -> Job | None:
        """Answer a job, or None."""
        jobs = self._select("WHERE id = ?", job_id)
        return jobs[0] if jobs else None

    def recent(self, n_jobs: int) -> list[Job]:
        """Answer the jobs received last, the latest first."""
        return self._select("ORDER BY number DESC LIMIT ?", n_jobs)

    def claim(self) -> Job | None:
        """Take the next job for a worker: the one due first, without a deadline after all others.

        Returns
        -------
            The job, running, with this attempt counted; None when there is nothing to do now.
        """
        with self._transaction():
            jobs = self._select(
                f"WHERE state = 'queued' AND {_DUE} ORDER BY due IS NULL, due, number LIMIT 1",
                *self._now(),
            )
            if not jobs:
                return None
            self._db.execute(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1 WHERE id = ?",
                (jobs[0].id,),
            )
            return self.get(jobs[0].id)

    def release(self, job_id: str, *, pause_s: float, reason: str, lost: bool) -> None:
        """Put a running job back for another attempt.

        Parameters
        ----------
        job_id
            The job.
        pause_s
            How long to wait.
        reason
            For people; shown until the job is finished.
        lost
            Whether it took its worker with it.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE jobs SET state = 'queued', not_before = ?, reason = ?, "
                "n_lost = n_lost + ? WHERE id = ? AND state = 'running'",
                (self._clock() + pause_s, reason, int(lost), job_id),
            )

    def finish(
        self,
        job_id: str,
        state: State,
        *,
        n_bytes: int = 0,
        reason: str | None = None,
        report: dict[str, Any] | None = None,
        deliveries: Sequence[Delivery] = (),
    ) -> None:
        """End a job and put its deliveries into the outbox, in one transaction.

        Parameters
        ----------
        job_id
            A running job; any other is left alone.
        state
            `done`, `fallback` or `failed`.
        n_bytes
            Size of the result.
        reason, report
            As in `Job`.
        deliveries
            One for each item and target.

        Raises
        ------
        OverloadError
            The disk is full; the job is still running.
        """
        with self._transaction():
            done = self._db.execute(
                "UPDATE jobs SET state = ?, finished = ?, reason = ?, report = ?, "
                "n_bytes = n_bytes + ? WHERE id = ? AND state = 'running'",
                (state, self._clock(), reason, json.dumps(report or {}), n_bytes, job_id),
            )
            if done.rowcount:
                self._db.executemany(
                    "INSERT INTO deliveries (job_id, target, item) VALUES (?, ?, ?)",
                    [(job_id, delivery.target, delivery.item) for delivery in deliveries],
                )

    def next_deliveries(self, target: str) -> list[Delivery]:
        """Answer what is to be delivered to `target` now: all items of the oldest job."""
        with self._lock:
            rows = self._db.execute(
                "SELECT job_id, target, item, attempts FROM deliveries "  # noqa: S608 - a constant
                "WHERE target = ? AND delivered IS NULL AND job_id = (SELECT job_id FROM "
                f"deliveries WHERE target = ? AND delivered IS NULL AND {_DUE} "
                "ORDER BY not_before, rowid LIMIT 1) ORDER BY item",
                (target, target, *self._now()),
            )
            return [Delivery(*row) for row in rows]

    def until_due(self, target: str) -> float | None:
        """Answer in how many seconds something is to be delivered to `target`; None for nothing."""
        with self._lock:
            row = self._db.execute(
                "SELECT MIN(not_before) FROM deliveries WHERE target = ? AND delivered IS NULL",
                (target,),
            ).fetchone()
        if row[0] is None:
            return None
        left_s = float(row[0]) - self._clock()
        return left_s if 0 < left_s <= MAX_PAUSE_S else 0.0

    def confirm(self, deliveries: Sequence[Delivery]) -> None:
        """Take out of the outbox what the target has."""
        with self._transaction():
            self._db.executemany(
                "UPDATE deliveries SET delivered = ?, attempts = attempts + 1, error = NULL "
                "WHERE job_id = ? AND target = ? AND item = ?",
                [(self._clock(), d.job_id, d.target, d.item) for d in deliveries],
            )

    def postpone(self, deliveries: Sequence[Delivery], error: str) -> None:
        """Try again later, after twice the time of the pause before; there is no last attempt."""
        with self._transaction():
            now = self._clock()
            self._db.executemany(
                "UPDATE deliveries SET attempts = attempts + 1, error = ?, not_before = ? "
                "WHERE job_id = ? AND target = ? AND item = ?",
                [
                    (
                        error,
                        now + min(2.0 ** min(d.attempts, 30), MAX_PAUSE_S),
                        *(d.job_id, d.target, d.item),
                    )
                    for d in deliveries
                ],
            )

    def delivery_states(self, job_id: str) -> list[dict[str, Any]]:
        """Describe the deliveries of a job by target: `waiting`, `delivered`, `error`."""
        with self._lock:
            rows = self._db.execute(
                "SELECT target, SUM(delivered IS NULL), SUM(delivered IS NOT NULL), MAX(error) "
                "FROM deliveries WHERE job_id = ? GROUP BY target ORDER BY target",
                (job_id,),
            )
            keys = ("target", "waiting", "delivered", "error")
            return [dict(zip(keys, row, strict=True)) for row in rows]

    def counts(self) -> dict[State, int]:
        """Count the jobs by state."""
        with self._lock:
            rows = self._db.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state")
            return dict.fromkeys(STATES, 0) | dict(rows)

    def waiting_deliveries(self) -> dict[str, int]:
        """Count what is not delivered yet, by target."""
        with self._lock:
            rows = self._db.execute(
                "SELECT target, COUNT(*) FROM deliveries WHERE delivered IS NULL GROUP BY target"
            )
            return dict(rows.fetchall())

    def load(self) -> tuple[int, int]:
        """Count the jobs that are not delivered yet, and their bytes."""
        with self._lock:
            row = self._db.execute(
                f"SELECT COUNT(*), COALESCE(SUM(n_bytes), 0) FROM jobs WHERE {_UNDELIVERED}"  # noqa: S608 - a constant
            ).fetchone()
            return int(row[0]), int(row[1])

    def delivered_before(self, moment: float, *, to_a_target: bool = False) -> list[str]:
        """Answer the jobs that ended before `moment` and are delivered, the oldest first.

        Parameters
        ----------
        moment
            Seconds since 1970.
        to_a_target
            Leave out those without a target, which somebody may still fetch.
        """
        somewhere = "AND id IN (SELECT job_id FROM deliveries)" if to_a_target else ""
        with self._lock:
            rows = self._db.execute(
                f"SELECT id FROM jobs WHERE finished < ? AND NOT {_UNDELIVERED} {somewhere} "  # noqa: S608 - constants
                "ORDER BY finished",
                (moment,),
            )
            return [row[0] for row in rows]

    def abandon(self, targets: Collection[str]) -> dict[str, int]:
        """Close the deliveries to all but `targets`, which nobody would ever make.

        Returns
        -------
            How many there were, by target.
        """
        with self._transaction():
            gone = {name: n for name, n in self.waiting_deliveries().items() if name not in targets}
            self._db.executemany(
                "UPDATE deliveries SET delivered = ?, error = ? "
                "WHERE target = ? AND delivered IS NULL",
                [(self._clock(), "the target is not configured any more", name) for name in gone],
            )
        return gone

    def forget(self, job_ids: Sequence[str]) -> None:
        """Drop the rows of jobs whose files are gone."""
        with self._transaction():
            self._db.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in job_ids])

    def _now(self) -> tuple[float, float]:
        """Give the values of `_DUE`."""
        now = self._clock()
        return now, now + MAX_PAUSE_S

    def _by_origin(self, origin: str) -> str | None:
        row = self._db.execute(
            "SELECT id FROM jobs WHERE origin = ? UNION SELECT job_id FROM taken WHERE origin = ?",
            (origin, origin),
        ).fetchone()
        return None if row is None else str(row[0])

    def _select(self, condition: str, *values: object) -> list[Job]:
        with self._lock:
            rows = self._db.execute(f"SELECT {', '.join(_FIELDS)} FROM jobs {condition}", values)  # noqa: S608 - conditions are constants of this module
            return [_job(*row) for row in rows]

    def _open_schema(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StateError(
                f"the queue {self._path} has version {version}, this release knows "
                f"{SCHEMA_VERSION}; install the later release again"
            )
        if version == 0:
            self._db.executescript(
                f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
            )
            return
        if self._db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("its check found damage")
        if version == 1:
            self._db.executescript(
                "BEGIN IMMEDIATE;ALTER TABLE jobs ADD COLUMN label TEXT NOT NULL DEFAULT '';"
                f"PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as err:
                raise OverloadError(
                    f"cannot write the queue {self._path}: {err}; free space on its disk"
                ) from err


def _job(*row: Any) -> Job:
    named = dict(zip(_FIELDS, row, strict=True))
    return Job(**named | {"report": json.loads(named["report"])})
