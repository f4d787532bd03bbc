"""Two bundles, engines or precisions on the same slices of a scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ldmpir_edge.bundle import Bundle, open_bundle
from ldmpir_edge.errors import UsageError
from ldmpir_edge.reconstruct.combinations import Combination, list_combinations
from ldmpir_edge.reconstruct.scan_comparison import (
    CombinationRun,
    ScanResult,
    SlicesToCompare,
    check_limits,
    prepare_slices,
    run_combination,
    score_run,
)
from ldmpir_edge.runtimes import BACKENDS
from ldmpir_edge.scans.model import Scan

PRECISIONS = ("fp32", "fp16", "int8")
MARK = "@"


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: a bundle on an engine in a precision, named as it was asked for."""

    name: str
    bundle: Bundle
    combination: Combination


@dataclass(frozen=True)
class Pair:
    """What two contenders made of the same slices.

    Parameters
    ----------
    runs
        The images.
    results
        The first is held against the references alone, the second against the first as well.
    """

    contenders: tuple[Contender, Contender]
    slices: SlicesToCompare
    runs: tuple[CombinationRun, CombinationRun] = field(repr=False)
    results: tuple[ScanResult, ScanResult]


def find_contender(text: str) -> Contender:
    """Find what `BUNDLE`, `BUNDLE@PRECISION`, `BUNDLE@BACKEND` or both in either order name.

    What is not said is chosen: the bundle's default precision, and the preferred engine.

    Raises
    ------
    UsageError
        What follows an @ is neither, or the engine does not take the precision.
    BundleError
        There is no such bundle, or it lacks the precision.
    BackendError
        No engine can run here.
    """
    place = text
    precisions: list[str] = []
    backends: list[str] = []
    while MARK in place:
        before, _, word = place.rpartition(MARK)
        if word in PRECISIONS and not precisions:
            precisions.append(word)
        elif word.partition(":")[0] in {backend.name for backend in BACKENDS} and not backends:
            backends.append(word)
        elif Path(place).exists():
            break
        else:
            raise UsageError(
                f"{word!r} in {text!r} is no engine or precision, or the second one; give "
                "BUNDLE, BUNDLE@int8, BUNDLE@openvino or BUNDLE@openvino@int8"
            )
        place = before
    bundle = open_bundle(place)
    chosen = precisions or [bundle.manifest.default_precision]
    return Contender(
        text.replace(place, Path(place).name, 1),
        bundle,
        list_combinations(bundle, backends, chosen)[0],
    )


def compare_pair(
    first: Contender, second: Contender, scan: Scan, on_step: Callable[[int, int], None]
) -> Pair:
    """Run both on the middle slices of a scan; images are denoised.

    `on_step` is told how many of how many steps are done.

    Raises
    ------
    ScanError, UnsupportedSizeError
        As the reconstruction of these slices would.
    BackendError, MissingExtraError
        One of the engines cannot be loaded, or fails.
    """
    slices = prepare_slices(first.bundle, scan)
    check_limits(second.bundle, slices.prepared)
    on_step(1, 3)
    one = run_combination(first.bundle, slices, first.combination)
    on_step(2, 3)
    other = run_combination(second.bundle, slices, second.combination)
    on_step(3, 3)
    return Pair(
        (first, second),
        slices,
        (one, other),
        (
            score_run(first.combination, slices, one, None),
            score_run(second.combination, slices, other, one),
        ),
    )
