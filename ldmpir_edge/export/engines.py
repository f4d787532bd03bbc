"""Compile engines for other devices than this one, and put them into the bundle."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ldmpir_edge.bundle import EngineSpec, LoadedVariant, SizeLimits, pack_engines
from ldmpir_edge.errors import BackendError, MissingExtraError
from ldmpir_edge.export.targets import EngineTarget, Target
from ldmpir_edge.runtimes.tensorrt.compile import build_engine, engine_validity
from ldmpir_edge.runtimes.tensorrt.install import engine_platform
from ldmpir_edge.runtimes.tensorrt.profiles import make_profile

ENGINES = "engines"


def load_compiler(target: Target) -> Any:
    """Import the library that compiles a target's engines, or answer None where none are.

    Raises
    ------
    MissingExtraError
        It is not installed: better said before an hour of gating.
    """
    if target.engine is None or not target.engine.compute_capabilities:
        return None
    try:
        return importlib.import_module(target.engine.backend)
    except ModuleNotFoundError as err:
        raise MissingExtraError(f"compiling engines for {target.name}", "tensorrt") from err


def n_engines(target: Target, n_precisions: int) -> int:
    """Count the engines that an export compiles."""
    engine = target.engine
    return len(engine.families) * len(engine.n_steps) * n_precisions if engine else 0


def compile_engines(
    compiler: Any,
    folder: Path,
    variants: Sequence[LoadedVariant],
    target: Target,
    on_engine: Callable[[str], None],
) -> tuple[EngineSpec, ...]:
    """Compile the engines that a target wants ahead of time, one pack a precision.

    Parameters
    ----------
    compiler
        From `load_compiler`; without one there are no engines.
    folder
        Becomes the bundle; receives `engines/`.
    variants
        All of the bundle, on disk.
    on_engine
        Called with words for the user before each.

    Raises
    ------
    UsageError
        The library does not compile for a compute capability of the target.
    BackendError
        It refuses a graph, or finds fault with its own engine.
    """
    if compiler is None or target.engine is None:
        return ()
    wanted = [
        variant
        for variant in variants
        if variant.family in target.engine.families and variant.n_steps in target.engine.n_steps
    ]
    specs: list[EngineSpec] = []
    for precision, group in groupby(
        sorted(wanted, key=lambda variant: variant.precision), lambda variant: variant.precision
    ):
        pack = f"{ENGINES}/{target.engine.backend}-{precision}.xz"
        plans: list[bytes] = []
        for variant in group:
            on_engine(f"compiling {variant.family}, {variant.n_steps} steps, {precision}")
            plan, spec = _compile(
                compiler, variant, target.engine, target.limits, pack, sum(map(len, plans))
            )
            plans.append(plan)
            specs.append(spec)
        (folder / ENGINES).mkdir(exist_ok=True)
        (folder / pack).write_bytes(pack_engines(plans))
    return tuple(specs)


def _compile(
    compiler: Any,
    variant: LoadedVariant,
    engine: EngineTarget,
    limits: SizeLimits,
    pack: str,
    offset: int,
) -> tuple[bytes, EngineSpec]:
    plan = build_engine(
        compiler,
        variant.graph,
        make_profile(variant, limits, engine.typical),
        workspace_mib=engine.workspace_mib,
        compute_capabilities=engine.compute_capabilities,
    ).plan
    validity = engine_validity(compiler, plan)
    if validity == "invalid":
        raise BackendError(
            f"{engine.backend} does not take its own engine of {variant.family}, "
            f"{variant.n_steps} steps, {variant.precision}; report it, or leave it out of [engine] "
            "in the target"
        )
    return plan, EngineSpec(
        family=variant.family,
        n_steps=variant.n_steps,
        precision=variant.precision,
        backend=engine.backend,
        version=str(compiler.__version__),
        platform=engine_platform(),
        compute_capabilities=engine.compute_capabilities,
        validity=validity,
        pack=pack,
        offset=offset,
        size=len(plan),
        sha256=hashlib.sha256(plan).hexdigest(),
    )
