"""Bring a file to the disk while it grows, so that little is left when it is complete."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

PIECE_BYTES = 256 * 1024
"""So much new data is worth a flush; less is brought to the disk with the last one."""


class WriteBack(AbstractContextManager["WriteBack"]):
    """Flushes of one open file in a thread beside the writer's, one at a time.

    A scanner sends while it measures, and waits for the image after its last line: what is on the
    disk by then need not be waited for. Left, it waits for the flush that runs.

    Parameters
    ----------
    descriptor
        The file's, open for longer than this.

    Raises
    ------
    OSError
        From `grown`, or where it is left: the disk is full or broken. The system tells it once,
        so that the last flush of the file would not.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ldmpir-write-back")
        self._running: Future[None] | None = None
        self._n_new = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if kind is None and self._running is not None:
            self._running.result()

    def grown(self, n_bytes: int) -> None:
        """Count what was written, and start a flush where it is worth one and none runs."""
        self._n_new += n_bytes
        if self._n_new < PIECE_BYTES:
            return
        if self._running is not None:
            if not self._running.done():
                return
            self._running.result()
        self._n_new = 0
        self._running = self._pool.submit(os.fsync, self._descriptor)
