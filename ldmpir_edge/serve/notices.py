"""Waiting for a job: doors that answer on the same connection learn here that it has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Notices:
    """Events by job, for as long as somebody waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, threading.Event] = {}
        self._closed = False

    @contextmanager
    def of(self, job_id: str) -> Iterator[Callable[[float], bool]]:
        """Give a function that waits for the job, so many seconds, and answers whether it ended.

        Look at the job's state after entering: it may have ended before.
        """
        event = threading.Event()
        with self._lock:
            self._waiting[job_id] = event
            if self._closed:
                event.set()
        try:
            yield event.wait
        finally:
            with self._lock:
                self._waiting.pop(job_id, None)

    def tell(self, job_id: str) -> None:
        """Say that a job has ended."""
        with self._lock:
            if (event := self._waiting.get(job_id)) is not None:
                event.set()

    def close(self) -> None:
        """Let everybody who waits, or will, go on."""
        with self._lock:
            self._closed = True
            for event in self._waiting.values():
                event.set()
