"""The range of shapes that one engine serves, and the shapes that it is tuned for."""

from __future__ import annotations

from ldmpir_edge.bundle import LoadedVariant, SizeLimits, TypicalScan
from ldmpir_edge.bundle.dims import Dim, parse_dim
from ldmpir_edge.physics.problem import Family

Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]
"""Smallest, typical and largest shape of every input."""

MAX_RAYS = 600_000
"""Rays of a fan-beam scan with tables (`physics.ct_problem` rebins what needs larger ones): all
scans of 128 × 128 pixels and more, and no tensor above TensorRT's 2³¹ elements."""

MAX_BINS_PER_PIXEL = 2000
"""Detector bins that see one pixel: about three a view."""

MAX_DETECTORS = 2048

_Sizes = dict[str, tuple[int, int, int]]


def make_profile(variant: LoadedVariant, limits: SizeLimits, typical: TypicalScan) -> Profile:
    """Work out the shapes of an engine's inputs from the sizes of scans.

    Parameters
    ----------
    variant
        Its tensors have symbolic shapes.
    limits
        Scans that the engine must take, one slice at a time.
    typical
        The scan that it is tuned for; sizes outside the limits are moved to them.
    """
    sizes = _sizes(variant.family, limits, typical)
    sizes["n_steps"] = (variant.n_steps,) * 3

    def shape(dims: tuple[Dim, ...], which: int) -> Shape:
        return tuple(_evaluate(dim, sizes, which) for dim in dims)

    return {
        spec.name: (shape(spec.shape, 0), shape(spec.shape, 1), shape(spec.shape, 2))
        for spec in variant.inputs
    }


def _sizes(family: Family, limits: SizeLimits, typical: TypicalScan) -> _Sizes:
    height = _range(limits.min_height, typical.height, limits.max_height)
    width = _range(limits.min_width, typical.width, limits.max_width)
    sizes = {
        "B": (1, 1, 1),
        "H": height,
        "W": width,
        "C": _range(1, typical.coils, limits.max_coils),
        "m": (1, *height[1:]),
        "n": (1, *width[1:]),
    }
    if family == "cartesian1d":
        # Sampled columns, filled up to a multiple of 8: a fourfold acceleration is typical.
        sizes["n"] = (1, max(8, width[1] // 32 * 8), width[2])
    if family == "rays":
        views = _range(1, typical.views, limits.max_views)
        detectors = _range(1, typical.detectors, MAX_DETECTORS)
        sizes |= {
            "D": detectors,
            "R": _range(1, views[1] * detectors[1], MAX_RAYS),
            "N": (max(height[0], width[0]), max(height[1], width[1]), max(height[2], width[2])),
            "P": (height[0] * width[0], height[1] * width[1], height[2] * width[2]),
            "K": _range(1, 3 * views[1], MAX_BINS_PER_PIXEL),
        }
    return sizes


def _range(low: int, typical: int, high: int) -> tuple[int, int, int]:
    return low, min(max(typical, low), high), high


def _evaluate(dim: Dim, sizes: _Sizes, which: int) -> int:
    if isinstance(dim, int):
        return dim
    factor, name, divisor, shift = parse_dim(dim)
    return factor * sizes[name][which] // divisor + shift
