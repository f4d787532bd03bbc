"""What a page holds, and how it becomes one file.

A page knows images, captions and tables; what they mean is known to who fills it. Whatever text
comes in is escaped, and the page's own policy forbids a browser to load or run anything but what
is written here.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.errors import MissingExtraError
from ldmpir_edge.report.figure import DIFFERENCE_GAINS
from ldmpir_edge.report.html.pixels import Pixels

if TYPE_CHECKING:
    from jinja2 import Template

FEWEST_COLUMNS, MOST_COLUMNS = 3, 5

SCRIPTS = ("pictures.js", "panels.js", "viewer.js")


@dataclass(frozen=True)
class Panel:
    """A place on the page, the same for every slice.

    Parameters
    ----------
    key
        Finds the image of a slice.
    heading
        Above the image.
    scale
        `grey`: shares the grey window, `colour`: the colour bar, `own`: its own range.
    difference_of
        Keys of two images whose absolute difference is shown, computed by the browser; then a
        slice needs no image for this panel.
    magnified
        A map is shown this many times as large, since one colour bar serves all of them. The
        heading says so.
    """

    key: str
    heading: str
    scale: Literal["grey", "colour", "own"]
    difference_of: tuple[str, str] | None = None
    magnified: int = 1

    @property
    def title(self) -> str:
        """The heading, with what it is magnified by."""
        return self.heading if self.magnified == 1 else f"{self.heading} ×{self.magnified}"


@dataclass(frozen=True)
class PageSlice:
    """One slice: what its panels show.

    Parameters
    ----------
    index
        Its place in the scan, from 0.
    images
        By the panel's key; a panel without one stays empty.
    captions
        By the panel's key: a few words under the heading.
    warning
        Shown above the images while this slice is; empty where there is none.
    """

    index: int
    images: Mapping[str, Pixels] = field(repr=False)
    captions: Mapping[str, str] = field(default_factory=dict)
    warning: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of plain text; `notes` are paragraphs below."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """Everything that a page shows.

    Parameters
    ----------
    title, subtitle
        The heading, and a line below it.
    software
        What made it: a name and a version.
    unit
        Of the values; empty where it is arbitrary.
    window
        The (black, white) values that it opens with.
    gain
        Of `DIFFERENCE_GAINS`: the colour bar ends at the window's width divided by it.
    pixel_spacing_mm
        (Row, column) spacing, so that pixels are shown in their shape; None shows squares.
    panels
        In their order, maps after the rest; at least one is `grey`.
    slices
        At least one.
    flicker
        Keys of the two images that take turns.
    warnings
        Above everything else.
    tables
        Below the images.
    """

    title: str
    subtitle: str
    software: str
    unit: str
    window: tuple[float, float]
    gain: int
    pixel_spacing_mm: tuple[float, float] | None
    panels: Sequence[Panel]
    slices: Sequence[PageSlice] = field(repr=False)
    flicker: tuple[str, str]
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()


def require_templates() -> None:
    """Refuse early what `write_page` would refuse after all the work.

    Raises
    ------
    MissingExtraError
        Jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ModuleNotFoundError as err:
        raise MissingExtraError("the HTML report", "report") from err


def write_page(path: Path, page: Page) -> None:
    """Write a page as one HTML file that needs no other.

    Parameters
    ----------
    path
        The file to create or replace.
    page
        Text in it is plain, and comes out as it is.

    Raises
    ------
    MissingExtraError
        Jinja2 is not installed.
    OutputError
        The file cannot be written.
    """
    require_templates()
    style = _asset("report.css")
    script = "\n".join(_asset(name) for name in SCRIPTS)
    numbered = list(enumerate(page.panels, 1))
    images = [(n, panel) for n, panel in numbered if panel.scale != "colour"]
    maps = [(n, panel) for n, panel in numbered if panel.scale == "colour"]
    groups = [("Images", images), *([("Maps", maps)] if maps else [])]
    parts = _template().generate(
        page=page,
        groups=groups,
        n_columns=min(MOST_COLUMNS, max(FEWEST_COLUMNS, *(len(found) for _, found in groups))),
        data=_data(page),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(parts)


def _data(page: Page) -> dict[str, Any]:
    """Give what the page's script needs beside the pixels."""
    return {
        "unit": page.unit,
        "window": page.window,
        "gains": DIFFERENCE_GAINS,
        "gain": page.gain,
        "spacing": page.pixel_spacing_mm or (1.0, 1.0),
        "panels": [asdict(panel) for panel in page.panels],
        "flicker": page.flicker,
        "slices": [
            {
                "index": piece.index,
                "images": {key: pixels.scale for key, pixels in piece.images.items()},
                "captions": dict(piece.captions),
                "warning": piece.warning,
            }
            for piece in page.slices
        ],
    }


def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ldmpir_edge.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _asset(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression that lets a browser take `text`, and nothing else."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
