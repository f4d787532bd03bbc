"""A job and its deliveries, as the queue keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ldmpir_edge.serve.config import Source

State = Literal["queued", "running", "done", "fallback", "failed"]
STATES: tuple[State, ...] = ("queued", "running", "done", "fallback", "failed")


@dataclass(frozen=True)
class Job:
    """One scan on its way through the appliance.

    Parameters
    ----------
    id
        32 hexadecimal digits that nobody can guess.
    source, route
        The door it came through and the name of its route.
    stem
        Plain name that outputs are named after; may be the client's.
    origin
        Names what the job was made from, so that a repeated request is recognised; or None.
    received
        Seconds since 1970.
    due
        When its image must be out, in the same clock; None without a deadline.
    label
        The peer's own word, which selected the route; asked again where that route is gone.
    n_bytes
        Size of the payload and, once finished, of the result.
    attempts
        How often a worker was given it.
    n_lost
        How often the worker died or fell silent over it.
    n_cut
        How often the whole appliance ended over it, as in a power cut.
    finished
        When it ended.
    reason
        Why it failed or fell back; for people, and may quote the scan.
    report
        JSON values: what the reconstruction tells about itself.
    """

    id: str
    source: Source
    route: str
    stem: str
    received: float
    n_bytes: int
    origin: str | None = None
    due: float | None = None
    state: State = "queued"
    attempts: int = 0
    n_lost: int = 0
    n_cut: int = 0
    finished: float | None = None
    reason: str | None = None
    report: dict[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True)
class Delivery:
    """One item that one target has not confirmed yet.

    Parameters
    ----------
    job_id, target
        Whose result goes where.
    item
        A file below the result's folder, or an empty string for the whole result.
    attempts
        How often it was tried.
    """

    job_id: str
    target: str
    item: str
    attempts: int = 0
