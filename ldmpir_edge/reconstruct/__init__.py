"""From a scan on disk to a checked reconstruction: the appliance side's one pipeline."""

from __future__ import annotations

from ldmpir_edge.reconstruct.reconstructor import Reconstructor, load
from ldmpir_edge.reconstruct.slices import Comparison

__all__ = ["Comparison", "Reconstructor", "load"]
