"""The multi-coil slice that engines are timed on."""

from __future__ import annotations


def mri_problem(size: int, n_coils: int = 8):
    """Return a problem of `(size, size)` at R = 4, of a smooth image: only its shapes matter.

    The engine is given what preparation leaves of the coils; see `compress_rows`.
    """
    import numpy as np

    from ldmpir_edge.physics.cartesian import CartesianOp
    from ldmpir_edge.physics.fourier import centred_ifft
    from ldmpir_edge.physics.masks import column_mask
    from ldmpir_edge.physics.mri_problem import build_mri_problem
    from ldmpir_edge.scans.coil_compression import compress_rows
    from ldmpir_edge.scans.coils import simulate_coil_maps

    rng = np.random.default_rng(0)
    csm = simulate_coil_maps((size, size), n_coils, rng)
    csm = (csm / np.sqrt(np.sum(np.abs(csm) ** 2, axis=0))).astype(np.complex64)
    image = np.abs(np.add.outer(np.sin(np.arange(size) / 9), np.cos(np.arange(size) / 7)))
    mask = column_mask(size, 4, 20, "equispaced", rng)
    kspace = CartesianOp(csm, mask).forward(image.astype(np.complex64))
    rows, maps = compress_rows(centred_ifft(kspace, (1,)), csm)
    return build_mri_problem(rows, maps, mask, 0.01, hybrid=True)
