"""The bundle of a route: whose it is, and whether it holds what the route asks for."""

from __future__ import annotations

from itertools import product

from ldmpir_edge.bundle import Bundle, Precision, open_bundle
from ldmpir_edge.errors import BundleError
from ldmpir_edge.runtimes import get_backend
from ldmpir_edge.serve.config import Route


def open_route_bundle(route: Route, *, allow_unsigned: bool) -> Bundle:
    """Open and check the bundle of a route.

    Raises
    ------
    BundleError
        It cannot be opened, is not signed by a trusted key, or lacks a variant of the route.
    UsageError
        The route names a backend that does not exist.
    """
    if route.backend is not None:
        get_backend(route.backend)
    bundle = open_bundle(route.bundle)
    if bundle.trust.status != "trusted" and not allow_unsigned:
        raise BundleError(
            f"route {route.name}: {bundle.path} is {whose(bundle)}; add its publisher's key to "
            "the trusted keys, or allow it with --allow-unsigned"
        )
    for n_steps, precision in variants(route, bundle):
        bundle.manifest.variant(bundle.manifest.families[0].name, n_steps, precision)
    return bundle


def variants(route: Route, bundle: Bundle) -> tuple[tuple[int, Precision], ...]:
    """List the (steps, precision) that a route allows, best first: steps count for more."""
    steps = route.steps or (bundle.manifest.sampler.default_n_steps,)
    return tuple(product(steps, route.precisions))


def whose(bundle: Bundle) -> str:
    """Say of a bundle without a trusted signature what it has instead."""
    if bundle.trust.status == "unsigned":
        return "not signed"
    return f"signed by an {bundle.trust}"
