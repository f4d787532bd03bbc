"""Software coil compression: fewer virtual coils that keep nearly all of the signal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_VIRTUAL_COILS = 8


def compression_matrix(
    calibration: NDArray[np.complex64], n_virtual: int
) -> tuple[NDArray[np.complex64], float]:
    """Find the orthonormal combinations of coils that carry the most signal.

    One matrix serves the whole slice: a geometric compression (one for each readout position)
    would gain little at eight virtual coils and would make the maps jump along readout.

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
