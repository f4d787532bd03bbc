"""Small plots as SVG, drawn here: the page needs no script and no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 120
TOP, SIDE = 22, 6
"""Room for the words above the bars, and beside and below them."""


@dataclass(frozen=True)
class BarPlot:
    """Bars from left to right, ready for the template.

    Parameters
    ----------
    bars
        (x, y, width, height) of each in the picture.
    top
        What the upper end stands for.
    """

    bars: tuple[tuple[float, float, float, float], ...]
    top: float
    width: int = WIDTH
    height: int = HEIGHT


def bar_plot(values: Sequence[float]) -> BarPlot:
    """Lay out bars for values of 0 and more; the highest reaches the top."""
    top = max(values, default=0.0)
    inner_width, inner_height = WIDTH - 2 * SIDE, HEIGHT - TOP - SIDE
    step = inner_width / max(len(values), 1)
    bars = []
    for index, value in enumerate(values):
        height = inner_height * value / top if top > 0 else 0.0
        bars.append(
            (
                round(SIDE + index * step, 2),
                round(HEIGHT - SIDE - height, 2),
                round(max(step * 0.8, 0.5), 2),
                round(height, 2),
            )
        )
    return BarPlot(tuple(bars), top)
