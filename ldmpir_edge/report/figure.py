"""The comparison figure: the untreated image, ours, the reference and the error.

Matplotlib is driven through `Figure` objects: no pyplot, no global state, no display.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.problem import Modality
from ldmpir_edge.report.metrics import ImageScores, score
from ldmpir_edge.scans.display import display_window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

BACKGROUND = "#0f1216"
INK = "#e8eaed"
MUTED = "#9aa3ad"
DPI = 150
PANEL_WIDTH_IN = 2.5
COLOUR_BAR_IN = 0.80  # width kept for the colour bar and its tick labels
TITLE_IN, CAPTION_IN = 0.45, 0.60  # heights kept above and below the panels
GAP_IN = 0.06
LONGEST_NAME = 24

ERROR_GAINS = (1, 2, 5, 10, 20, 50, 100)
DIFFERENCE_GAINS = tuple(m * 10**e for e in range(6) for m in (1, 2, 5))
ERROR_PERCENTILE = 99.5
"""The gain is the largest that still shows this share of the error without saturation."""

_BASELINE = {"mr": "Zero-filled", "ct": "Filtered back-projection"}


@dataclass(frozen=True)
class _Panel:
    heading: str
    caption: str
    values: NDArray[np.float64]
    colour_map: str
    limits: tuple[float, float]


def comparison_figure(
    path: Path,
    zero_filled: NDArray[Any],
    ours: NDArray[Any],
    reference: NDArray[Any] | None,
    title: str,
    modality: Modality,
    pixel_spacing_mm: tuple[float, float] | None = None,
) -> None:
    """Write a PNG: zero-filled or FBP | ours | reference | error, with PSNR and SSIM.

    All images share one grey window, taken from the reference (from ours without one). The
    error |ours - reference| is shown on that window's width divided by a stated gain, and its
    colour bar is in the scan's unit. Without a reference only the first two panels are drawn.

    Parameters
    ----------
    path
        The PNG to create or replace, at 150 dpi.
    zero_filled, ours, reference
        `(H, W)`, real or complex (its magnitude is shown), in the scan's unit (HU for CT).
    title
        One line above the panels.
    modality
        Chooses the grey window and the range convention of the scores.
    pixel_spacing_mm
        Between rows, then columns: pixels that are not square are not drawn so.

    Raises
    ------
    ShapeError
        The images are not two-dimensional or differ in shape.
    ScanDataError
        A value is not finite, or the reference holds no signal.
    OutputError
        The file cannot be written.
    """
    images = [_real(image, modality) for image in _check(zero_filled, ours, reference)]
    panels = _panels(images[0], images[1], images[2] if len(images) > 2 else None, modality)
    aspect = _aspect(pixel_spacing_mm)
    _save(path, panels, title, modality, aspect, with_error=reference is not None)


def difference_figure(
    path: Path,
    images: tuple[NDArray[Any], NDArray[Any]],
    names: tuple[str, str],
    reference: NDArray[Any] | None,
    title: str,
    modality: Modality,
    pixel_spacing_mm: tuple[float, float] | None = None,
) -> None:
    """Write a PNG of two reconstructions of a slice and what sets them apart.

    Window, colour bar, units and errors are those of `comparison_figure`; PSNR and SSIM are drawn
    where there is a reference.

    Parameters
    ----------
    path
        The PNG to create or replace, at 150 dpi.
    images
        Two `(H, W)`, in the scan's unit.
    names
        Above each.
    reference
        `(H, W)`, or None.
    """
    first, second = (_real(image, modality) for image in _check(*images, reference)[:2])
    truth = None if reference is None else _real(reference, modality)
    window = display_window(first if truth is None else truth, modality)
    error = np.abs(second - first)
    gain = error_gain(error, window[1] - window[0], DIFFERENCE_GAINS)
    panels = [
        _Panel(
            _shorten(name),
            "" if truth is None else _caption(score(image, truth, modality)),
            image,
            "gray",
            window,
        )
        for name, image in zip(names, (first, second), strict=True)
    ]
    limits = (0.0, (window[1] - window[0]) / gain)
    panels.append(_Panel(f"Difference ×{gain}", "", error, "inferno", limits))
    _save(path, panels, title, modality, _aspect(pixel_spacing_mm), with_error=True)


def error_gain(error: NDArray[np.float64], width: float, gains: Sequence[int] = ERROR_GAINS) -> int:
    """Choose the largest gain that shows an error on a grey window's width, all but its peaks.

    Parameters
    ----------
    error
        Any shape, not negative, in the scan's unit.
    width
        Of the grey window.
    gains
        To choose from; the first where none is small enough.
    """
    bright = float(np.percentile(error, ERROR_PERCENTILE))
    return max((g for g in gains if bright * g <= width), default=gains[0])


def _check(*given: NDArray[Any] | None) -> list[NDArray[Any]]:
    """Return the images that there are, if they can be drawn side by side."""
    images = [image for image in given if image is not None]
    shapes = [image.shape for image in images]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2:
        raise ShapeError(
            f"the panels need (H, W) images of one shape, got {', '.join(map(str, shapes))}"
        )
    if not all(np.isfinite(image).all() for image in images):
        raise ScanDataError("an image holds NaN or infinite values; it cannot be drawn")
    return images


def _aspect(pixel_spacing_mm: tuple[float, float] | None) -> float:
    """Return how many times as high as wide a pixel is."""
    row_mm, column_mm = pixel_spacing_mm or (1.0, 1.0)
    return row_mm / column_mm


def _save(
    path: Path,
    panels: list[_Panel],
    title: str,
    modality: Modality,
    aspect: float,
    *,
    with_error: bool,
) -> None:
    unit = "HU" if modality == "ct" else "signal"
    figure = _draw(panels, title, unit, aspect, with_error=with_error)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, facecolor=BACKGROUND)


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"


def _real(image: NDArray[Any], modality: Modality) -> NDArray[np.float64]:
    values = np.abs(image) if modality == "mr" or np.iscomplexobj(image) else image
    return values.astype(np.float64)


def _panels(
    baseline: NDArray[np.float64],
    ours: NDArray[np.float64],
    reference: NDArray[np.float64] | None,
    modality: Modality,
) -> list[_Panel]:
    window = display_window(ours if reference is None else reference, modality)
    if reference is None:
        return [
            _Panel(_BASELINE[modality], "", baseline, "gray", window),
            _Panel("LDM-PIR", "", ours, "gray", window),
        ]
    error = np.abs(ours - reference)
    gain = error_gain(error, window[1] - window[0])
    return [
        _Panel(
            _BASELINE[modality],
            _caption(score(baseline, reference, modality)),
            baseline,
            "gray",
            window,
        ),
        _Panel("LDM-PIR", _caption(score(ours, reference, modality)), ours, "gray", window),
        _Panel("Reference", "", reference, "gray", window),
        _Panel(
            f"Error ×{gain}",
            "|LDM-PIR − reference|",
            error,
            "inferno",
            (0.0, (window[1] - window[0]) / gain),
        ),
    ]


def _caption(scores: ImageScores) -> str:
    return f"PSNR {scores.psnr:.2f} dB   SSIM {scores.ssim:.3f}"


def _draw(
    panels: list[_Panel], title: str, unit: str, aspect: float, *, with_error: bool
) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = panels[0].values.shape
    # Very long or very wide slices are letterboxed in their panel rather than in the page.
    height_in = PANEL_WIDTH_IN * min(max(aspect * rows / columns, 0.5), 2.0)
    bar_in = COLOUR_BAR_IN if with_error else 0.0
    width = len(panels) * (PANEL_WIDTH_IN + GAP_IN) + GAP_IN + bar_in
    height = TITLE_IN + height_in + CAPTION_IN
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(
        GAP_IN / width,
        1 - 0.21 / height,
        title,
        color=INK,
        fontsize=12,
        va="center",
        parse_math=False,  # a file's name may hold dollar signs
    )
    for index, panel in enumerate(panels):
        left = GAP_IN + index * (PANEL_WIDTH_IN + GAP_IN)
        box = (
            left / width,
            CAPTION_IN / height,
            PANEL_WIDTH_IN / width,
            height_in / height,
        )
        axes = figure.add_axes(box)
        drawn = _draw_panel(axes, panel, aspect)
    if with_error:
        bar_left = width - bar_in + 0.02
        bar_axes = figure.add_axes(
            (bar_left / width, CAPTION_IN / height, 0.10 / width, height_in / height)
        )
        _draw_colour_bar(figure, bar_axes, drawn, unit)
    return figure


def _draw_panel(axes: Axes, panel: _Panel, aspect: float) -> AxesImage:
    drawn = axes.imshow(
        panel.values,
        cmap=panel.colour_map,
        vmin=panel.limits[0],
        vmax=panel.limits[1],
        aspect=aspect,
        interpolation="antialiased",
    )
    axes.set_axis_off()
    axes.annotate(
        panel.heading,
        (0.5, -0.025),
        xycoords="axes fraction",
        ha="center",
        va="top",
        fontsize=11,
        weight="bold",
        color=INK,
        parse_math=False,
    )
    axes.annotate(
        panel.caption,
        (0.5, -0.025),
        xycoords="axes fraction",
        xytext=(0, -17),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=10,
        color=MUTED,
    )
    return drawn


def _draw_colour_bar(figure: Figure, axes: Axes, drawn: AxesImage, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(drawn, cax=axes, ticks=MaxNLocator(4))
    bar.outline.set_visible(False)
    axes.tick_params(colors=MUTED, labelsize=9, length=2)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
    axes.yaxis.get_offset_text().set(color=MUTED, size=9)
    axes.set_xlabel(unit, color=MUTED, fontsize=10)
