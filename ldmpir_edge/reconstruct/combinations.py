"""Which engines are compared in which precisions, for those who compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ldmpir_edge.bundle import Bundle, Precision
from ldmpir_edge.errors import BackendError, BundleError, UsageError
from ldmpir_edge.runtimes import BACKENDS, get_backend


@dataclass(frozen=True)
class Combination:
    """One engine in one precision."""

    backend: str
    precision: Precision

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


def list_combinations(
    bundle: Bundle, backends: Sequence[str] = (), precisions: Sequence[str] = ()
) -> list[Combination]:
    """List the engines and precisions to compare; the first is what the others are held against.

    Parameters
    ----------
    bundle
        Says which precisions there are.
    backends
        Names, in that order, whether or not they can run here; none takes all that can, on each
        device that would be taken unasked, the preferred one first.
    precisions
        Of those in the bundle, in that order; none takes all, fp32 first.

    Raises
    ------
    UsageError
        There is no backend of a name, or none of them takes any of the precisions.
    BundleError
        The bundle lacks a precision.
    BackendError
        No backend can run here.
    """
    chosen = [get_backend(name) for name in dict.fromkeys(backends)] or [
        choice for backend in BACKENDS if backend.availability().ok for choice in backend.choices()
    ]
    if not chosen:
        raise BackendError("no inference engine is installed; run: pip install onnxruntime")
    names = sorted(
        (spec.name for spec in bundle.manifest.precisions), key=lambda name: name != "fp32"
    )
    held: dict[str, Precision] = {name: name for name in names}
    if unknown := [name for name in precisions if name not in held]:
        raise BundleError(
            f"{bundle.path} holds no {', '.join(unknown)}; it holds {', '.join(held)}"
        )
    wanted = [held[name] for name in dict.fromkeys(precisions)] or names
    combinations = [
        Combination(backend.name, precision)
        for precision in wanted
        for backend in chosen
        if backend.takes(precision)
    ]
    if not combinations:
        raise UsageError(
            f"{', '.join(backend.name for backend in chosen)} does not take {', '.join(wanted)}; "
            "choose another backend or precision"
        )
    return combinations
