"""The state folder: where a payload lies before and after it is acknowledged."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ldmpir_edge.errors import StateError

DATABASE = "queue.sqlite3"
PAYLOAD = "payload"
SERIES = "series.json"
"""Marks a payload whose parts are acknowledged one by one, before it is a job."""

LOCK_WAIT_S = 3.0
"""A process that was killed while it started another holds the lock for a moment longer."""


class StateFolder:
    """Paths below the folder, and what must be done to them on start.

    Parameters
    ----------
    root
        The folder; `hold` creates it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.series = root / "series"
        self.jobs = root / "jobs"
        self.collected = root / "collected"
        self.candidates = root / "candidates"
        self.kept = root / "kept"
        self.database = root / DATABASE

    def payload(self, job_id: str) -> Path:
        """Answer the folder of a job's scan."""
        return self.jobs / job_id / PAYLOAD

    def attempt(self, job_id: str, number: int) -> Path:
        """Answer the folder that an attempt writes to."""
        return self.jobs / job_id / f"attempt-{number}"

    def free_bytes(self) -> int:
        """Answer how much an unprivileged process may still write to the disk."""
        disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Create the folder where missing and keep other processes off it.

        Raises
        ------
        StateError
            It cannot be created or written, or another process holds it.
        """
        try:
            for folder in (self.root, self.incoming, self.series, self.jobs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as err:
            raise StateError(
                f"cannot use the state folder {self.root}: {err.strerror}; choose another with "
                "--state"
            ) from err
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        import fcntl

        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as err:
                if time.monotonic() > until:
                    raise StateError(
                        f"the state folder {self.root} is in use by another process; stop it, or "
                        "choose another folder with --state"
                    ) from err
                time.sleep(0.05)
            else:
                return

    def sweep(self, known: Collection[str], unfinished: Collection[str]) -> None:
        """Remove what a killed process left.

        Parameters
        ----------
        known
            Jobs that have a row; other folders were never acknowledged, but for a series that was
            about to become a job, which goes back to be one again.
        unfinished
            Of these, the jobs that start again: what their last attempt wrote goes.
        """
        for folder in self.incoming.iterdir():
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self.jobs.iterdir():
            if folder.name in known:
                continue
            if (folder / SERIES).exists():
                folder.rename(self.series / folder.name)
            else:
                shutil.rmtree(folder, ignore_errors=True)
        for job_id in unfinished:
            for folder in (self.jobs / job_id).glob("attempt-*"):
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self, job_id: str) -> None:
        """Remove all files of a job."""
        shutil.rmtree(self.jobs / job_id, ignore_errors=True)


def check_owner(root: Path) -> None:
    """Keep other users than the appliance's from leaving files there that it could not read.

    Raises
    ------
    StateError
        The folder is another user's.
    """
    if root.exists() and (owner := root.stat().st_uid) != os.geteuid():
        name = user_name(owner)
        raise StateError(
            f"the state folder {root} is {name}'s; run this as that user: sudo -u {name} "
            "ldmpir-edge …"
        )


def user_name(number: int) -> str:
    """Answer the name of a user, or the number where there is none."""
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def folder_bytes(folder: Path) -> int:
    """Sum the sizes of the files in a folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
