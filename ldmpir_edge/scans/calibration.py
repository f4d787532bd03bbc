"""Which samples were measured, and where their fully sampled centre lies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ShapeError

# A column counts as complete despite a few samples that happen to be exactly zero.
_COMPLETE = 0.98


def sampled_positions(
    kspace: NDArray[np.complex64], mask: NDArray[np.generic] | None
) -> NDArray[np.bool_]:
    """Tell which samples of a slice were measured.

    Parameters
    ----------
    kspace
        `(coils, readout, phase_encode)` complex, zero where nothing was sampled.
    mask
        `(phase_encode,)` or `(readout, phase_encode)`, non-zero where the file says sampled, or
        None. Positions without a signal in any coil are not sampled even where it says so: zero
        padding, or columns that the scan left out.

    Returns
    -------
        `(phase_encode,)` bool when every sampled column is complete along readout, otherwise
        `(readout, phase_encode)` bool.

    Raises
    ------
    ShapeError
        The mask does not fit k-space.
    ScanDataError
        Nothing is sampled.
    """
    present: NDArray[np.bool_] = (kspace != 0).any(axis=0)
    if mask is not None:
        if mask.shape not in (present.shape, present.shape[1:]):
            raise ShapeError(
                f"mask has shape {mask.shape} and k-space {kspace.shape}; give one entry for "
                "each column or for each sample"
            )
        present &= mask != 0
    if not present.any():
        raise ScanDataError(
            "no k-space sample lies under the sampling mask; check the mask or the export"
        )
    share = present.mean(axis=0)
    columns: NDArray[np.bool_] = share > 0
    if share[columns].min() >= _COMPLETE:
        return columns
    return present


def central_block(sampled: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Find the largest fully sampled block around the centre of k-space.

    The block grows from the centre as a square and then along each axis alone, so that it keeps
    k = 0 in its middle.

    Parameters
    ----------
    sampled
        `(readout, phase_encode)` bool.

    Returns
    -------
        Slices of rows and columns; k = 0 is at index n // 2 of the block. Empty slices when
        the centre itself was not sampled.
    """
    height, width = sampled.shape
    if not sampled[height // 2, width // 2]:
        return slice(height // 2, height // 2), slice(width // 2, width // 2)
    n_rows = n_columns = 1
    growing = True
    while growing:
        growing = False
        # The block itself is known to be sampled: only the line that it grows by is looked at.
        rows = _around(height, n_rows)
        if n_columns < width and sampled[rows, _next(width, n_columns)].all():
            n_columns, growing = n_columns + 1, True
        columns = _around(width, n_columns)
        if n_rows < height and sampled[_next(height, n_rows), columns].all():
            n_rows, growing = n_rows + 1, True
    return rows, columns


def _around(size: int, n: int) -> slice:
    return slice(size // 2 - n // 2, size // 2 - n // 2 + n)


def _next(size: int, n: int) -> int:
    """Give the index that a centred block of n + 1 samples has besides those of n."""
    return size // 2 - (n + 1) // 2 if n % 2 else size // 2 + n // 2
