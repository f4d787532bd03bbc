"""One job from payload to result: what the worker does between two messages."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.atomic import flush_folder, make_folder, output_errors
from ldmpir_edge.errors import (
    BackendError,
    BundleError,
    LdmpirError,
    MissingExtraError,
    OutputError,
    UnsupportedSizeError,
)
from ldmpir_edge.physics.problem import Modality, Task
from ldmpir_edge.reconstruct import Reconstructor
from ldmpir_edge.reconstruct.slices import least_grid, resolve_task
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.display import display_window
from ldmpir_edge.scans.ismrmrd_file import IsmrmrdScan
from ldmpir_edge.scans.memory import MAX_JOB_BYTES
from ldmpir_edge.scans.model import ImageScan, KspaceScan, Scan, SinogramScan
from ldmpir_edge.scans.reconstruction import ReconstructedSlice, VolumeHeader
from ldmpir_edge.scans.write import Outputs, open_outputs
from ldmpir_edge.serve.bundles import variants
from ldmpir_edge.serve.config import Route
from ldmpir_edge.serve.engines import Engines
from ldmpir_edge.serve.mrd.reply import write_reply
from ldmpir_edge.serve.schedule import (
    Cost,
    Deadline,
    Latencies,
    ScanSize,
    Variant,
    choose_variant,
)

IMAGE = "image"
"""Outputs inside a result are named so: the client's name may identify a patient."""

RESULT = "result"
"""Folder of an attempt that is delivered."""

THUMBNAIL = "thumbnail.pgm"
"""The middle slice, beside the result, for the status page; there is no file sooner written, and
the client waits."""

REPLY = "reply.mrd"
"""MRD image messages, beside the result, for the client that sent the scan."""

_THUMBNAIL_SIDE = 128
Cause = Literal["checks", "deadline", "engine", "size"]
"""Why a slice is the classical image, in one word for the metrics."""

_NO_ENGINE = (BackendError, BundleError, MissingExtraError)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Order:
    """What the worker is asked for.

    Parameters
    ----------
    job_id
        The job.
    payload, attempt
        Folder of the scan, and the folder to write to, which does not exist yet.
    remaining_s, deadline_s
        Time until the image must be out, and how much there was in all: a job keeps its deadline
        when its route's changes. None without one.
    classical
        Why the engine must not have it, or None.
    reply
        Whether the client waits for MRD images.
    formats
        What to write.
    """

    job_id: str
    route: str
    payload: str
    attempt: str
    remaining_s: float | None = None
    deadline_s: float | None = None
    classical: str | None = None
    reply: bool = False
    formats: tuple[str, ...] = ("dicom",)


@dataclass(frozen=True)
class Outcome:
    """How it ended: `unwritable` where the disk was the reason and not the scan."""

    job_id: str
    state: Literal["done", "fallback", "failed", "unwritable"]
    reason: str | None = None
    report: dict[str, Any] = field(default_factory=dict)


def reconstruct(
    order: Order,
    route: Route,
    engines: Engines,
    latencies: Latencies,
    on_slice: Callable[[int], None],
) -> Outcome:
    """Reconstruct a job; whatever is wrong with it is its outcome, never an exception.

    Parameters
    ----------
    order, route
        The job and its route.
    engines, latencies
        Of the worker.
    on_slice
        Called with the index of every finished slice.
    """
    try:
        try:
            return _Attempt(order, route, engines, latencies, on_slice).run()
        except (*_NO_ENGINE, UnsupportedSizeError) as err:
            # An image goes out all the same: none of these is needed for the classical one.
            withheld = replace(order, classical=str(err))
            cause: Cause = "size" if isinstance(err, UnsupportedSizeError) else "engine"
            return _Attempt(withheld, route, engines, latencies, on_slice, cause).run()
    except LdmpirError as err:
        if isinstance(err, OutputError) and isinstance(err.__cause__, OSError):
            return Outcome(order.job_id, "unwritable", str(err))
        return Outcome(order.job_id, "failed", str(err), {"error": type(err).__name__})
    except OSError as err:
        reason = f"{type(err).__name__}: {err.strerror}"
        return Outcome(order.job_id, "unwritable" if err.errno in _FULL else "failed", reason)
    except MemoryError:
        reason = f"it needs more than the {MAX_JOB_BYTES / 2**30:.0f} GiB that a job may take"
        return Outcome(order.job_id, "failed", reason, {"error": "MemoryError"})
    except Exception as err:  # noqa: BLE001 - one job's surprise must not cost the others
        return Outcome(order.job_id, "failed", f"unexpected {type(err).__name__}: {err}")


class _Attempt:
    def __init__(
        self,
        order: Order,
        route: Route,
        engines: Engines,
        latencies: Latencies,
        on_slice: Callable[[int], None],
        cause: Cause = "engine",
    ) -> None:
        self._order, self._route, self._cause_of_order = order, route, cause
        self._engines, self._latencies, self._on_slice = engines, latencies, on_slice
        self._started = time.monotonic()
        self._engine_s: list[float] = []
        self._checks: list[dict[str, Any]] = []
        self._notes: dict[str, None] = {}
        self._cause: Cause = "checks"
        self._task: Task | None = None
        self._factor: int | None = None

    def run(self) -> Outcome:
        with open_scan(_payload(Path(self._order.payload))) as scan:
            # A route's task is what it does with images; raw data are reconstructed.
            images = isinstance(scan, ImageScan)
            self._task = self._route.task if images else None
            self._factor = self._route.factor if images else None
            task = resolve_task(scan, self._task)
            grid = least_grid(scan, task, self._factor)
            size = ScanSize(task, grid, _n_channels(scan))
            variant, classical = self._choose(scan, size)
            engines = self._engines.of(self._route)
            made = engines.reconstructor if classical is None else engines.classical
            reconstructor = made(variant)
            return self._reconstruct(scan, size, variant, reconstructor, classical)

    def _choose(self, scan: Scan, size: ScanSize) -> tuple[Variant, str | None]:
        served = self._engines.of(self._route)
        usable = self._engines.usable(self._route)
        if not usable:
            every = variants(self._route, served.bundle)
            return every[0], self._order.classical or served.refusal(every[0][1])
        chosen = choose_variant(
            usable, self._latencies, served.bundle.digest, size, scan.n_slices, self._remaining()
        )
        return chosen, self._order.classical

    def _remaining(self) -> float | None:
        if self._order.remaining_s is None:
            return None
        return self._order.remaining_s - (time.monotonic() - self._started)

    def _reconstruct(
        self,
        scan: Scan,
        size: ScanSize,
        variant: Variant,
        reconstructor: Reconstructor,
        classical: str | None,
    ) -> Outcome:
        task, factor = self._task, self._factor
        digest = reconstructor.bundle.digest
        deadline = self._deadline(scan, self._latencies.expect(digest, variant, size))

        def withhold(index: int) -> str | None:
            # The engine's total so far: the difference from slice to slice is one slice's time.
            self._engine_s.append(reconstructor.seconds["engine"])
            if classical is not None:
                self._cause = self._cause_of_order
                return classical
            late = deadline(index) if deadline is not None else None
            if late is not None:
                self._cause = "deadline"
            return late

        header = replace(reconstructor.header(scan, task=task, factor=factor), stem=IMAGE)
        self._notes.update(dict.fromkeys(header.notes))
        result, formats = Path(self._order.attempt) / RESULT, self._order.formats
        # A PACS or the client has DICOM or nothing; the others are beside it.
        optional = [name for name in formats if name != "dicom"]
        make_folder(result)
        stream = reconstructor.stream(scan, task=task, factor=factor, withhold=withhold)
        with (
            closing(stream) as slices,
            open_outputs(header, result, formats, optional) as outputs,
            self._reply(scan, header) as reply,
        ):
            self._notes.update(dict.fromkeys(outputs.left_out))
            for piece in slices:
                outputs.add(piece)
                reply(piece)
                self._take(piece)
                if piece.index == scan.n_slices // 2:
                    _write_thumbnail(piece.image, header.info.modality, result.parent / THUMBNAIL)
                if deadline is not None and (cost := self._cost(reconstructor, outputs)):
                    deadline.measured(cost)
        flush_folder(result)
        flush_folder(result.parent)
        flush_folder(result.parent.parent)
        if (cost := self._cost(reconstructor, outputs)) is not None:
            self._latencies.record(digest, variant, size, cost)
        return self._outcome(scan, size, variant, reconstructor, outputs)

    @contextmanager
    def _reply(
        self, scan: Scan, header: VolumeHeader
    ) -> Iterator[Callable[[ReconstructedSlice], None]]:
        """Give what takes a slice for the client's reply; nothing where none is wanted."""
        if not self._order.reply or not isinstance(scan, IsmrmrdScan):
            yield lambda piece: None
            return
        path = Path(self._order.attempt) / REPLY
        with output_errors(path), closing(write_reply(scan, header, path)) as sink:
            next(sink)
            yield sink.send

    def _deadline(self, scan: Scan, expected: Cost | None) -> Deadline | None:
        remaining_s = self._remaining()
        if remaining_s is None:
            return None
        reason = "the engine would have missed the deadline"
        if self._order.deadline_s is not None:
            reason += f" of {self._order.deadline_s:g} s"
        return Deadline(remaining_s, scan.n_slices, expected, reason)

    def _take(self, piece: ReconstructedSlice) -> None:
        self._checks.append({"slice": piece.index, **piece.checks})
        self._notes.update(dict.fromkeys(piece.notes))
        self._on_slice(piece.index)

    def _cost(self, reconstructor: Reconstructor, outputs: Outputs) -> Cost | None:
        """Give the cost of a slice so far, or None before the engine has finished one."""
        seconds = reconstructor.seconds
        totals = [*self._engine_s, seconds["engine"]]
        times = [after - before for before, after in pairwise(totals)]
        # The first slice's includes what the engine does once for a new size, if others follow.
        times = [spent for spent in times if spent > 0]
        if not times:
            return None
        beside = seconds["prepare"] + seconds["check"] + outputs.seconds
        # The stream asked once before the first slice, while it loaded the engine.
        n_prepared = max(len(self._engine_s) - 1, 1)
        return Cost(median(times[1:] or times), beside / n_prepared)

    def _outcome(
        self,
        scan: Scan,
        size: ScanSize,
        variant: Variant,
        reconstructor: Reconstructor,
        outputs: Outputs,
    ) -> Outcome:
        fallbacks = [check["fallback"] for check in self._checks if check["fallback"]]
        residuals = [check["residual"] for check in self._checks if check["residual"] is not None]
        result = Path(self._order.attempt) / RESULT
        report = {
            "task": size.task,
            "n_slices": scan.n_slices,
            "shape": list(outputs.header.shape[1:]),
            "backend": reconstructor.backend,
            "bundle": reconstructor.bundle.manifest.model.id,
            "bundle_version": reconstructor.bundle.manifest.model.version,
            "bundle_sha256": reconstructor.bundle.digest,
            "steps": variant[0],
            "precision": variant[1],
            "n_fallbacks": len(fallbacks),
            "fallback_cause": self._cause if fallbacks else None,
            "max_residual": max(residuals, default=None),
            "notes": list(self._notes),
            "outputs": sorted(
                path.relative_to(result).as_posix() for path in result.rglob("*") if path.is_file()
            ),
            "seconds": {
                **{stage: round(spent, 4) for stage, spent in reconstructor.seconds.items()},
                "write": round(outputs.seconds, 4),
                "wall": round(time.monotonic() - self._started, 4),
            },
        }
        state: Literal["done", "fallback"] = "fallback" if fallbacks else "done"
        return Outcome(self._order.job_id, state, fallbacks[0] if fallbacks else None, report)


def _write_thumbnail(image: NDArray[np.float32], modality: Modality, path: Path) -> None:
    step = -(-max(image.shape) // _THUMBNAIL_SIDE)
    small = image[::step, ::step]
    black, white = display_window(small, modality)
    shown = np.clip((small - black) / (white - black), 0.0, 1.0)
    height, width = small.shape
    path.write_bytes(b"P5 %d %d 255\n" % (width, height) + (shown * 255).astype(np.uint8).tobytes())


def outcome_to_dict(outcome: Outcome) -> dict[str, Any]:
    """Give an outcome as JSON values."""
    return asdict(outcome)


def _payload(folder: Path) -> Path:
    """Answer the one file of a payload, or the folder of a series."""
    files = [path for path in folder.iterdir() if path.is_file()]
    return files[0] if len(files) == 1 else folder


def _n_channels(scan: Scan) -> int:
    if isinstance(scan, KspaceScan):
        return scan.n_coils
    return scan.geometry.n_views if isinstance(scan, SinogramScan) else 1
