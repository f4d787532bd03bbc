"""The gate of a fine-tuned model, before the export's own: the site's scans, the base's goldens.

The export's gate compares engines with PyTorch; whether the new weights may be used at all is
asked here. The golden images of a fine-tuned model are not those of its base: they must be near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldmpir_edge.errors import GateError
from ldmpir_edge.export.gate import reference_image
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.physics.problem import Problem
from ldmpir_edge.reconstruct.checks import check_slice, data_residual

GOLDEN_LIMIT = 0.05
"""Root mean square difference from a golden image of the base, whose bright end is 1."""


@dataclass(frozen=True)
class SiteGate:
    """The largest residuals on the site's scans, and difference from the base's golden images."""

    residual: float
    base_residual: float
    golden_rms: float


def run_site_gate(
    model: LdmPir,
    base: LdmPir,
    scans: Sequence[Problem],
    golden: Sequence[Problem],
    n_steps: int,
) -> SiteGate:
    """Check a fine-tuned model.

    Parameters
    ----------
    model, base
        The new and the old weights.
    scans
        The site's slices, of all that was measured.
    golden
        The problems of the base's golden pairs.
    n_steps
        Sampler steps.

    Raises
    ------
    GateError
        An image of the site's would be replaced by the classical one at the scanner, or one of the
        base's golden images has changed beyond `GOLDEN_LIMIT`.
    """
    residuals, base_residuals = [0.0], [0.0]
    for problem in scans:
        checks = check_slice(problem, reference_image(model, problem, n_steps))
        if checks["fallback"] is not None:
            raise GateError(
                f"the fine-tuned model fails on one of the scans that it learned from: "
                f"{checks['fallback']}; the base is kept: give more scans, or another --seed"
            )
        residuals.append(checks["residual"])
        base_residuals.append(data_residual(problem, reference_image(base, problem, n_steps)))
    differences = [0.0]
    for problem in golden:
        change = reference_image(model, problem, n_steps) - reference_image(base, problem, n_steps)
        differences.append(float(np.sqrt(np.mean(change.astype(np.float64) ** 2))))
    worst = max(differences)
    if not worst <= GOLDEN_LIMIT:
        raise GateError(
            f"the fine-tuned model changes a golden image of its base by {worst:.3g} (limit "
            f"{GOLDEN_LIMIT:g}): it has forgotten too much; give more scans, or no --rank"
        )
    return SiteGate(max(residuals), max(base_residuals), worst)
