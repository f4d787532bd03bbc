"""Replay the golden pairs: every engine of this machine must still make the promised images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.bundle import Bundle, GoldenPair, LoadedVariant, Precision
from ldmpir_edge.bundle.limits import LIMITS, psnr_db
from ldmpir_edge.errors import BackendError, MissingExtraError
from ldmpir_edge.physics.problem import Family
from ldmpir_edge.reconstruct.combinations import Combination
from ldmpir_edge.runtimes import get_backend

Planes = NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """How far an engine image is from another, in engine units: the bright end is about 1.

    Parameters
    ----------
    max_abs, p999_abs
        Largest absolute difference, and the one that 99.9 % of the values stay below.
    psnr_db
        Of the difference, on the range of the other image; about 200 where they are equal.
    """

    max_abs: float
    p999_abs: float
    psnr_db: float


@dataclass(frozen=True)
class GoldenResult:
    """One engine in one precision on one family's golden pair.

    Parameters
    ----------
    difference
        From the golden image; None where there is no image.
    passed
        None where the engine could not be loaded, so that nothing was compared.
    reason
        Why it did not pass or was not loaded; empty where it passed.
    """

    family: Family
    backend: str
    precision: Precision
    difference: Difference | None
    passed: bool | None
    reason: str

    @property
    def margin_db(self) -> float:
        """How far the difference is below its limits, in dB; −∞ without an image."""
        if self.difference is None:
            return -np.inf
        return min(_to_spare_db(self.precision, self.difference).values())


def _to_spare_db(precision: Precision, difference: Difference) -> dict[str, float]:
    return LIMITS[precision].to_spare_db(difference.psnr_db, difference.max_abs)


def replay_golden(bundle: Bundle, combinations: Sequence[Combination]) -> Iterator[GoldenResult]:
    """Replay every family's golden pair, for the default number of steps, one result at a time.

    Raises
    ------
    BundleError
        The bundle has no golden pair for a family, or lacks a variant.
    """
    n_steps = bundle.manifest.sampler.default_n_steps
    for family in bundle.manifest.families:
        golden = bundle.golden(family.name)
        for combination in combinations:
            variant = bundle.extract(family.name, n_steps, combination.precision)
            difference, passed, reason = _replay(variant, combination.backend, golden)
            yield GoldenResult(
                family.name,
                combination.backend,
                combination.precision,
                difference,
                passed,
                reason,
            )


def measure_difference(image: Planes, reference: Planes) -> Difference:
    """Measure how far engine planes `(2, ...)` are from others, which give the range."""
    apart = np.abs(image - reference)
    return Difference(
        float(apart.max()), float(np.percentile(apart, 99.9)), psnr_db(image, reference)
    )


def _replay(
    variant: LoadedVariant, backend: str, golden: GoldenPair
) -> tuple[Difference | None, bool | None, str]:
    """Give the difference, whether it passed, and the reason why it did not."""
    output = variant.outputs[0].name
    try:
        # Nobody vouches for it, says the hash: a model compiled for this small image is not worth
        # keeping, and would be taken for the one that the next scan needs.
        engine = get_backend(backend).load(replace(variant, content_sha256=None))
    except (BackendError, MissingExtraError) as err:
        return None, None, str(err)
    with engine:
        try:
            image = engine.run(golden.inputs)[output][0]
        except BackendError as err:
            return None, False, str(err)
    difference = measure_difference(image, golden.outputs[output][0])
    spare = _to_spare_db(variant.precision, difference)
    reasons = [wrong for wrong, margin in spare.items() if margin < 0]
    return difference, not reasons, "; ".join(reasons)
