"""Choose what is quick enough, from the times that were measured on this machine."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.bundle import Precision
from ldmpir_edge.errors import OutputError
from ldmpir_edge.physics.problem import Task

Variant = tuple[int, Precision]
"""Sampler steps and arithmetic."""

MARGIN = 1.15
"""What an expected time is multiplied by: measured times vary by about a tenth."""

_MAX_ENTRIES = 512
_SHARE_OF_SLOWER = 0.3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanSize:
    """What the time of a slice depends on: the task, (H, W), and the coils or views."""

    task: Task
    shape: tuple[int, int]
    n_channels: int

    @property
    def n_pixels(self) -> int:
        """Pixels of a slice."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Cost:
    """Seconds of one slice: in the engine, and in preparing, checking and writing it."""

    engine_s: float
    beside_s: float


class Latencies:
    """Measured costs by bundle, variant and size of the scan.

    Parameters
    ----------
    path
        JSON file that keeps them between processes; what cannot be read there counts as nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._costs: dict[tuple[str, Variant, ScanSize], Cost] = {}
        try:
            for entry in json.loads(path.read_bytes()):
                digest, (n_steps, precision), (task, shape, n_channels), cost = entry
                size = ScanSize(task, tuple(shape), n_channels)
                self._costs[digest, (n_steps, precision), size] = Cost(**cost)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as err:
            _log.warning("measured times are forgotten", extra={"error": type(err).__name__})
            self._costs.clear()

    def record(self, digest: str, variant: Variant, size: ScanSize, cost: Cost) -> None:
        """Take in a measurement: a faster one is believed at once, since disturbances slow."""
        key = (digest, variant, size)
        known = self._costs.pop(key, None)
        if known is not None:
            cost = Cost(
                _blend(known.engine_s, cost.engine_s), _blend(known.beside_s, cost.beside_s)
            )
        self._costs[key] = cost
        while len(self._costs) > _MAX_ENTRIES:
            del self._costs[next(iter(self._costs))]

    def expect(self, digest: str, variant: Variant, size: ScanSize) -> Cost | None:
        """Give the cost of a slice: as measured, or scaled from the most similar measurement.

        Returns
        -------
            None where nothing of this bundle and task was ever measured.
        """
        similar = [
            (self._distance(other, variant, measured, size), other, measured, cost)
            for (origin, other, measured), cost in self._costs.items()
            if origin == digest and measured.task == size.task
        ]
        if not similar:
            return None
        _, other, measured, cost = min(similar, key=lambda entry: entry[0])
        pixels = size.n_pixels / measured.n_pixels
        channels = size.n_channels / measured.n_channels
        return Cost(
            cost.engine_s * pixels * variant[0] / other[0],
            cost.beside_s * pixels * channels,
        )

    def save(self) -> None:
        """Keep the measurements for the next process; what the disk refuses is lost."""
        entries = [
            [digest, variant, (size.task, size.shape, size.n_channels), asdict(cost)]
            for (digest, variant, size), cost in self._costs.items()
        ]
        try:
            with atomic_file(self._path) as temporary:
                temporary.write_text(json.dumps(entries))
        except OutputError as err:
            _log.warning("measured times are not kept", extra={"error": type(err).__name__})

    @staticmethod
    def _distance(one: Variant, other: Variant, size: ScanSize, target: ScanSize) -> float:
        return (
            abs(math.log(size.n_pixels / target.n_pixels))
            + abs(math.log(size.n_channels / target.n_channels))
            + abs(math.log(one[0] / other[0]))
            + (0.0 if one[1] == other[1] else 0.1)
        )


def choose_variant(
    variants: Sequence[Variant],
    latencies: Latencies,
    digest: str,
    size: ScanSize,
    n_slices: int,
    remaining_s: float | None,
) -> Variant:
    """Choose the first variant that ends in time, or the quickest where none does.

    Parameters
    ----------
    variants
        Best first; not empty.
    latencies, digest, size
        What was measured, the bundle's digest, and the scan.
    n_slices
        Slices to reconstruct.
    remaining_s
        Time until the image must be out; None takes the best.
    """
    if remaining_s is None:
        return variants[0]
    expected = [latencies.expect(digest, variant, size) for variant in variants]
    times = [0.0 if cost is None else _duration(cost, n_slices) for cost in expected]
    for variant, seconds in zip(variants, times, strict=True):
        if seconds <= remaining_s:
            return variant
    return variants[times.index(min(times))]


class Deadline:
    """Tells before each slice whether the engine may still have it.

    Parameters
    ----------
    remaining_s
        From now until the image must be out.
    n_slices
        Slices of the scan.
    cost
        Expected cost of one, or None before anything was measured.
    reason
        What is said of a slice that the engine may not have.
    clock
        Gives seconds.
    """

    def __init__(
        self,
        remaining_s: float,
        n_slices: int,
        cost: Cost | None,
        reason: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._due = clock, clock() + remaining_s
        self._n_slices, self._cost, self._reason = n_slices, cost or Cost(0.0, 0.0), reason
        self._late = False

    def measured(self, cost: Cost) -> None:
        """Go by what the slices of this scan cost, from here on."""
        self._cost = cost

    def __call__(self, index: int) -> str | None:
        """Answer the reason to withhold slice `index`, or None; once late, all others are too."""
        n_after = self._n_slices - index - 1
        needed = self._cost.engine_s + (n_after + 1) * self._cost.beside_s
        self._late = self._late or self._clock() + MARGIN * needed > self._due
        return self._reason if self._late else None


def _duration(cost: Cost, n_slices: int) -> float:
    """Give the time of a scan whose preparation runs beside the engine."""
    return MARGIN * (n_slices * max(cost.engine_s, cost.beside_s) + cost.beside_s)


def _blend(known: float, measured: float) -> float:
    return measured if measured < known else known + _SHARE_OF_SLOWER * (measured - known)
