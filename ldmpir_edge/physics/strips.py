"""Line integrals in two stages: sums over strips of rows, then rays across the strips.

Within a strip of `STRIP` rows a ray moves sideways by its slope. The first stage sums every strip
along a few slopes, at every half pixel: small dense products that no longer know of any ray. The
second reads, for each ray and strip, between two slopes and two places: one look-up in place of
`STRIP`. Rays nearer the horizontal do the same on the transposed image.

The forward and the adjoint below hold the same numbers, so the pair is matched to rounding. They
take numpy arrays and torch tensors alike, use only what every engine has (MatMul, elementwise,
Gather), and need no scatter.

Source: two-stage summation as in Brady, SIAM J. Comput. 27(1), 1998, with Joseph's sampling (IEEE
TMI 1(3), 1982) across the strips.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ldmpir_edge.physics.linear_op import Array

STRIP = 8
N_SLOPES = 15
"""From −1 to 1: at a strip's first and last row, neighbouring slopes are half a pixel apart."""
FINE = 2
"""Places a pixel: linear interpolation between whole pixels blurred, and cost CG 0.2 dB."""
REACH = 5
"""Half the width of the sums: half a strip, and the two pixels of cubic interpolation."""
MARGIN = REACH + 1
"""Places before and behind a row, in pixels; at the outermost the sums are zero."""


def shear_kernel() -> NDArray[np.float32]:
    """Return the weights of the strip sums, `(N_SLOPES, FINE, 2 REACH + 1, STRIP)`.

    Row j of a strip enters at x + slope · (j − middle), by cubic convolution.

    Source: Keys, IEEE TASSP 29(6), 1981.
    """
    slope = np.linspace(-1, 1, N_SLOPES)[:, None, None, None]
    place = np.arange(FINE)[:, None, None] / FINE
    pixel = np.arange(-REACH, REACH + 1)[:, None]
    row = np.arange(STRIP) - (STRIP - 1) / 2
    d = np.abs(pixel - place - slope * row)
    inner, outer = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d < 1, inner, np.where(d < 2, outer, 0)).astype(np.float32)


def line_length(size: int) -> int:
    """Return the number of places along a strip of an image of `size` pixels."""
    return FINE * (size + 2 * MARGIN)


def project(image: Array, tables: Mapping[str, Array]) -> Array:
    """Map square images `(B, N, N)` to their rays `(B, R)`; tables as in `gram_rays`."""
    xp = array_namespace(image)
    sums = _strip_sums(image, tables["shear"])
    # Two neighbouring slopes side by side: one look-up reads both.
    pairs = xp.reshape(
        xp.stack([sums[:, :, :-1], sums[:, :, 1:]], axis=-1), (image.shape[0], -1, 2)
    )
    index, fraction = tables["forward_index"], tables["forward_fraction"][..., None]
    # Indexing, for take and reshape trace as a dozen operations more; and the neighbour by a
    # shifted view, which costs no second table.
    near, far = pairs[:, :-1][:, index], pairs[:, 1:][:, index]
    across = xp.sum(near + fraction * (far - near), axis=1)
    return xp.sum(across * tables["ray_weight"], axis=-1)


def back_project(rays: Array, tables: Mapping[str, Array], size: int) -> Array:
    """Map rays `(B, R)` to images `(B, N, N)`, N = `size`: the adjoint of `project`."""
    xp = array_namespace(rays)
    weighted = rays[..., None] * tables["ray_weight"]
    weighted = xp.concat([weighted, weighted[:, :1] * 0], axis=1)
    gathered = weighted[:, tables["adjoint_index"]]
    far = xp.sum(tables["adjoint_fraction"][..., None] * gathered, axis=1)
    near = xp.sum(gathered, axis=1) - far
    # No ray reads between the last place of a line and the first of the next.
    pairs = near + xp.concat([far[:, :1] * 0, far[:, :-1]], axis=1)
    pairs = xp.reshape(pairs, (rays.shape[0], -1, N_SLOPES - 1, line_length(size), 2))
    edge = pairs[:, :, :1, :, 0] * 0
    lower = xp.concat([pairs[..., 0], edge], axis=2)
    upper = xp.concat([edge, pairs[..., 1]], axis=2)
    return _spread_sums(lower + upper, tables["shear"], size)


def _strip_sums(image: Array, shear: Array) -> Array:
    """Return `(B, 2 N / STRIP, N_SLOPES, line_length)`: strips of rows, then of columns."""
    xp = array_namespace(image)
    n_batch, taps = image.shape[0], 2 * REACH
    rows = xp.concat([image, xp.matrix_transpose(image)], axis=-2)
    edge = rows[..., : MARGIN + REACH] * 0
    rows = xp.concat([edge, rows, edge], axis=-1)
    rows = xp.reshape(rows, (n_batch, -1, 1, STRIP, rows.shape[-1]))
    shifted = xp.concat([rows[..., k : (k - taps) or None] for k in range(taps + 1)], axis=2)
    shifted = xp.reshape(shifted, (n_batch, -1, (taps + 1) * STRIP, shifted.shape[-1]))
    sums = xp.reshape(shear, (N_SLOPES * FINE, -1)) @ shifted
    sums = xp.reshape(sums, (n_batch, -1, N_SLOPES, FINE, sums.shape[-1]))
    return xp.reshape(xp.matrix_transpose(sums), (n_batch, sums.shape[1], N_SLOPES, -1))


def _spread_sums(sums: Array, shear: Array, size: int) -> Array:
    """Apply the adjoint of `_strip_sums`."""
    xp = array_namespace(sums)
    n_batch, taps = sums.shape[0], 2 * REACH
    sums = xp.reshape(sums, (n_batch, -1, N_SLOPES, size + 2 * MARGIN, FINE))
    sums = xp.reshape(
        xp.matrix_transpose(sums), (n_batch, -1, 1, N_SLOPES * FINE, size + 2 * MARGIN)
    )
    # What pixel x + k − REACH gave to place x comes back from there.
    first = MARGIN + REACH
    shifted = xp.concat(
        [sums[..., first - k : first - k - 2 * MARGIN] for k in range(taps + 1)], axis=2
    )
    shifted = xp.reshape(shifted, (n_batch, -1, (taps + 1) * N_SLOPES * FINE, size))
    weights = xp.reshape(xp.permute_dims(shear, (3, 2, 0, 1)), (STRIP, -1))
    planes = xp.reshape(weights @ shifted, (n_batch, 2, size, size))
    return planes[:, 0] + xp.matrix_transpose(planes[:, 1])
