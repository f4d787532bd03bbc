"""Index tables that let an engine project and back-project by Gather alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.fbp import convolve_detectors
from ldmpir_edge.physics.power_iteration import largest_eigenvalue
from ldmpir_edge.physics.radon import BLOCK_SIZE, RadonOp

N_POWER_ITERATIONS = 12


def ray_tables(
    op: RadonOp, row_scale: NDArray[np.float32], taps: NDArray[np.float64]
) -> tuple[dict[str, NDArray[np.generic]], float]:
    """Tabulate x → Aᵀ r F r A x / λ for `gram_rays`.

    With N = max(H, W), R = views · detectors rays in sinogram order, P = H · W:

    - The image is zero-padded below and to the right to N × N; a zero goes before and behind
      each row: `(N, N + 2)`. The same of the transposed image follows. Flattened, that is v,
      of length 2 N (N + 2).
    - forward: sinogram = forward_weight · Σ_N (v[i] + f (v[i + 1] − v[i])) with
      i = `forward_index` `(R, N)` int32 and f = `forward_fraction` `(R, N)` float32.
    - filter: sinogram `(views, D)` times `filter` `(D, D)`, symmetric Toeplitz.
    - adjoint: pixel = Σ_K adjoint_weight · s[adjoint_index], s the flattened sinogram with one
      zero behind; `adjoint_index` `(P, K)` int32, `adjoint_weight` `(P, K)` float32, unused
      entries pointing at that zero with weight 0.

    Both weights carry r/√λ; λ is the largest eigenvalue, so the tabulated operator's is 1.

    Parameters
    ----------
    op
        The projector.
    row_scale
        `(views, detectors)`, r: the square root of the quadrature weights.
    taps
        `(detectors,)`, one side of the ramp filter.

    Returns
    -------
        The tables and λ in mm.
    """
    n_detectors = op.range_shape[1]
    lag = np.abs(np.arange(n_detectors)[:, None] - np.arange(n_detectors)[None, :])

    def gram(x: NDArray[np.float64]) -> NDArray[np.float64]:
        image = x.astype(np.float32)
        filtered = convolve_detectors(row_scale * op.forward(image), taps)
        back: NDArray[np.float64] = op.adjoint(row_scale * filtered).astype(np.float64)
        return back

    norm = largest_eigenvalue(gram, op.domain_shape, N_POWER_ITERATIONS)
    scale = row_scale / np.float32(np.sqrt(norm))
    forward_index, forward_fraction, forward_weight = _forward_tables(op, scale)
    adjoint_index, adjoint_weight = _adjoint_tables(op, scale)
    tables: dict[str, NDArray[np.generic]] = {
        "forward_index": forward_index,
        "forward_fraction": forward_fraction,
        "forward_weight": forward_weight,
        "adjoint_index": adjoint_index,
        "adjoint_weight": adjoint_weight,
        "filter": taps[lag].astype(np.float32),
    }
    return tables, norm


def _forward_tables(
    op: RadonOp, scale: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    rays = op.rays()
    size = max(op.domain_shape)
    n_rays = rays.a.size
    index = np.empty((n_rays, size), np.int32)
    fraction = np.empty((n_rays, size), np.float32)
    k = np.arange(size)
    block = max(1, BLOCK_SIZE // size)
    for start in range(0, n_rays, block):
        part = slice(start, start + block)
        position = np.clip(rays.a[part, None] + rays.b[part, None] * k, -1.0, size)
        # The last pixel's upper neighbour is the zero behind the row, never the next row.
        left = np.minimum(np.floor(position), size - 1)
        plane = np.where(rays.by_row[part], 0, size * (size + 2))[:, None]
        index[part] = plane + k * (size + 2) + 1 + left.astype(np.intp)
        fraction[part] = position - left
    weight = (rays.weight * scale.reshape(-1)).astype(np.float32)
    return index, fraction, weight


def _adjoint_tables(
    op: RadonOp, scale: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    n_views, n_detectors = op.range_shape
    n_pixels = op.domain_shape[0] * op.domain_shape[1]
    ray_weight = op.rays().weight.reshape(op.range_shape) * scale
    n_entries = np.zeros(n_pixels, np.intp)
    for view in range(n_views):
        for _, overlap in op.touching(view):
            n_entries += overlap.reshape(-1) > 0
    width = int(n_entries.max())
    index = np.full((n_pixels, width), n_views * n_detectors, np.int32)
    weight = np.zeros((n_pixels, width), np.float32)
    filled = np.zeros(n_pixels, np.intp)
    for view in range(n_views):
        for detector, overlap in op.touching(view):
            pixels = np.flatnonzero(overlap)
            chosen = detector.reshape(-1)[pixels]
            slot = filled[pixels]
            index[pixels, slot] = view * n_detectors + chosen
            weight[pixels, slot] = overlap.reshape(-1)[pixels] * ray_weight[view, chosen]
            filled[pixels] = slot + 1
    return index, weight
