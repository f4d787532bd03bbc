"""The worker's engines: each tested on its golden pair before its first use, replaced in service.

The engine that a route will need first is loaded and tested before the worker is ready, the others
one by one while there is nothing else to do. A job that needs one before its turn waits for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.bundle import Bundle, GoldenPair, Precision, SizeLimits, find_bundle
from ldmpir_edge.bundle.limits import LIMITS, psnr_db
from ldmpir_edge.errors import BackendError, BundleError, LdmpirError
from ldmpir_edge.physics.problem import Family
from ldmpir_edge.reconstruct import Reconstructor
from ldmpir_edge.runtimes import Engine, SelectedEngine
from ldmpir_edge.scans.limits import MAX_COILS, MAX_SIDE, MAX_VIEWS
from ldmpir_edge.serve.bundles import open_route_bundle, variants
from ldmpir_edge.serve.config import Route, Source
from ldmpir_edge.serve.families import route_families
from ldmpir_edge.serve.kept_bundles import KeptBundles
from ldmpir_edge.serve.schedule import Variant

SLOW_S = 10.0
"""Where the first engine takes longer than this, engines are built here for minutes: then all are
tested before the worker is ready, since no job could wait for one."""

_Wanted = tuple[Precision, Family]
_log = logging.getLogger(__name__)


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
    """One bundle's reconstructors, by variant; none gives an engine that has not passed.

    Parameters
    ----------
    bundle
        Opened and trusted.
    backend
        Name of the engine, or None for the best here.
    wanted
        Precisions and families to test before they are asked for, in this order.
    """

    def __init__(self, bundle: Bundle, backend: str | None, wanted: Iterable[_Wanted] = ()) -> None:
        self.bundle = bundle
        self.tests: list[GoldenTest] = []
        self._backend = backend
        held = {family.name for family in bundle.manifest.families}
        self._wanted = [one for one in wanted if one[1] in held]
        self._reconstructors: dict[Variant, _TestedReconstructor] = {}

    @property
    def untested(self) -> list[_Wanted]:
        """What is still to be tested, in this order."""
        done = {(test.precision, test.family) for test in self.tests}
        return [wanted for wanted in self._wanted if wanted not in done]

    def reconstructor(self, variant: Variant) -> Reconstructor:
        """Give the reconstructor of a variant, made when first asked for."""
        return self._made(variant)

    def classical(self, variant: Variant) -> Reconstructor:
        """Give one for scans of any size, whose slices are withheld from the engine."""
        n_steps, precision = variant
        return _ClassicalReconstructor(
            self.bundle, backend=self._backend, n_steps=n_steps, precision=precision
        )

    def test(self, precision: Precision, family: Family) -> GoldenTest:
        """Run a golden pair, which is of the default number of steps, on this device; once."""
        for test in self.tests:
            if (test.precision, test.family) == (precision, family):
                return test
        test = self._test(family, precision)
        self.tests.append(test)
        return test

    def refusal(self, precision: Precision) -> str | None:
        """Answer why no engine of this precision may be used, or None as far as is known."""
        for test in self.tests:
            if test.precision == precision and test.failure is not None:
                return _refusal(test)
        return None

    def close(self) -> None:
        """Free all engines."""
        for reconstructor in self._reconstructors.values():
            reconstructor.close()
        self._reconstructors.clear()

    def _made(self, variant: Variant) -> _TestedReconstructor:
        if variant not in self._reconstructors:
            n_steps, precision = variant
            self._reconstructors[variant] = _TestedReconstructor(
                self, self._backend, n_steps, precision
            )
        return self._reconstructors[variant]

    def _test(self, family: Family, precision: Precision) -> GoldenTest:
        n_steps = self.bundle.manifest.sampler.default_n_steps
        try:
            golden = self.bundle.golden(family)
            engine = self._made((n_steps, precision)).untested_engine(family)
        except LdmpirError as err:
            return GoldenTest(family, precision, self._backend or "", 0.0, str(err))
        test = _replay(engine, golden, family, precision)
        if test.failure is None:
            # With the pair at hand: the bundle's file may be another one by then.
            engine.vet = partial(self._vet, golden=golden, family=family, precision=precision)
        return test

    def _vet(
        self, engine: Engine, golden: GoldenPair, family: Family, precision: Precision
    ) -> None:
        """Test an engine that is to take over from one that passed and then failed in a run."""
        test = _replay(engine, golden, family, precision)
        if test.failure is not None:
            raise BackendError(_refusal(test))
        self.tests = [
            test if (old.family, old.precision) == (family, precision) else old
            for old in self.tests
        ]


class _TestedReconstructor(Reconstructor):
    """A reconstructor whose engines have given their golden pair before anything else."""

    def __init__(
        self, engines: BundleEngines, backend: str | None, n_steps: int, precision: Precision
    ) -> None:
        super().__init__(engines.bundle, backend=backend, n_steps=n_steps, precision=precision)
        self._tested = engines

    def engine(self, family: Family) -> SelectedEngine:
        """Give a family's engine once it has passed; else `BackendError` says how it failed."""
        if family in [held.name for held in self.bundle.manifest.families]:
            test = self._tested.test(self.precision, family)
            if test.failure is not None:
                raise BackendError(_refusal(test))
        return super().engine(family)

    def untested_engine(self, family: Family) -> SelectedEngine:
        """Give a family's engine for its test."""
        return super().engine(family)


class _ClassicalReconstructor(Reconstructor):
    """A reconstructor for what is larger than the network may have: the readers' limits hold."""

    @property
    def limits(self) -> SizeLimits:
        """The sizes of scans that it takes."""
        return SizeLimits(
            min_height=1,
            max_height=MAX_SIDE,
            min_width=1,
            max_width=MAX_SIDE,
            max_coils=MAX_COILS,
            max_views=MAX_VIEWS,
        )


@dataclass(frozen=True)
class _Source:
    """A bundle's file as it was at some moment, and the engine's name.

    Routes that share both share the engines. `stamp` identifies the file's content without reading
    it; it is empty while the file is away.
    """

    bundle: str
    backend: str | None
    stamp: tuple[int, ...]


class Engines:
    """All engines of the worker, by route; made once each route's likeliest has been tested.

    Parameters
    ----------
    routes
        Of the configuration.
    allow_unsigned
        Take bundles that no trusted key signed.
    doors
        Those that are on: what they can bring is tested before it comes.
    in_service
        Gives a route with the bundle that serves it now; asked again at each `refresh`.
    kept
        Has a copy of what served a route last, which serves it where its bundle is broken when this
        is made; None keeps no copies.

    Raises
    ------
    LdmpirError
        A route's bundle cannot be used at all, nor a copy of one.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        allow_unsigned: bool,
        doors: Collection[Source],
        in_service: Callable[[Route], Route] = lambda route: route,
        kept: KeptBundles | None = None,
    ) -> None:
        self._routes, self._doors, self._kept = routes, doors, kept
        self._allow_unsigned, self._in_service = allow_unsigned, in_service
        self._wanted = {route.name: self._source(route) for route in routes}
        self._engines: dict[_Source, BundleEngines] = {}
        for source in dict.fromkeys(self._wanted.values()):
            self._open_first(source)
        self._serving = dict(self._wanted)
        self._arriving: dict[_Source, BundleEngines] = {}
        self._refused: dict[_Source, str] = {}
        for route in routes:
            self._keep(route.name)
        self._test_first()

    @property
    def has_untested(self) -> bool:
        """Whether `test_next` has something to do."""
        waiting = (*self._engines.values(), *self._arriving.values())
        return any(engines.untested for engines in waiting)

    def of(self, route: Route) -> BundleEngines:
        """Give the engines that serve a route now."""
        return self._engines[self._serving[route.name]]

    def usable(self, route: Route) -> tuple[Variant, ...]:
        """List a route's variants of which no engine failed its golden pair, best first."""
        engines = self.of(route)
        allowed = variants(route, engines.bundle)
        return tuple(variant for variant in allowed if engines.refusal(variant[1]) is None)

    def test_next(self) -> None:
        """Test one engine: of a bundle that is to serve, or else of those that do.

        A new bundle serves once all its engines have passed, and until then the old one does.
        """
        for source, arriving in self._arriving.items():
            test = arriving.test(*arriving.untested[0])
            if test.failure is not None:
                self._arriving.pop(source).close()
                self._refused[source] = f"it failed its golden pair: {test.failure}"
            elif not arriving.untested:
                self._engines[source] = self._arriving.pop(source)
                self._serve(source)
            return
        for engines in self._engines.values():
            if engines.untested:
                engines.test(*engines.untested[0])
                return

    def refresh(self) -> None:
        """Open what is to serve and does not yet: changed files, and bundles just promoted.

        `test_next` does the rest.
        """
        for route in self._routes:
            source = self._source(route)
            if source.stamp:  # a file that is away for a moment changes nothing
                self._wanted[route.name] = source
        wanted = dict.fromkeys(self._wanted.values())
        for source in self._arriving.keys() - wanted.keys():
            self._arriving.pop(source).close()
        self._refused = {one: why for one, why in self._refused.items() if one in wanted}
        for source in wanted:
            if source in self._engines:
                self._serve(source)
            elif source not in self._arriving and source not in self._refused:
                self._take_up(source)

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
                    "bundle_origin": self._origin(route),
                    "bundle_not_taken": self._refused.get(self._wanted[route.name]),
                    "golden": [asdict(test) for test in engines.tests],
                    "untested": [
                        {"family": family, "precision": precision}
                        for precision, family in engines.untested
                    ],
                }
            )
        return described

    def close(self) -> None:
        """Free all engines."""
        for engines in (*self._engines.values(), *self._arriving.values()):
            engines.close()

    def _origin(self, route: Route) -> str:
        bundle = self._serving[route.name].bundle
        if bundle == self._copy(route.name):
            return "kept"
        return "configured" if bundle == route.bundle else "promoted"

    def _copy(self, route_name: str) -> str | None:
        return None if self._kept is None else str(self._kept.path(route_name))

    def _open_first(self, source: _Source) -> None:
        """Open what is to serve, or for each of its routes the copy of what served before."""
        try:
            self._engines[source] = self._open(source)
        except BundleError as err:
            for name in [name for name, wanted in self._wanted.items() if wanted == source]:
                copy = self._copy(name)
                if copy is None or not _stamp(copy):
                    raise
                _log.error("a kept bundle serves", extra={"route": name, "error": str(err)})
                self._wanted[name] = replace(source, bundle=copy, stamp=_stamp(copy))
                self._engines[self._wanted[name]] = self._open(self._wanted[name])

    def _keep(self, route_name: str) -> None:
        source = self._serving[route_name]
        if self._kept is not None and source.bundle != self._copy(route_name):
            self._kept.keep(route_name, self._engines[source].bundle)

    def _source(self, route: Route) -> _Source:
        bundle = self._in_service(route).bundle
        return _Source(bundle, route.backend, _stamp(bundle))

    def _open(self, source: _Source) -> BundleEngines:
        wanted: dict[_Wanted, None] = {}
        for route in self._routes:
            if self._wanted[route.name] == source:
                served = route.model_copy(update={"bundle": source.bundle})
                bundle = open_route_bundle(served, allow_unsigned=self._allow_unsigned)
                bundle.hold()
                wanted |= dict.fromkeys(
                    (precision, family)
                    for precision in route.precisions
                    for family in route_families(route, self._doors)
                )
        return BundleEngines(bundle, source.backend, wanted)

    def _test_first(self) -> None:
        """Test the engine that each route will need first, and all where they take so long."""
        started = time.monotonic()
        for route in self._routes:
            engines = self.of(route)
            mine = route_families(route, self._doors)
            for precision, family in engines.untested:
                if precision == route.precisions[0] and family == mine[0]:
                    engines.test(precision, family)
        if time.monotonic() - started > SLOW_S:
            while self.has_untested:
                self.test_next()

    def _take_up(self, source: _Source) -> None:
        try:
            opened = self._open(source)
        except LdmpirError as err:
            self._refused[source] = str(err)
            return
        if opened.untested:
            self._arriving[source] = opened
        else:
            self._engines[source] = opened
            self._serve(source)

    def _serve(self, source: _Source) -> None:
        """Have the routes that want them served by engines that have passed."""
        for name, wanted in self._wanted.items():
            if wanted == source and self._serving[name] != source:
                self._serving[name] = source
                self._keep(name)
        for idle in self._engines.keys() - set(self._serving.values()):
            self._engines.pop(idle).close()


def _stamp(bundle: str) -> tuple[int, ...]:
    """Identify a bundle's file without reading it; empty while it is away."""
    try:
        status = find_bundle(bundle).stat()
    except (LdmpirError, OSError):
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _replay(engine: Engine, golden: GoldenPair, family: Family, precision: Precision) -> GoldenTest:
    seconds = 0.0
    try:
        engine.run(golden.inputs)
        started = time.perf_counter()
        image = engine.run(golden.inputs)["image"][0]
        seconds = time.perf_counter() - started
    except LdmpirError as err:
        return GoldenTest(family, precision, engine.backend, seconds, str(err))
    expected = golden.outputs["image"][0]
    limits = LIMITS[precision]
    failure = None
    if (apart := psnr_db(image, expected)) < limits.difference_db:
        failure = f"{apart:.1f} dB from it, at least {limits.difference_db:.1f} are needed"
    elif limits.max_abs_diff and (worst := _largest(image, expected)) > limits.max_abs_diff:
        failure = f"a value differs by {worst:.2g}, more than {limits.max_abs_diff:.2g}"
    return GoldenTest(family, precision, engine.backend, seconds, failure)


def _refusal(test: GoldenTest) -> str:
    return f"the {test.family} engine failed its golden pair: {test.failure}"


def _largest(image: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(image - expected).max())
