"""Read a report back: its tables, its texts and its images, by the standard library and numpy."""

from __future__ import annotations

import base64
import json
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

VOID = {"meta", "input", "link", "img", "br"}


class HtmlPage(HTMLParser):
    """A parsed page.

    `tags` are (name, attributes) of all elements, `text` all text outside of scripts and styles,
    `tables` by heading lists of rows of cells, `scripts` the content of each script element with
    its attributes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._heading = ""
        self.feed(self.source)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self._open.append(tag)
        if tag == "h2":
            self._heading = ""
        elif tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._heading][-1].append("")
        elif tag == "script":
            self.scripts.append((dict(attrs), ""))
        elif tag == "style":
            self.styles.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
            return
        if "style" in self._open:
            self.styles[-1] += data
            return
        self.text += data
        if "h2" in self._open:
            self._heading += data
        if "td" in self._open or "th" in self._open:
            self.tables[self._heading][-1][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script is given."""
        (text,) = [text for attributes, text in self.scripts if attributes.get("id") == "page"]
        return json.loads(text)

    def columns(self, heading: str) -> dict[str, list[str]]:
        """A table by its columns."""
        head, *rows = self.tables[heading]
        return dict(zip(head, map(list, zip(*rows, strict=True)), strict=True))

    def rows(self, heading: str) -> dict[str, str]:
        """A table of two columns as a dictionary."""
        return dict(self.tables[heading])

    def image(self, place: int, key: str) -> np.ndarray:
        """An image `(H, W)` float64 of the slice at a place of the slider."""
        scale = self.data["slices"][place]["images"][key]
        wanted = {"class": "pixels", "data-slice": str(place), "data-key": key}
        (text,) = [text for found, text in self.scripts if wanted.items() <= found.items()]
        shape = (2, scale["height"], scale["width"])
        high, low = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(shape)
        change = high.astype(np.int64) * 256 + low
        return scale["low"] + scale["step"] * (np.cumsum(change, axis=1) % 65536)
