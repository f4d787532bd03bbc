"""The volume in one HTML file that shows it with NiiVue, without a network.

NiiVue 0.69.0 (BSD-2-Clause) lies beside this module as its npm package brings it
(`dist/niivue.umd.js`), compressed by xz.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import lzma
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.errors import OutputError
from ldmpir_edge.scans.reconstruction import VolumeHeader
from ldmpir_edge.scans.writers import SliceSink
from ldmpir_edge.scans.writers.nifti import stream_nifti
from ldmpir_edge.scans.writers.window import WindowSample

MAX_VOXELS = 2**26
"""About 300 MB of page; browsers give up on strings of twice that."""

_GROUP = 3
"""Bytes that base64 turns into four letters."""

_VIEWS = {
    "all": "All planes",
    "axial": "Axial",
    "coronal": "Coronal",
    "sagittal": "Sagittal",
    "render": "3-D",
}


def write_volume_page(header: VolumeHeader, target: Path) -> SliceSink:
    """Write the volume as base64 of its NIfTI file, and the program that shows it.

    Raises
    ------
    OutputError
        The volume is too large for a page, its slices are not evenly spaced, or the file cannot
        be written.
    """
    n_slices, height, width = header.shape
    if n_slices * height * width > MAX_VOXELS:
        raise OutputError(
            f"{header.stem}: a page holds {MAX_VOXELS} voxels, and this volume has "
            f"{n_slices * height * width}; write nii, which NiiVue opens as a file"
        )
    window = WindowSample(n_slices)
    fallback: list[int] = []
    scripts = _niivue(), _asset("volume.js")
    with atomic_file(target) as temporary, temporary.open("wb") as file:
        file.write(_head(header, scripts))
        letters = _Base64(file)
        with closing(stream_nifti(header, letters)) as sink:
            next(sink)
            for index in range(n_slices):
                piece = yield
                window.add(piece.image)
                if piece.fallback:
                    fallback.append(index)
                with suppress(StopIteration):  # the last slice completes the NIfTI file
                    sink.send(piece)
        letters.finish()
        facts = {"window": window.window(header.info.modality), "fallback": fallback}
        file.write(_tail(facts, scripts))


class _Base64:
    """A file whose bytes come out as letters in another."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = b""

    def write(self, data: bytes) -> int:
        """Write what makes whole groups of letters, and keep the rest."""
        whole = self._left + data
        cut = len(whole) - len(whole) % _GROUP
        self._file.write(base64.b64encode(whole[:cut]))
        self._left = whole[cut:]
        return len(data)

    def flush(self) -> None:
        """Do nothing: what is kept cannot be written yet."""

    def finish(self) -> None:
        """Write the rest."""
        self._file.write(base64.b64encode(self._left))


def _head(header: VolumeHeader, scripts: Sequence[str]) -> bytes:
    style = _asset("volume.css")
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; "
        f"style-src {_hash(style)}; img-src data: blob:; connect-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = html.escape(header.stem)
    buttons = "".join(
        f'<button type="button" value="{value}" aria-pressed="{str(value == "all").lower()}">'
        f"{label}</button>"
        for value, label in _VIEWS.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="muted">Research only, not for diagnosis. Drag with the right button to set the window.</p>
<p class="warning" id="said" role="status"></p>
<div id="views" role="group" aria-label="View">{buttons}</div>
</header>
<div id="volume"><canvas aria-label="The volume"></canvas></div>
<footer id="place" aria-live="polite"></footer>
<script type="text/plain" id="nifti">""".encode()


def _tail(facts: Mapping[str, object], scripts: Sequence[str]) -> bytes:
    programs = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""</script>
<script type="application/json" id="facts">{json.dumps(facts)}</script>
{programs}
</body>
</html>
""".encode()


def _niivue() -> str:
    packed = files("ldmpir_edge.scans.writers").joinpath("niivue", "niivue.umd.js.xz")
    return lzma.decompress(packed.read_bytes()).decode()


def _asset(name: str) -> str:
    return files("ldmpir_edge.scans.writers").joinpath("niivue", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
