"""The HTML report: one file with its images in 16 bits, for any browser and without a network."""

from __future__ import annotations

from ldmpir_edge.report.html.page import (
    Page,
    PageSlice,
    Panel,
    Table,
    require_templates,
    write_page,
)
from ldmpir_edge.report.html.pixels import Pixels, pack

__all__ = [
    "Page",
    "PageSlice",
    "Panel",
    "Pixels",
    "Table",
    "pack",
    "require_templates",
    "write_page",
]
