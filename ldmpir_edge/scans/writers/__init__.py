"""Writers: one module an output format; `ldmpir_edge.scans.write` chooses among them.

A writer is a generator function of the volume's header and the target. Started with `next`, it
refuses what it cannot write; then it is sent the slices in order. With the last it completes the
output and ends; closed before, it leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

from ldmpir_edge.scans.reconstruction import ReconstructedSlice, VolumeHeader

SliceSink = Generator[None, ReconstructedSlice, None]
Writer = Callable[[VolumeHeader, Path], SliceSink]
