"""The figure of `bench`: where a slice's time goes, and what image it buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.report.figure import BACKGROUND, DPI, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGE_COLOURS = ("#5b8def", "#56b4a9", "#f2a65a", "#c678b5", "#8f9bab")
MARKERS = "os^D"
WIDTH_IN = 9.0
FEWEST_ROWS = 3
BAR_IN, MARGINS_IN = 0.42, 1.35


@dataclass(frozen=True)
class Timing:
    """One bar and one point.

    Parameters
    ----------
    label
        The engine and its precision.
    stages
        Median seconds by stage, in their order; the stages of all timings are the same.
    slice_s, slice_p90_s
        Median and 90th percentile of a whole slice.
    psnr_db
        Against the reference; None draws no point.
    """

    label: str
    stages: Mapping[str, float]
    slice_s: float
    slice_p90_s: float
    psnr_db: float | None


def bench_figure(path: Path, timings: Sequence[Timing], title: str) -> None:
    """Write a PNG: stacked bars of the stages, and PSNR against time where there is a reference.

    Parameters
    ----------
    path
        The PNG to create or replace, at 150 dpi.
    timings
        At least one, drawn from top to bottom.
    title
        One line above the panels.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = [timing for timing in timings if timing.psnr_db is not None]
    height = max(len(timings), FEWEST_ROWS) * BAR_IN + MARGINS_IN
    figure = Figure(figsize=(WIDTH_IN, height), facecolor=BACKGROUND, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK, fontsize=11, x=0.01, ha="left")
    columns = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    _draw_stages(columns[0], timings)
    if scored:
        _draw_quality(columns[1], scored)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor=BACKGROUND)


def _draw_stages(axes: Axes, timings: Sequence[Timing]) -> None:
    places = range(len(timings))
    before = [0.0] * len(timings)
    for stage, colour in zip(timings[0].stages, STAGE_COLOURS, strict=True):
        widths = [1e3 * timing.stages[stage] for timing in timings]
        axes.barh(places, widths, left=before, height=0.6, color=colour, label=stage)
        before = [start + width for start, width in zip(before, widths, strict=True)]
    axes.set_yticks(places, [timing.label for timing in timings])
    axes.set_ylim(max(len(timings), FEWEST_ROWS) - 0.5, -0.5)
    axes.set_xlabel("ms a slice, median")
    _style(axes)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(STAGE_COLOURS),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        handlelength=1,
        columnspacing=1,
    )


def _draw_quality(axes: Axes, timings: Sequence[Timing]) -> None:
    for number, timing in enumerate(timings):
        late = 1e3 * (timing.slice_p90_s - timing.slice_s)
        axes.errorbar(
            1e3 * timing.slice_s,
            timing.psnr_db or 0.0,
            xerr=[[0.0], [late]],
            fmt=MARKERS[number // len(STAGE_COLOURS) % len(MARKERS)],
            color=STAGE_COLOURS[number % len(STAGE_COLOURS)],
            capsize=3,
            label=timing.label,
        )
    axes.set_xlabel("ms a slice, median and 90th percentile")
    axes.set_ylabel("PSNR, dB", color=MUTED)
    axes.set_xlim(left=0)
    # Engines of one model lie within hundredths of a decibel: a range of less would show noise.
    low, high = (f(t.psnr_db or 0.0 for t in timings) for f in (min, max))
    spare = max(0.5 - (high - low) / 2, 0.15 * (high - low))
    axes.set_ylim(low - spare, high + spare)
    axes.ticklabel_format(axis="y", useOffset=False)
    _style(axes)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="best")


def _style(axes: Axes) -> None:
    axes.set_facecolor(BACKGROUND)
    axes.tick_params(colors=MUTED, labelsize=9, length=2)
    axes.xaxis.label.set(color=MUTED, size=9)
    axes.yaxis.label.set(color=MUTED, size=9)
    axes.grid(axis="x", color=MUTED, alpha=0.2, linewidth=0.5)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in {"left", "bottom"})
        spine.set_color(MUTED)
