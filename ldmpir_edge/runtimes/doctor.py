"""What this machine can run, and the one command that brings what is missing."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ldmpir_edge.errors import LdmpirError
from ldmpir_edge.runtimes.base import Availability, Backend
from ldmpir_edge.runtimes.conformance import Conformance, probe
from ldmpir_edge.runtimes.cpu import cpuinfo
from ldmpir_edge.runtimes.registry import BACKENDS
from ldmpir_edge.runtimes.select import choose_backend

_CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")
_X86_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_ARM_FLAGS = ("asimd", "asimddp", "asimdhp", "i8mm", "bf16")


@dataclass(frozen=True)
class Machine:
    """The hardware as the process sees it.

    `n_cores` counts the logical cores this process may use; `memory_bytes` is what the machine
    or the container's limit grants, 0 where the system does not say; `cpu_features` are the
    instruction sets that the engines profit from.
    """

    system: str
    architecture: str
    python: str
    cpu: str
    cpu_features: tuple[str, ...]
    n_cores: int
    memory_bytes: int


@dataclass(frozen=True)
class BackendReport:
    """One backend: whether it can run and, where it can, what the probes found in it."""

    name: str
    availability: Availability
    conformance: Conformance | None


@dataclass(frozen=True)
class Choice:
    """The backend that `run` would choose for fp32, or an empty string, and why."""

    backend: str
    reason: str


@dataclass(frozen=True)
class DoctorReport:
    """Everything that `ldmpir-edge doctor` prints."""

    machine: Machine
    backends: tuple[BackendReport, ...]
    choice: Choice

    def to_dict(self) -> dict[str, Any]:
        """Answer plain dictionaries and lists for JSON."""
        return asdict(self)


def examine() -> DoctorReport:
    """Look at the machine, ask every backend whether it can run, and check its operators."""
    choices = (choice for backend in BACKENDS for choice in backend.choices())
    return DoctorReport(this_machine(), tuple(map(_report, choices)), _choice())


def this_machine() -> Machine:
    """Describe the hardware that this process may use."""
    info = cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        python=platform.python_version(),
        cpu=info.get("model name") or platform.processor() or "unknown",
        cpu_features=tuple(sorted(flags.intersection((*_X86_FLAGS, *_ARM_FLAGS)))),
        n_cores=_n_cores(),
        memory_bytes=_memory_bytes(),
    )


def _report(backend: Backend) -> BackendReport:
    state = backend.availability()
    return BackendReport(backend.name, state, probe(backend, state) if state.ok else None)


def _choice() -> Choice:
    try:
        chosen, reason = choose_backend()
    except LdmpirError as err:
        return Choice("", str(err))
    return Choice(chosen.name, reason)


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
    try:
        return min(total, int(_CGROUP_MEMORY.read_text()))
    except (OSError, ValueError):  # no such file, or the word "max"
        return total
