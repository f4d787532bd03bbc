"""Which engines the open doors can bring work for, the likeliest first."""

from __future__ import annotations

from collections.abc import Collection

from ldmpir_edge.physics.problem import FAMILIES, Family
from ldmpir_edge.serve.config import Route, Source

_BROUGHT: dict[Source, tuple[Family, ...]] = {
    "mrd": ("cartesian1d", "separable"),
    "dicom": ("pointwise",),
    "http": FAMILIES,
    "watch": tuple(family for family in FAMILIES if family != "pointwise"),
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
    brought = [_BROUGHT[source] for source in on]
    if route.task is not None:
        # Who says what to do with images expects them where they can come.
        family: Family = "separable" if route.task == "super-resolve" else "pointwise"
        brought = [(family,) if "pointwise" in of_door else of_door for of_door in brought]
    return tuple(dict.fromkeys(family for of_door in brought for family in of_door))
