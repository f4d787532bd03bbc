"""Which operators a backend computes wrongly on this machine, remembered between processes.

The probes take half a second, which a scan need not wait for twice: the outcome is kept, sealed,
until the library, the processor or the probes change. `doctor` runs them anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from dataclasses import asdict, dataclass

from ldmpir_edge.bundle import Precision
from ldmpir_edge.bundle.paths import cache_root, seal_key_file
from ldmpir_edge.runtimes.base import Availability, Backend
from ldmpir_edge.runtimes.cpu import cpu_identity
from ldmpir_edge.runtimes.probes import ASSET, Verdict, run_probes
from ldmpir_edge.runtimes.sealed_cache import SealedCache

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""Variants of each may hold operators of those before."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conformance:
    """What the probes found in one backend.

    `n_operators` and `n_conforming` count those that our graphs rely on; `failures` lists what is
    wrong, the others included.
    """

    n_operators: int
    n_conforming: int
    failures: tuple[Verdict, ...]

    def faults(self, precision: Precision) -> tuple[Verdict, ...]:
        """Answer the failures that make the backend unfit for variants of a precision."""
        met = _PRECISIONS[: _PRECISIONS.index(precision) + 1]
        return tuple(v for v in self.failures if v.relied_on and v.precision in met)


def probe(backend: Backend, state: Availability) -> Conformance | None:
    """Run the probes and remember the outcome; None where they cannot be run.

    That is a backend with code of its own in place of graphs, or a disk without a free byte.

    Parameters
    ----------
    backend, state
        A backend that can run here, and what it said of itself.
    """
    if not backend.runs_graphs:
        return None
    try:
        verdicts = run_probes(backend)
    except OSError as err:
        # Not a warning: what the disk cannot take is said by whoever writes the image.
        _log.info("cannot check the operators of %s: %s", backend.name, err)
        return None
    counted = [not verdict.reason for verdict in verdicts if verdict.relied_on]
    failures = tuple(verdict for verdict in verdicts if verdict.reason)
    found = Conformance(len(counted), sum(counted), failures)
    if any(verdict.error is not None for verdict in verdicts):
        _cache().put(_name(backend, state), json.dumps(asdict(found)).encode())
    # Else nothing ran at all, for want of a driver perhaps, which may be there tomorrow.
    return found


def recall(backend: Backend, state: Availability) -> Conformance | None:
    """Answer what the probes found when last run, or run them now; None as `probe`."""
    if not backend.runs_graphs:
        return None
    kept = _cache().get(_name(backend, state))
    if kept is None:
        return probe(backend, state)
    document = json.loads(kept)
    failures = tuple(Verdict(**verdict) for verdict in document.pop("failures"))
    return Conformance(**document, failures=failures)


def _cache() -> SealedCache:
    return SealedCache(cache_root() / "conformance", seal_key_file())


def _name(backend: Backend, state: Availability) -> str:
    """Hash everything that the outcome depends on."""
    document = {
        "format": 1,
        "backend": backend.name,
        "version": state.version,
        "devices": state.devices,
        "machine": platform.machine(),
        "cpu": cpu_identity(),
        "probes": hashlib.sha256(ASSET.read_bytes()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
