"""What a fine-tuned bundle must be before it may serve a route."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ldmpir_edge.bundle import Bundle, Manifest, open_bundle
from ldmpir_edge.errors import BundleError, GateError, UsageError
from ldmpir_edge.physics.problem import FAMILIES
from ldmpir_edge.serve.bundles import open_route_bundle, whose
from ldmpir_edge.serve.config import Route
from ldmpir_edge.serve.engines import BundleEngines

WEIGHTS = "weights.safetensors"


def ancestors(manifest: Manifest) -> set[str]:
    """Give the SHA-256 of a model's weights, and of those that it was fine-tuned from."""
    tuned = manifest.finetuning
    known = {manifest.source_hashes.get(WEIGHTS), tuned.base_weights if tuned else None}
    return {digest for digest in known if digest is not None}


def open_candidate(path: Path, route: Route, serving: Bundle) -> Bundle:
    """Open a bundle that is to serve a route in place of another.

    Raises
    ------
    BundleError
        It is damaged, not signed by a trusted key, lacks a variant of the route, or was not
        fine-tuned from the model that serves.
    UsageError
        It serves already.
    """
    bundle = open_bundle(path)
    if bundle.trust.status != "trusted":
        raise BundleError(
            f"{path} is {whose(bundle)}; only what a trusted key signed is put in service: "
            "fine-tune with --key, and add its public key to the trusted keys"
        )
    open_route_bundle(route.model_copy(update={"bundle": str(path)}), allow_unsigned=False)
    if bundle.digest == serving.digest:
        raise UsageError(f"{path} serves route {route.name} already; there is nothing to do")
    tuned = bundle.manifest.finetuning
    if tuned is None:
        raise BundleError(
            f"{path} was not fine-tuned; to serve another model, name it as the bundle of route "
            f"{route.name} in the configuration"
        )
    if tuned.base_weights not in ancestors(serving.manifest):
        model = serving.manifest.model
        raise BundleError(
            f"{path} was fine-tuned from {tuned.base.id} {tuned.base.version} (weights "
            f"{tuned.base_weights[:12]}), not from {model.id} {model.version}, which serves route "
            f"{route.name}; fine-tune again from that"
        )
    return bundle


def try_candidate(bundle: Bundle, route: Route, on_test: Callable[[int, int], None]) -> int:
    """Run the golden pairs of all families in the route's precisions, on this device.

    Parameters
    ----------
    bundle, route
        What is to serve what.
    on_test
        Called with (tests done, tests in all).

    Returns
    -------
        How many engines passed.

    Raises
    ------
    GateError
        One failed; the message names it.
    """
    wanted = [(precision, family) for precision in route.precisions for family in FAMILIES]
    engines = BundleEngines(bundle, route.backend, wanted)
    try:
        n_tests = len(engines.untested)
        for done, (precision, family) in enumerate(engines.untested):
            on_test(done, n_tests)
            test = engines.test(precision, family)
            if test.failure is not None:
                raise GateError(
                    f"{bundle.path}: the {family} engine in {precision} failed its golden pair on "
                    f"this device: {test.failure}; it is not put in service"
                )
        return n_tests
    finally:
        engines.close()
