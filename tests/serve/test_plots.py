"""The bars of the status page."""

from __future__ import annotations

import pytest

from ldmpir_edge.serve.web.plots import HEIGHT, SIDE, TOP, WIDTH, bar_plot


def test_bars_are_in_proportion_and_stay_inside() -> None:
    plot = bar_plot([1.0, 4.0, 0.0, 2.0])
    assert plot.top == 4.0
    heights = [height for *_, height in plot.bars]
    assert heights == pytest.approx([heights[1] / 4, heights[1], 0.0, heights[1] / 2])
    assert heights[1] == HEIGHT - TOP - SIDE
    for x, y, width, height in plot.bars:
        assert x >= SIDE
        assert x + width <= WIDTH - SIDE
        assert y >= TOP
        assert y + height == pytest.approx(HEIGHT - SIDE)
    starts = [x for x, *_ in plot.bars]
    assert starts == sorted(starts)


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0]])
def test_nothing_happened_yet(values: list[float]) -> None:
    plot = bar_plot(values)
    assert plot.top == 0.0
    assert [height for *_, height in plot.bars] == [0.0] * len(values)
