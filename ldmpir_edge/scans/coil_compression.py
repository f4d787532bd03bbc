"""Software coil compression: fewer virtual coils that keep nearly all of the signal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_VIRTUAL_COILS = 8
ROW_COILS = 5
ROW_LOSS = 3e-3
"""Largest share of any row's sensitivity that `compress_rows` may give up."""


def compression_matrix(
    calibration: NDArray[np.complex64], n_virtual: int
) -> tuple[NDArray[np.complex64], float]:
    """Find the orthonormal combinations of coils that carry the most signal.

    One matrix serves the whole slice, so that maps can be estimated from what comes out; see
    `compress_rows` for what follows when there are maps.

    Parameters
    ----------
    calibration
        `(coils, ...)` complex, whitened, low spatial frequencies.
    n_virtual
        Virtual coils wanted, 1 … coils.

    Returns
    -------
        The matrix `(n_virtual, coils)` complex64 with orthonormal rows, strongest first, and the
        share of the calibration signal's energy that it keeps, 0 … 1.

    Source: Huang et al., MRI 26(1), 2008; Buehrer et al., MRM 57(6), 2007.
    """
    flat = calibration.reshape(len(calibration), -1).astype(np.complex128)
    values, vectors = np.linalg.eigh(flat @ flat.conj().T)
    strongest = vectors[:, ::-1][:, :n_virtual]
    total = float(values.sum())
    kept = float(values[::-1][:n_virtual].sum()) / total if total > 0 else 1.0
    return strongest.conj().T.astype(np.complex64), kept


def compress(
    samples: NDArray[np.complex64], matrix: NDArray[np.complex64]
) -> NDArray[np.complex64]:
    """Combine `(coils, ...)` samples into `(n_virtual, ...)` virtual coils."""
    flat = matrix @ samples.reshape(len(samples), -1)
    combined: NDArray[np.complex64] = flat.reshape(len(matrix), *samples.shape[1:])
    return combined


def compress_rows(
    data: NDArray[np.complex64], csm: NDArray[np.complex64]
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Give every readout position virtual coils of its own, of which `ROW_COILS` are enough.

    Once the readout axis is an image axis, rows are measured apart from each other, and coils may
    be rotated in each row: along one row the maps differ far less than over the slice. Data and
    maps are rotated alike, so that the model stays exact and white noise white; only what the
    weakest coils had measured is given up. The engine's work is in proportion to the coils.

    Parameters
    ----------
    data
        `(C, H, W)` complex, of which axis H is an image axis.
    csm
        `(C, H, W)` complex coil sensitivity maps.

    Returns
    -------
        Data and maps `(ROW_COILS, H, W)` complex64; what was given where it has no more coils, or
        where a row would lose more than `ROW_LOSS` of its sensitivity.

    Source: Zhang et al., "Coil compression for accelerated imaging with Cartesian sampling", MRM
    69(2), 2013; here from the maps, and without aligning the rows, which nothing joins any more.
    """
    if len(csm) <= ROW_COILS:
        return data, csm
    rows = csm.transpose(1, 0, 2)
    energies, vectors = np.linalg.eigh(rows @ rows.conj().transpose(0, 2, 1))
    lost = energies[:, :-ROW_COILS].sum(axis=1)
    if (lost > ROW_LOSS * energies.sum(axis=1)).any():
        return data, csm
    rotation = vectors[:, :, : -ROW_COILS - 1 : -1].conj().transpose(0, 2, 1)
    rotated_data, rotated_csm = (
        np.ascontiguousarray((rotation @ array.transpose(1, 0, 2)).transpose(1, 0, 2), np.complex64)
        for array in (data, csm)
    )
    return rotated_data, rotated_csm
