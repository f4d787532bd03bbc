"""What TensorRT calls back while it works: its log and its progress.

Both derive from a class of the library, which is imported late; so they are made by functions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

_log = logging.getLogger(__name__)

MAX_ERRORS = 8
MAX_TEXT = 400


def shorten(text: str) -> str:
    """Join a library's words into one line of bounded length, for our own messages."""
    return " ".join(text.split())[:MAX_TEXT]


@cache
def library_log(library: Any) -> Any:
    """Make the one logger of a library, which keeps the errors until somebody takes them.

    TensorRT wants the same logger in all its objects. Warnings concern those who make graphs and
    go to our log at the level of debugging.

    Returns
    -------
        An `ILogger` with `take_errors()`, which answers the errors since the last time.
    """

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.ERROR:
                self._errors = [*self._errors, message][-MAX_ERRORS:]
            elif severity <= library.ILogger.WARNING:
                _log.debug("%s: %s", library.__name__, message)

        def take_errors(self) -> str:
            errors, self._errors = self._errors, []
            return shorten("; ".join(dict.fromkeys(errors)))

    return Log()


def progress_monitor(
    library: Any, on_progress: Callable[[float], None], keep_on: Callable[[], bool]
) -> Any:
    """Make an `IProgressMonitor` that tells how much of a build is done.

    Parameters
    ----------
    on_progress
        Called with the part that is done, from 0 to 1.
    keep_on
        Answers false when the builder is to stop.
    """

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._phases = Phases()

        def phase_start(self, name: str, parent: str | None, n_steps: int) -> None:
            self._phases.start(name, parent, n_steps)

        def step_complete(self, name: str, step: int) -> bool:
            on_progress(self._phases.complete(name, step))
            return keep_on()

        def phase_finish(self, name: str) -> None:
            self._phases.finish(name)

    return Monitor()


class Phases:
    """Phases inside one another, each of so many steps, as one number that never falls."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str | None, int, int]] = {}
        self._most = 0.0

    def start(self, name: str, parent: str | None, n_steps: int) -> None:
        """Open a phase inside a step of `parent`."""
        self._open[name] = (parent, max(1, n_steps), 0)

    def complete(self, name: str, step: int) -> float:
        """Note that a step, counted from 0, is done; answer the part that is done of all."""
        phase = self._open.get(name)
        if phase is None:
            return self._most
        parent, n_steps, _ = phase
        self._open[name] = (parent, n_steps, min(step + 1, n_steps))
        part, inner = 0.0, name
        while inner in self._open:
            outer, n_steps, done = self._open[inner]
            # Of the phase around it, the step that is under way counts in part.
            part, inner = (done + part) / n_steps, outer or ""
        self._most = max(self._most, min(part, 1.0))
        return self._most

    def finish(self, name: str) -> None:
        """Close a phase, whether or not all its steps were noted."""
        self._open.pop(name, None)
