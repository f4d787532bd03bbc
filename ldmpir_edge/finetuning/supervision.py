"""Targets: what a reference, or the base's own image, is in engine units."""

from __future__ import annotations

import numpy as np

from ldmpir_edge.errors import ShapeError
from ldmpir_edge.finetuning.measured import Planes
from ldmpir_edge.finetuning.scans import SiteSlice


def reference_planes(entry: SiteSlice, base_image: Planes) -> Planes:
    """Bring a slice's reference to `(2, H, W)` engine planes.

    Parameters
    ----------
    entry
        Has a reference.
    base_image
        The base's reconstruction, `(2, H, W)`: a magnitude reference gets its phase, and nothing
        where no coil sees anything.

    Raises
    ------
    ShapeError
        The reference is not of the image's size.
    """
    problem, reference = entry.measured.problem, entry.reference
    top, left, height, width = problem.crop or (0, 0, *problem.b.shape[1:])
    if reference is None or reference.shape != (height, width):
        found = "no reference" if reference is None else f"a reference of shape {reference.shape}"
        raise ShapeError(f"the scan holds {found}; its image has shape {(height, width)}")
    view = (slice(None), slice(top, top + height), slice(left, left + width))
    planes = np.zeros_like(base_image)
    if entry.rss_scale is None:
        planes[view][0] = (reference - problem.offset) / problem.scale
        return planes
    inside = base_image[view]
    magnitude = np.hypot(inside[0], inside[1])
    seen = (magnitude > 0) & (entry.rss_scale > 0)
    size = np.where(seen, reference / np.where(seen, entry.rss_scale, 1), 0) / problem.scale
    planes[view] = inside * (size / np.where(seen, magnitude, 1)).astype(np.float32)
    return planes
