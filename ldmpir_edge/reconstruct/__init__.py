"""From a scan on disk to a checked reconstruction: the appliance side's one pipeline."""

from __future__ import annotations

from ldmpir_edge.reconstruct.reconstructor import Comparison, Reconstructor, load

__all__ = ["Comparison", "Reconstructor", "load"]
