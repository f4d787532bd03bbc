"""Index tables that let an engine project and back-project fan beams by Gather alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.fbp import convolve_detectors
from ldmpir_edge.physics.lanczos import largest_eigenvalue
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.physics.strips import (
    FINE,
    MARGIN,
    N_SLOPES,
    STRIP,
    back_project,
    line_length,
    project,
    shear_kernel,
)

N_LANCZOS_ITERATIONS = 6


def ray_tables(
    op: RadonOp, row_scale: NDArray[np.float32], taps: NDArray[np.float64]
) -> tuple[dict[str, NDArray[np.generic]], float]:
    """Tabulate x → Aᵀ r F r A x / λ for `gram_rays`.

    A is the two-stage projector of `ldmpir_edge.physics.strips` for the rays of `op`, on square
    images of N pixels, a multiple of `STRIP`. With R = views · detectors rays in sinogram order
    and C = 2 N / STRIP · (N_SLOPES − 1) · `line_length(N)` cells between two slopes and two places:

    - `shear` `(N_SLOPES, FINE, 2 REACH + 1, STRIP)` float32, the weights of the strip sums;
    - `forward_index` `(N / STRIP, R)` int32, the cell that a ray crosses in each strip, and
      `forward_fraction`, float32 of the same shape, where between the cell's two places;
    - `ray_weight` `(R, 2)` float32, the ray's weight for each of its two slopes;
    - `adjoint_index` `(K, C)` int32, the rays that cross each cell, and `adjoint_fraction`,
      float32 of the same shape; unused entries hold R, a ray of zero, and 0;
    - `filter` `(D, D)` float32, symmetric Toeplitz.

    `ray_weight` carries r/√λ; λ is the largest eigenvalue, so the tabulated operator's is 1.

    Parameters
    ----------
    op
        The rays and the grid.
    row_scale
        `(views, detectors)`, r: the square root of the quadrature weights.
    taps
        `(detectors,)`, one side of the ramp filter.

    Returns
    -------
        The tables and λ in mm.
    """
    size = op.domain_shape[0]
    n_detectors = op.range_shape[1]
    lag = np.abs(np.arange(n_detectors)[:, None] - np.arange(n_detectors)[None, :])
    tables: dict[str, NDArray[Any]] = {
        "shear": shear_kernel(),
        **_crossings(op, row_scale),
        "filter": taps[lag].astype(np.float32),
    }

    def gram(x: NDArray[np.float64]) -> NDArray[np.float64]:
        sinogram = project(x.astype(np.float32)[None], tables).reshape(op.range_shape)
        filtered = convolve_detectors(sinogram, taps).reshape(1, -1)
        image: NDArray[np.float64] = back_project(filtered, tables, size)[0].astype(np.float64)
        return image

    norm = largest_eigenvalue(gram, op.domain_shape, N_LANCZOS_ITERATIONS)
    tables["ray_weight"] = tables["ray_weight"] / np.float32(np.sqrt(norm))
    return tables, norm


def _crossings(op: RadonOp, row_scale: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    rays = op.rays()
    size, n_rays = op.domain_shape[0], rays.a.size
    n_strips, length = size // STRIP, line_length(size)
    middle = np.arange(n_strips)[:, None] * STRIP + (STRIP - 1) / 2
    place = FINE * (rays.a + rays.b * middle + MARGIN)
    # Off the grid a ray reads the first place of all, where the sums are zero.
    inside = (place > 0) & (place < length - 1)
    place = np.where(inside, place, 0.0)
    left = place.astype(np.int32)
    fraction = (place - left).astype(np.float32)
    slope = (rays.b + 1) / 2 * (N_SLOPES - 1)
    lower = np.clip(slope.astype(np.int32), 0, N_SLOPES - 2)
    strip = np.where(rays.by_row, 0, n_strips) + np.arange(n_strips)[:, None]
    cell = np.where(inside, (strip * (N_SLOPES - 1) + lower) * length + left, 0)
    weight = rays.weight * row_scale.reshape(-1)
    share = slope - lower
    n_cells = 2 * n_strips * (N_SLOPES - 1) * length
    _, ray = np.nonzero(inside)
    adjoint_index, adjoint_fraction = _by_cell(cell[inside], ray, fraction[inside], n_cells, n_rays)
    return {
        "forward_index": cell.astype(np.int32),
        "forward_fraction": fraction,
        "ray_weight": np.stack([weight * (1 - share), weight * share], -1).astype(np.float32),
        "adjoint_index": adjoint_index,
        "adjoint_fraction": adjoint_fraction,
    }


def _by_cell(
    cell: NDArray[np.intp],
    ray: NDArray[np.intp],
    fraction: NDArray[np.float32],
    n_cells: int,
    n_rays: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """List, for every cell, the rays that cross it; all lists as long as the longest."""
    order = np.argsort(cell, kind="stable")
    cell, ray, fraction = cell[order], ray[order], fraction[order]
    count = np.bincount(cell, minlength=n_cells)
    slot = np.arange(cell.size) - (np.cumsum(count) - count)[cell]
    index = np.full((count.max(), n_cells), n_rays, np.int32)
    fractions = np.zeros(index.shape, np.float32)
    index[slot, cell] = ray
    fractions[slot, cell] = fraction
    return index, fractions
