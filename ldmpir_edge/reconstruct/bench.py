"""Measure engines and precisions side by side, each in processes of its own.

Two processes a combination: the first starts with an empty cache, as on the day the bundle
arrives; the second finds what the first has compiled, as every later `run` does, and goes on to be
timed slice by slice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmpir_edge.errors import BackendError
from ldmpir_edge.reconstruct.bench_worker import STAGES, WARM_UP, BenchRequest
from ldmpir_edge.reconstruct.combinations import Combination

_MAX_REASON = 400

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BenchPlan:
    """What is measured on every combination.

    Parameters
    ----------
    bundle, scan
        Files; of a volume the middle slice is taken.
    n_steps
        Sampler steps.
    repeats
        Slices that count, at least 1.
    """

    bundle: Path
    scan: Path
    n_steps: int
    repeats: int


@dataclass(frozen=True)
class Percentiles:
    """Seconds that half, 90 % and 99 % of the slices stay below."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class BenchRow:
    """One engine in one precision.

    Parameters
    ----------
    version
        Of the engine.
    first_start_s, cold_start_s
        From the start of a process to its first image: with nothing compiled, and with what that
        has left in the cache. None for the first where the engine does not run uncompiled; the
        other is then with what the user's own cache holds.
    seconds
        By stage, and `slice` for all of a slice: read, reconstructed, checked and written.
    peak_memory_mib
        Largest resident size of the process.
    psnr_db
        Against the scan's reference image; None where it has none.
    reason
        Why there is no measurement, or why the classical image was delivered; else empty.
    """

    backend: str
    precision: str
    version: str = ""
    first_start_s: float | None = None
    cold_start_s: float | None = None
    seconds: Mapping[str, Percentiles] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    psnr_db: float | None = None
    reason: str = ""


def run_bench(
    plan: BenchPlan,
    combinations: Sequence[Combination],
    process: Sequence[str],
    on_progress: Progress = lambda what, done, total: None,
) -> Iterator[BenchRow]:
    """Measure the combinations one after the other; what fails gives a row with the reason.

    Parameters
    ----------
    plan, combinations
        What to measure.
    process
        The command that answers a request, which is added as its last argument: see
        `bench_worker`.
    on_progress
        Called with (what is being measured, slices done, slices in all).
    """
    each = 2 + WARM_UP + plan.repeats
    total = each * len(combinations)
    for number, combination in enumerate(combinations):
        before = number * each

        def tick(done: int, before: int = before, what: str = str(combination)) -> None:
            on_progress(what, before + done, total)

        tick(0)
        try:
            yield _measure(plan, combination, process, tick)
        except BackendError as err:
            yield BenchRow(combination.backend, combination.precision, reason=str(err))
        tick(each)


def _measure(
    plan: BenchPlan, combination: Combination, process: Sequence[str], tick: Callable[[int], None]
) -> BenchRow:
    request = BenchRequest(
        bundle=str(plan.bundle),
        scan=str(plan.scan),
        backend=combination.backend,
        precision=combination.precision,
        n_steps=plan.n_steps,
        repeats=0,
        started=0.0,
    )
    with tempfile.TemporaryDirectory(prefix="ldmpir-bench-") as cache:
        environment = {**os.environ, "LDMPIR_CACHE_DIR": cache}
        first = None
        try:
            first = _ask(process, request, environment, tick)["first_image_s"]
        except BackendError:
            # What only `compile` builds is in the user's cache, or the reason is found again.
            environment = dict(os.environ)
        request = replace(request, repeats=plan.repeats)
        result = _ask(process, request, environment, lambda done: tick(1 + done))
    seconds = {
        stage: Percentiles(
            *np.percentile([s[stage] for s in result["seconds"]], (50, 90, 99)).tolist()
        )
        for stage in (*STAGES, "slice")
    }
    return BenchRow(
        backend=combination.backend,
        precision=combination.precision,
        version=result["version"],
        first_start_s=first,
        cold_start_s=result["first_image_s"],
        seconds=seconds,
        peak_memory_mib=result["peak_memory_mib"],
        psnr_db=result["psnr_db"],
        reason=f"the classical image: {result['fallback']}" if result["fallback"] else "",
    )


def _ask(
    process: Sequence[str],
    request: BenchRequest,
    environment: Mapping[str, str],
    on_slice: Callable[[int], None],
) -> dict[str, Any]:
    """Start a process and follow its answers to the result.

    Raises
    ------
    BackendError
        It says that it failed, or ends without a result; the message gives its last words.
    """
    with tempfile.TemporaryFile("w+") as errors:
        command = [*process, replace(request, started=time.monotonic()).to_json()]
        child = subprocess.Popen(  # noqa: S603 - our own program
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        with child:
            try:
                for message in _messages(child):
                    if "result" in message:
                        result: dict[str, Any] = message["result"]
                        return result
                    if "error" in message:
                        raise BackendError(message["error"])
                    on_slice(message["done"])
            except BaseException:
                child.kill()
                raise
        errors.seek(0)
        words = errors.read().split("\n")
    last = next((line for line in reversed(words) if line.strip()), "")
    raise BackendError(f"the process {_ending(child.returncode)} {last[:_MAX_REASON]}".rstrip(": "))


def _messages(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Yield our messages; a library may print lines of its own."""
    for line in child.stdout or ():
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and message.keys() & {"done", "result", "error"}:
            yield message


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}:"
    return f"ended with exit code {code}:"
