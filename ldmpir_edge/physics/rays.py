"""Index tables that let an engine project and back-project by Gather alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.power_iteration import largest_eigenvalue
from ldmpir_edge.physics.radon import BLOCK_SIZE, RadonOp

if TYPE_CHECKING:
    from scipy.sparse import csr_array

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
      zero behind; `adjoint_index` `(P, K)` int32, `adjoint_weight` `(P, K)` float32. Unused
      entries have weight 0 and repeat the pixel's rays, or that zero where there is none.

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
    n_views, n_detectors = op.range_shape
    lag = np.abs(np.arange(n_detectors)[:, None] - np.arange(n_detectors)[None, :])
    forward_index, forward_fraction, forward_weight = _forward_tables(op, row_scale)
    adjoint_index, adjoint_weight = _adjoint_tables(
        op, forward_index, forward_fraction, forward_weight
    )
    ramp = taps[lag].astype(np.float32)
    rays = SparseRays(adjoint_index, adjoint_weight, ramp, n_views, op.domain_shape)
    norm = largest_eigenvalue(
        lambda x: rays.gram(x.astype(np.float32)).astype(np.float64),
        op.domain_shape,
        N_POWER_ITERATIONS,
    )
    scale = np.float32(1 / np.sqrt(norm))
    tables: dict[str, NDArray[np.generic]] = {
        "forward_index": forward_index,
        "forward_fraction": forward_fraction,
        "forward_weight": forward_weight * scale,
        "adjoint_index": adjoint_index,
        "adjoint_weight": adjoint_weight * scale,
        "filter": ramp,
    }
    return tables, norm


class SparseRays:
    """What the tables tabulate, by sparse products: a fifteenth of `RadonOp`'s time, or less.

    No copy of the adjoint's tables is made.

    Parameters
    ----------
    adjoint_index, adjoint_weight, ramp
        As `ray_tables` makes them; `ramp` is the table `filter`.
    image_shape
        `(H, W)`.
    """

    def __init__(
        self,
        adjoint_index: NDArray[Any],
        adjoint_weight: NDArray[Any],
        ramp: NDArray[Any],
        n_views: int,
        image_shape: tuple[int, int],
    ) -> None:
        self._matrix = _as_matrix(adjoint_index, adjoint_weight, n_views * len(ramp))
        self._ramp, self._n_views, self._image_shape = ramp, n_views, image_shape

    def adjoint(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply Aᵀ r, with what the tables carry of the scale, to `(views, detectors)`."""
        image: NDArray[np.float32] = self._matrix @ np.append(sinogram, np.float32(0))
        return image.reshape(self._image_shape)

    def gram(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply Aᵀ r F r A and its scale to an `(H, W)` image."""
        sinogram = (self._matrix.T @ x.reshape(-1))[:-1].reshape(self._n_views, -1)
        return self.adjoint(sinogram @ self._ramp)


def _as_matrix(index: NDArray[np.int32], weight: NDArray[np.float32], n_rays: int) -> csr_array:
    """See the adjoint's tables as the sparse matrix that they are, `(P, n_rays + 1)`.

    No copy is made.
    """
    from scipy.sparse import csr_array  # slow to import, and needed for fan beams only

    n_pixels, width = index.shape
    # Of the indices' own type: scipy would copy them to make both alike.
    rows = np.arange(0, index.size + 1, width, dtype=index.dtype)
    return csr_array((weight.reshape(-1), index.reshape(-1), rows), (n_pixels, n_rays + 1))


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
        index[part] = _row_start(rays.by_row[part], size) + left.astype(np.int32)
        fraction[part] = position - left
    weight = (rays.weight * scale.reshape(-1)).astype(np.float32)
    return index, fraction, weight


def _row_start(by_row: NDArray[np.bool_], size: int) -> NDArray[np.int32]:
    """Return where in v the first pixel of each row lies, `(rays, size)`."""
    plane = np.where(by_row, 0, size * (size + 2))[:, None]
    return (plane + np.arange(size) * (size + 2) + 1).astype(np.int32)


def _adjoint_tables(
    op: RadonOp,
    forward_index: NDArray[np.int32],
    fraction: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Transpose the forward tables, a block of rays at a time so that memory stays flat."""
    from scipy.sparse import csr_array  # slow to import, and needed for fan beams only

    n_pixels = op.domain_shape[0] * op.domain_shape[1]
    n_entries = np.zeros(n_pixels, np.intp)
    for _, pixels, shares in _entries(op, forward_index, fraction, weight):
        n_entries += np.bincount(pixels[shares > 0], minlength=n_pixels)
    width = int(n_entries.max())
    index = np.full((n_pixels, width), weight.size, np.int32)
    weights = np.zeros((n_pixels, width), np.float32)
    filled = np.zeros(n_pixels, np.intp)
    for first, pixels, shares in _entries(op, forward_index, fraction, weight):
        bounds = np.arange(0, shares.size + 1, shares.shape[1])
        matrix = csr_array(
            (shares.reshape(-1), pixels.reshape(-1), bounds), (len(shares), n_pixels)
        )
        matrix.eliminate_zeros()
        by_pixel = matrix.tocsc()
        counts = np.diff(by_pixel.indptr)
        rows = np.repeat(np.arange(n_pixels), counts)
        slots = np.arange(by_pixel.nnz) + np.repeat(filled - by_pixel.indptr[:-1], counts)
        index[rows, slots] = first + by_pixel.indices
        weights[rows, slots] = by_pixel.data
        filled += counts
    _repeat(index, filled)
    return index, weights


def _repeat(index: NDArray[np.int32], filled: NDArray[np.intp]) -> None:
    """Have the unused entries of each row repeat the used ones, in place.

    Products that scatter would wait for one another at a ray that all of them share: a third of the
    entries are unused, and took three quarters of the time.
    """
    n_block = max(1, BLOCK_SIZE // index.shape[1])
    for first in range(0, len(index), n_block):
        part = slice(first, first + n_block)
        places = np.arange(index.shape[1]) % np.maximum(filled[part, None], 1)
        index[part] = np.take_along_axis(index[part], places, axis=1)


def _entries(
    op: RadonOp,
    forward_index: NDArray[np.int32],
    fraction: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.float32]]]:
    """Yield blocks of rays: the first ray, and `(rays, 2 N)` pixels and what they weigh in each.

    Samples outside the image weigh 0.
    """
    every_by_row = op.rays().by_row
    height, width = op.domain_shape
    n_rays, size = fraction.shape
    k = np.arange(size, dtype=np.int32)[:, None]
    n_block = max(1, BLOCK_SIZE // size)
    for first in range(0, n_rays, n_block):
        part = slice(first, first + n_block)
        left = forward_index[part] - _row_start(every_by_row[part], size)
        beside = left[..., None] + np.array([0, 1], np.int32)
        by_row = every_by_row[part, None, None]
        inside = (beside >= 0) & (beside < np.where(by_row, width, height))
        inside &= k < np.where(by_row, height, width)
        pixels = np.where(by_row, k * width + beside, beside * width + k) * inside
        near = 1 - fraction[part]
        shares = np.stack([near, fraction[part]], axis=-1) * weight[part, None, None] * inside
        yield first, pixels.reshape(-1, 2 * size), shares.reshape(-1, 2 * size)
