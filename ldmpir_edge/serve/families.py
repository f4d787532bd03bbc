"""Which engines the open doors can bring work for, the likeliest first."""

from __future__ import annotations

from collections.abc import Collection

from ldmpir_edge.physics.problem import FAMILIES, Family
from ldmpir_edge.serve.config import Route, Source

_BROUGHT: dict[Source, tuple[Family, ...]] = {
    "mrd": ("cartesian1d", "separable"),
    "dicom": ("pointwise",),
    "http": FAMILIES,
    "watch": FAMILIES,
}


def route_families(route: Route, doors: Collection[Source]) -> tuple[Family, ...]:
    """List the families of problems that a route can be given, the likeliest first.

    Another may come all the same: a guess, for what is loaded and tested before it is needed.

    Parameters
    ----------
    route
        Of the configuration.
    doors
        The doors that are on.
    """
    on = [source for source in route.sources if source in doors]
    if on and route.task is not None:
        return ("separable",) if route.task == "super-resolve" else ("pointwise",)
    return tuple(dict.fromkeys(family for source in on for family in _BROUGHT[source]))
