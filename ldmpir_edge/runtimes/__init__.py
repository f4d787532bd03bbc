"""Inference backends behind one contract, their choice, and what the machine can run."""

from ldmpir_edge.runtimes.base import Availability, Backend, Engine
from ldmpir_edge.runtimes.conformance import Conformance
from ldmpir_edge.runtimes.doctor import BackendReport, DoctorReport, Machine, examine, this_machine
from ldmpir_edge.runtimes.registry import BACKENDS, get_backend
from ldmpir_edge.runtimes.select import SelectedEngine, choose_backend, load_engine

__all__ = [
    "BACKENDS",
    "Availability",
    "Backend",
    "BackendReport",
    "Conformance",
    "DoctorReport",
    "Engine",
    "Machine",
    "SelectedEngine",
    "choose_backend",
    "examine",
    "get_backend",
    "load_engine",
    "this_machine",
]
