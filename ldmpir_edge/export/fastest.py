"""`--precision auto`: of the precisions that passed the gate, keep the one that is fastest here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack

from ldmpir_edge.bundle import LoadedVariant, Precision
from ldmpir_edge.errors import BackendError
from ldmpir_edge.export.cases import GateImages, timing_slice
from ldmpir_edge.export.targets import Target
from ldmpir_edge.export.variants import VariantBuilder
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Family, Problem
from ldmpir_edge.runtimes import get_backend
from ldmpir_edge.runtimes.registry import BACKENDS

FAMILY: Family = "cartesian1d"
SIZE = 256
REPEATS = 9


def keep_fastest(
    builder: VariantBuilder,
    target: Target,
    images: GateImages,
    refusals: Mapping[Precision, str],
) -> str:
    """Drop every precision but the fastest on this machine.

    Parameters
    ----------
    builder
        Holds the variants.
    target
        Names the backends of which one is timed: that which a run here would choose.
    images
        The slice that is timed is one of theirs.
    refusals
        Precisions that did not pass the gate in every variant, and why.

    Returns
    -------
        What was measured and chosen, for the manifest's notes.

    Raises
    ------
    BackendError
        None of the target's backends runs here.
    """
    for precision in refusals:
        builder.drop(precision)
    backend = _backend(target)
    seconds = time_variants(
        {
            variant.precision: builder.load(variant)
            for variant in builder.variants
            if (variant.family, variant.n_steps) == (FAMILY, target.default_n_steps)
        },
        backend,
        timing_slice(images, SIZE).problem,
    )
    fastest = min(seconds, key=lambda precision: seconds[precision])
    for precision in seconds:
        if precision != fastest:
            builder.drop(precision)
    measured = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())
    refused = "".join(f" Refused: {why}." for why in refusals.values())
    return f"auto chose {fastest} of {measured} a {SIZE} × {SIZE} slice on {backend}.{refused}"


def time_variants(
    variants: Mapping[Precision, LoadedVariant], backend: str, problem: Problem
) -> dict[Precision, float]:
    """Return the least seconds of one slice in each precision, measured in turns.

    Parameters
    ----------
    variants
        Of one family and number of steps, on disk.
    backend
        Name of the runtime.
    problem
        The slice.
    """
    seconds: dict[Precision, list[float]] = {precision: [] for precision in variants}
    with ExitStack() as stack:
        engines = {
            precision: stack.enter_context(get_backend(backend).load(variant))
            for precision, variant in variants.items()
        }
        for turn in range(REPEATS + 1):
            for precision, engine in engines.items():
                inputs = engine_arrays(problem, variants[precision].n_steps)
                started = time.perf_counter()
                engine.run(inputs)
                if turn:  # the first compiles
                    seconds[precision].append(time.perf_counter() - started)
    # The least: whatever else the machine does only ever adds to a time.
    return {precision: min(values) for precision, values in seconds.items()}


def _backend(target: Target) -> str:
    for backend in BACKENDS:
        if backend.name in target.gate_backends and backend.availability().ok:
            return backend.name
    raise BackendError(
        f"auto measures, and none of {', '.join(target.gate_backends)} runs here: name a precision"
    )
