"""A simulated MRI scan of an analytic head."""

from __future__ import annotations

import numpy as np

from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.physics.masks import column_mask
from ldmpir_edge.physics.noise import add_gaussian
from ldmpir_edge.scans.coils import simulate_coil_maps
from ldmpir_edge.scans.phantom import head_phantom, rasterise


def phantom_scan() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A head phantom through 8 coils at R = 4: k-space, maps, mask and magnitude image."""
    rng = np.random.default_rng(5)
    image = rasterise(head_phantom(rng, 0.0), (128, 128), "mr").astype(np.float32)
    maps = simulate_coil_maps((128, 128), 8, rng)
    maps /= np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))
    mask = column_mask(128, 4, 10, "equispaced", rng)
    op = CartesianOp(maps, mask)
    noisy = add_gaussian(op.forward(image.astype(np.complex64)), 0.005, rng)
    return (mask * noisy).astype(np.complex64), maps, mask, image
