"""The worker's engines: loaded once, tested on their golden pairs, replaced while serving."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.bundle import Bundle, Precision, find_bundle
from ldmpir_edge.bundle.limits import LIMITS, psnr_db
from ldmpir_edge.errors import LdmpirError
from ldmpir_edge.physics.problem import Family
from ldmpir_edge.reconstruct import Reconstructor
from ldmpir_edge.serve.bundles import open_route_bundle, variants
from ldmpir_edge.serve.config import Route
from ldmpir_edge.serve.schedule import Variant

_Key = tuple[str, str | None]
"""Name of the bundle and of the engine: routes that share both share the engines."""


@dataclass(frozen=True)
class GoldenTest:
    """How an engine did on a golden pair.

    `failure` says what is wrong, or None; `seconds` is the time of a run once loaded.
    """

    family: Family
    precision: Precision
    backend: str
    seconds: float
    failure: str | None


class BundleEngines:
    """One bundle's reconstructors, by variant.

    Parameters
    ----------
    bundle
        Opened and trusted.
    backend
        Name of the engine, or None for the best here.
    """

    def __init__(self, bundle: Bundle, backend: str | None) -> None:
        self.bundle = bundle
        self.tests: list[GoldenTest] = []
        self._backend = backend
        self._reconstructors: dict[Variant, Reconstructor] = {}

    def reconstructor(self, variant: Variant) -> Reconstructor:
        """Give the reconstructor of a variant, made when first asked for."""
        if variant not in self._reconstructors:
            n_steps, precision = variant
            self._reconstructors[variant] = Reconstructor(
                self.bundle, backend=self._backend, n_steps=n_steps, precision=precision
            )
        return self._reconstructors[variant]

    def test(self, precisions: Iterable[Precision], families: Sequence[Family]) -> None:
        """Run the golden pairs, which are of the default number of steps, on this device."""
        held = [family.name for family in self.bundle.manifest.families]
        for precision in precisions:
            for family in families:
                if family in held:
                    self.tests.append(self._test(family, precision))

    def refusal(self, precision: Precision) -> str | None:
        """Answer why no engine of this precision may be used, or None."""
        for test in self.tests:
            if test.precision == precision and test.failure is not None:
                return f"the {test.family} engine failed its golden pair: {test.failure}"
        return None

    def close(self) -> None:
        """Free all engines."""
        for reconstructor in self._reconstructors.values():
            reconstructor.close()
        self._reconstructors.clear()

    def _test(self, family: Family, precision: Precision) -> GoldenTest:
        n_steps = self.bundle.manifest.sampler.default_n_steps
        backend, seconds = self._backend or "", 0.0
        try:
            golden = self.bundle.golden(family)
            engine = self.reconstructor((n_steps, precision)).engine(family)
            engine.run(golden.inputs)
            started = time.perf_counter()
            image = engine.run(golden.inputs)["image"][0]
            seconds = time.perf_counter() - started
            backend = engine.backend
        except LdmpirError as err:
            return GoldenTest(family, precision, backend, seconds, str(err))
        expected = golden.outputs["image"][0]
        limits = LIMITS[precision]
        failure = None
        if (apart := psnr_db(image, expected)) < limits.difference_db:
            failure = f"{apart:.1f} dB from it, at least {limits.difference_db:.1f} are needed"
        elif limits.max_abs_diff and (worst := _largest(image, expected)) > limits.max_abs_diff:
            failure = f"a value differs by {worst:.2g}, more than {limits.max_abs_diff:.2g}"
        return GoldenTest(family, precision, backend, seconds, failure)


class Engines:
    """All engines of the worker, by route.

    Parameters
    ----------
    routes
        Of the configuration.
    allow_unsigned
        Take bundles that no trusted key signed.
    families
        What the open doors can bring, for the golden pairs.

    Raises
    ------
    LdmpirError
        A route's bundle cannot be used at all.
    """

    def __init__(
        self, routes: Sequence[Route], *, allow_unsigned: bool, families: Sequence[Family]
    ) -> None:
        self._routes, self._families = routes, families
        self._allow_unsigned = allow_unsigned
        self._engines: dict[_Key, BundleEngines] = {}
        self._stamps: dict[_Key, tuple[int, ...]] = {}
        self._not_taken: dict[_Key, str] = {}
        for route in routes:
            key = _key(route)
            if key not in self._engines:
                self._stamps[key] = _stamp(route.bundle)
                self._engines[key] = self._load(key)

    def of(self, route: Route) -> BundleEngines:
        """Give the engines that serve a route now."""
        return self._engines[_key(route)]

    def usable(self, route: Route) -> tuple[Variant, ...]:
        """List a route's variants whose engines passed their golden pairs, best first."""
        engines = self.of(route)
        allowed = variants(route, engines.bundle)
        return tuple(variant for variant in allowed if engines.refusal(variant[1]) is None)

    def refresh(self) -> bool:
        """Load bundles whose files changed; the old one serves until the new one has passed.

        Returns
        -------
            Whether anything was tried, so that `describe` may say something else.
        """
        tried = False
        for key, known in self._stamps.items():
            stamp = _stamp(key[0])
            if stamp and stamp != known:
                # Also where it fails: a file that is still being written changes once more.
                self._stamps[key] = stamp
                self._replace(key)
                tried = True
        return tried

    def describe(self) -> list[dict[str, Any]]:
        """Describe what serves each route, as JSON values."""
        described = []
        for route in self._routes:
            engines = self.of(route)
            described.append(
                {
                    "route": route.name,
                    "bundle": engines.bundle.manifest.model.id,
                    "bundle_version": engines.bundle.manifest.model.version,
                    "bundle_sha256": engines.bundle.digest,
                    "bundle_not_taken": self._not_taken.get(_key(route)),
                    "golden": [asdict(test) for test in engines.tests],
                }
            )
        return described

    def close(self) -> None:
        """Free all engines."""
        for engines in self._engines.values():
            engines.close()

    def _load(self, key: _Key) -> BundleEngines:
        sharing = [route for route in self._routes if _key(route) == key]
        for route in sharing:
            bundle = open_route_bundle(route, allow_unsigned=self._allow_unsigned)
        engines = BundleEngines(bundle, key[1])
        wanted = dict.fromkeys(precision for route in sharing for precision in route.precisions)
        engines.test(wanted, self._families)
        return engines

    def _replace(self, key: _Key) -> None:
        try:
            replacement = self._load(key)
        except LdmpirError as err:
            self._not_taken[key] = str(err)
            return
        failures = [test.failure for test in replacement.tests if test.failure is not None]
        if failures:
            self._not_taken[key] = f"it failed its golden pair: {failures[0]}"
            replacement.close()
            return
        self._not_taken.pop(key, None)
        self._engines[key].close()
        self._engines[key] = replacement


def _key(route: Route) -> _Key:
    return route.bundle, route.backend


def _stamp(bundle: str) -> tuple[int, ...]:
    """Identify a bundle's file without reading it; empty while it is away."""
    try:
        status = find_bundle(bundle).stat()
    except (LdmpirError, OSError):
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _largest(image: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(image - expected).max())
