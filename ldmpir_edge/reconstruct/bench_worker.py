"""Measure one engine in one precision, in a process that does nothing else.

The process answers on standard output, one JSON object a line: `{"done": n}` after each slice,
and at the end `{"result": …}` or `{"error": …}`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ldmpir_edge.bundle import Precision
from ldmpir_edge.errors import BackendError, LdmpirError
from ldmpir_edge.reconstruct.reconstructor import Reconstructor, load
from ldmpir_edge.runtimes import get_backend
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import Scan
from ldmpir_edge.scans.write import write_outputs

STAGES = ("read", "prepare", "engine", "check", "write")
"""Of one slice, in their order; `engine` has the copies to and from its device in it."""

WARM_UP = 2
"""Slices after the first that do not count."""

FORMAT = "dicom"
"""What `run` writes unless told otherwise."""

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class BenchRequest:
    """What to measure.

    Parameters
    ----------
    bundle, scan
        Paths. Of a volume the middle slice is taken.
    repeats
        Slices that count; 0 ends after the first image.
    started
        `time.monotonic()` just before the process was started.
    """

    bundle: str
    scan: str
    backend: str
    precision: Precision
    n_steps: int
    repeats: int
    started: float

    def to_json(self) -> str:
        """Give one line of JSON."""
        return json.dumps(asdict(self))


@dataclass
class _Clock:
    """Seconds spent on reading since it was last reset."""

    seconds: float = 0.0

    def timed(self, read: Callable[..., Any], index: int) -> Callable[..., Any]:
        """Return `read` of slice `index`, whichever slice is asked for, on this clock."""

        def timed_read(_: int, **options: bool) -> Any:
            started = time.perf_counter()
            try:
                return read(index, **options)
            finally:
                self.seconds += time.perf_counter() - started

        return timed_read


def answer(request: str) -> None:
    """Do what a request (`BenchRequest.to_json`) says and print the answers."""

    def say(**message: Any) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    try:
        result = measure(BenchRequest(**json.loads(request)), lambda done: say(done=done))
    except LdmpirError as err:
        say(error=str(err))
    else:
        say(result=result)


def measure(request: BenchRequest, on_slice: Callable[[int], None]) -> dict[str, Any]:
    """Reconstruct one slice again and again.

    Parameters
    ----------
    request
        What to measure.
    on_slice
        Called with the number of slices done.

    Returns
    -------
        `first_image_s`, from the start of the process; `seconds`, one object a slice that counts,
        by stage, and `slice` for all of it; `peak_memory_mib`; `psnr_db` against the scan's
        reference, or null; `fallback`, null or why the classical image was delivered; `version`
        of the engine.

    Raises
    ------
    BackendError
        The engine gave no image.
    LdmpirError
        As `Reconstructor`.
    """
    reconstructor = load(
        request.bundle,
        backend=request.backend,
        precision=request.precision,
        n_steps=request.n_steps,
    )
    clock = _Clock()
    with open_scan(request.scan) as opened, tempfile.TemporaryDirectory() as folder:
        scan = _middle_slice(opened, clock)
        image = reconstructor(scan)
        first_image_s = time.monotonic() - request.started
        (checks,) = image.checks
        if checks["residual"] is None:
            raise BackendError(checks["fallback"])
        on_slice(1)
        seconds = []
        for number in range((WARM_UP + request.repeats) if request.repeats else 0):
            seconds.append(_time_slice(reconstructor, scan, clock, Path(folder)))
            on_slice(number + 2)
        # Before the scores are computed: their library is none of a reconstruction's.
        peak = peak_memory_mib()
        reference = scan.reference(0)
        psnr_db = None
        if reference is not None:
            from ldmpir_edge.report.metrics import psnr

            psnr_db = psnr(image.image[0], reference, scan.info.modality)
    return {
        "first_image_s": first_image_s,
        "seconds": seconds[WARM_UP:],
        "peak_memory_mib": peak,
        "psnr_db": psnr_db,
        "fallback": checks["fallback"],
        "version": get_backend(request.backend).availability().version,
    }


def peak_memory_mib() -> float:
    """Return the largest resident size of this process so far, in MiB."""
    try:
        # Not the system call: what that gives a process includes the one that started it.
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    except OSError:
        pass
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _middle_slice(scan: Scan, clock: _Clock) -> Scan:
    """Give the middle slice of an open scan as a scan of its own, whose reading is timed."""
    index = scan.n_slices // 2
    alone = replace(scan, n_slices=1, info=scan.info.of_slice(index))
    for name in ("kspace", "calibration", "sinogram", "image"):
        if hasattr(scan, name):
            object.__setattr__(alone, name, clock.timed(getattr(scan, name), index))
    # It is read for the figure of `run`, and no part of a reconstruction.
    object.__setattr__(alone, "reference", lambda _: scan.reference(index))
    return alone


def _time_slice(
    reconstructor: Reconstructor, scan: Scan, clock: _Clock, folder: Path
) -> dict[str, float]:
    clock.seconds = 0.0
    started = time.perf_counter()
    image = reconstructor(scan)
    made = time.perf_counter()
    write_outputs(image, folder, [FORMAT])
    finished = time.perf_counter()
    by_stage = reconstructor.seconds
    return {
        "read": clock.seconds,
        "prepare": by_stage["prepare"] - clock.seconds,
        "engine": by_stage["engine"],
        "check": by_stage["check"],
        "write": finished - made,
        "slice": finished - started,
    }
