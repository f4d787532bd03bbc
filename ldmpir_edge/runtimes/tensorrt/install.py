"""Compile a bundle's variants for this device, or take what was compiled ahead of time."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ldmpir_edge.bundle import BuildRecipe, Bundle, EngineSpec, LoadedVariant, Precision
from ldmpir_edge.errors import BackendError, OutputError, UsageError
from ldmpir_edge.physics.problem import Family
from ldmpir_edge.runtimes.tensorrt.backend import (
    TensorRtBackend,
    TensorRtFamily,
    TensorRtRtxBackend,
    profile_of,
)
from ldmpir_edge.runtimes.tensorrt.cache import EngineCache, engine_name, timing_name
from ldmpir_edge.runtimes.tensorrt.compile import build_engine, engine_validity
from ldmpir_edge.runtimes.tensorrt.hardware import why_no_gpu

Origin = Literal["kept", "bundle", "compiled"]


@dataclass(frozen=True)
class InstalledEngine:
    """One engine that `run` can use from now on.

    `origin` says whether it had been there before, came with the bundle or was compiled now;
    `seconds` how long that took; `size` is in bytes.
    """

    family: Family
    n_steps: int
    precision: Precision
    origin: Origin
    seconds: float
    size: int


def choose_compiler(bundle: Bundle, requested: str | None) -> TensorRtFamily:
    """Choose the library to compile with.

    Parameters
    ----------
    bundle
        Its recipe names the preferred one.
    requested
        A name; None takes the preferred one, or the other where that cannot run.

    Raises
    ------
    UsageError
        No library of that name compiles.
    BackendError
        There is no GPU to compile for, or neither library can run.
    """
    if reason := why_no_gpu():
        raise BackendError(
            f"nothing to compile for: {reason}; run this command on the device that will "
            "reconstruct, or compile ahead of time: ldmpir-edge export --target rtx"
        )
    compilers = {made.name: made for made in (TensorRtBackend(), TensorRtRtxBackend())}
    if requested is not None:
        if requested not in compilers:
            raise UsageError(f"{requested} does not compile; choose of {', '.join(compilers)}")
        return compilers[requested]
    preferred = (bundle.manifest.recipe or BuildRecipe()).backend
    reasons = []
    for compiler in sorted(compilers.values(), key=lambda made: made.name != preferred):
        state = compiler.availability()
        if state.ok:
            return compiler
        reasons.append(f"{compiler.name}: {state.reason} ({state.install_command})")
    raise BackendError(f"no library can compile here; {'; '.join(reasons)}")


def engine_platform() -> str:
    """Name the system that engines are bound to, such as `linux-x86_64`."""
    return f"{sys.platform}-{platform.machine().lower()}"


def install_engines(
    bundle: Bundle,
    backend: TensorRtFamily,
    precisions: Sequence[Precision],
    n_steps: Sequence[int],
    on_progress: Callable[[str, float], None] = lambda what, part: None,
) -> Iterator[InstalledEngine]:
    """Give the engines of a bundle, one after another, as they can be used.

    Engines in the bundle are machine code: they are taken only where a trusted key vouches for
    the bundle. All others are compiled from the graph.

    Parameters
    ----------
    bundle, backend
        What to compile, and for which library.
    precisions, n_steps
        Which variants; of all families.
    on_progress
        Called with what is being done and the part that is done of all, from 0 to 1.

    Raises
    ------
    BundleError
        The bundle lacks a variant.
    MissingExtraError
        The library is not installed.
    BackendError
        There is no GPU, or the library refuses a graph.
    OutputError
        The cache cannot be written.
    """
    keys = [
        (family.name, steps, precision)
        for precision in precisions
        for steps in n_steps
        for family in bundle.manifest.families
    ]
    for key in keys:
        bundle.manifest.variant(*key)
    installer = _Installer(bundle, backend)
    for number, key in enumerate(keys):
        label = "{}, {} steps, {}".format(*key)

        def tell(part: float, note: str = "", what: str = label, done: int = number) -> None:
            on_progress(f"{what}{note}", (done + part) / len(keys))

        tell(0.0)
        yield installer.install(bundle.extract(*key), tell)


class _Installer:
    """One device, library and bundle."""

    def __init__(self, bundle: Bundle, backend: TensorRtFamily) -> None:
        self._bundle, self._backend = bundle, backend
        self._library, _, self._gpu = backend.open()
        self._version = str(self._library.__version__)
        self._cache = EngineCache()

    def install(self, variant: LoadedVariant, tell: Callable[..., None]) -> InstalledEngine:
        started = time.perf_counter()
        name = engine_name(
            variant, self._backend.name, self._version, self._gpu, profile_of(variant)
        )
        origin: Origin = "kept"
        plan = self._cache.get(name)
        if plan is None:
            with self._cache.one_at_a_time(lambda: tell(0.0, ", after another compilation")):
                # Another process may have compiled it while this one waited.
                plan = self._cache.get(name)
                if plan is None:
                    origin, plan = self._obtain(variant, tell)
                    if not self._cache.put(name, plan):
                        raise OutputError(
                            "the engine was compiled but cannot be kept: free some space in the "
                            "cache's folder, or name another with LDMPIR_CACHE_DIR"
                        )
        return InstalledEngine(
            variant.family,
            variant.n_steps,
            variant.precision,
            origin,
            time.perf_counter() - started,
            len(plan),
        )

    def _obtain(
        self, variant: LoadedVariant, on_progress: Callable[[float], None]
    ) -> tuple[Origin, bytes]:
        ready = self._from_bundle(variant)
        if ready is not None:
            return "bundle", ready
        recipe = variant.recipe or BuildRecipe()
        name = timing_name(self._backend.name, self._version, self._gpu)
        # TensorRT-RTX chooses its kernels on the device later, and times none.
        timed = recipe.timing_cache and not self._backend.compiles_kernels_late
        built = build_engine(
            self._library,
            variant.graph,
            profile_of(variant),
            workspace_mib=recipe.workspace_mib,
            timing_cache=(self._cache.get(name) or b"") if timed else None,
            on_progress=on_progress,
        )
        if built.timing_cache is not None:
            self._cache.put(name, built.timing_cache)
        return "compiled", built.plan

    def _from_bundle(self, variant: LoadedVariant) -> bytes | None:
        if self._bundle.trust.status != "trusted":
            return None
        for spec in self._bundle.manifest.engines:
            if self._fits(spec, variant):
                plan = self._bundle.engine(spec)
                if engine_validity(self._library, plan) in ("valid", "suboptimal"):
                    return plan
        return None

    def _fits(self, spec: EngineSpec, variant: LoadedVariant) -> bool:
        wanted = (variant.family, variant.n_steps, variant.precision)
        return (
            (spec.family, spec.n_steps, spec.precision) == wanted
            and (spec.backend, spec.version) == (self._backend.name, self._version)
            and spec.platform == engine_platform()
            and self._gpu.compute_capability in spec.compute_capabilities
        )
