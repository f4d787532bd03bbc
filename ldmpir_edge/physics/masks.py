"""Undersampling masks of Cartesian MRI."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import UsageError

MaskKind = Literal["equispaced", "random"]


def column_mask(
    n_columns: int,
    acceleration: float,
    n_acs: int,
    kind: MaskKind,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Draw a 1-D phase-encode mask of shape `(n_columns,)`, 1 where sampled.

    The centre keeps `n_acs` autocalibration lines; the rest is thinned so that about
    n_columns / acceleration lines are sampled in all, as in the fastMRI challenge.

    Raises
    ------
    UsageError
        `acceleration` is below 1 or `n_acs` is negative or above `n_columns`.

    Source: Zbontar et al., "fastMRI", arXiv:1811.08839, 2018.
    """
    if acceleration < 1 or not 0 <= n_acs <= n_columns:
        raise UsageError(
            f"acceleration {acceleration} with {n_acs} autocalibration lines of {n_columns} "
            "is no mask: give acceleration >= 1 and 0 <= lines <= columns"
        )
    mask = np.zeros(n_columns, np.float32)
    start = (n_columns - n_acs + 1) // 2
    mask[start : start + n_acs] = 1
    wanted = round(n_columns / acceleration) - n_acs
    if wanted <= 0:
        return mask
    outside = np.flatnonzero(mask == 0)
    if kind == "random":
        mask[rng.choice(outside, size=min(wanted, outside.size), replace=False)] = 1
        return mask
    spacing = outside.size / wanted
    positions = (rng.uniform(0, spacing) + spacing * np.arange(wanted)).astype(int)
    mask[outside[positions]] = 1
    return mask


def partial_fourier(mask: NDArray[np.float32], fraction: float) -> NDArray[np.float32]:
    """Drop the last columns of a `(n,)` mask so that the first `fraction` of k-space remains.

    Raises
    ------
    UsageError
        `fraction` is not in (0.5, 1].
    """
    if not 0.5 < fraction <= 1:
        raise UsageError(f"partial Fourier fraction {fraction} must be above 0.5 and at most 1")
    kept = mask.copy()
    kept[round(fraction * mask.size) :] = 0
    return kept


def variable_density_mask(
    shape: tuple[int, int], acceleration: float, n_acs: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a 2-D mask, denser in the middle: `(H, W)` float32, for two phase-encode axes.

    The probability falls with the distance from the centre; an `n_acs` square is kept whole.

    Source: Lustig et al., "Sparse MRI", MRM 58(6), 2007.
    """
    height, width = shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    density = (1 - np.minimum(np.hypot(y, x) / np.sqrt(2), 1)) ** 3
    # The common factor that brings the expected number of samples to the one asked for.
    low, high = 0.0, 1e3
    target = height * width / acceleration
    for _ in range(50):
        factor = (low + high) / 2
        if np.minimum(density * factor, 1).sum() < target:
            low = factor
        else:
            high = factor
    mask: NDArray[np.float32] = (rng.random(shape) < density * factor).astype(np.float32)
    top, left = (height - n_acs + 1) // 2, (width - n_acs + 1) // 2
    mask[top : top + n_acs, left : left + n_acs] = 1
    return mask
