"""A preview: one slice, or a montage of up to sixteen, in the modality's grey window."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.scans.reconstruction import VolumeHeader
from ldmpir_edge.scans.writers import SliceSink
from ldmpir_edge.scans.writers.window import WindowSample

MAX_TILES = 16
MAX_STRETCH = 16.0
"""Longest pixel, in its own width, that is drawn as long as it is."""


def write_png(header: VolumeHeader, target: Path) -> SliceSink:
    """Write an 8-bit grey PNG of the volume with square pixels.

    Slices run row by row; of more than sixteen, sixteen spread evenly are shown. One window
    serves all of them: 0 to the 99.5th percentile for MR, -160 to 240 HU for CT.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    n_slices = header.n_slices
    shown = np.linspace(0, n_slices - 1, min(n_slices, MAX_TILES)).round()
    sample = WindowSample(n_slices)
    images: list[NDArray[np.float32]] = []
    with atomic_file(target) as temporary:
        for index in range(n_slices):
            piece = yield
            sample.add(piece.image)
            if index in shown:
                images.append(piece.image)
        window = sample.window(header.info.modality)
        row_mm, column_mm = header.info.pixel_spacing_mm or (1.0, 1.0)
        tiles = [_square(_grey(image, window), row_mm, column_mm) for image in images]
        _montage(tiles).save(temporary, format="PNG")


def _grey(image: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.uint8]:
    black, white = window
    share = np.clip((image.astype(np.float64) - black) / (white - black), 0.0, 1.0)
    return (share * 255.0).round().astype(np.uint8)


def _square(grey: NDArray[np.uint8], row_mm: float, column_mm: float) -> Image.Image:
    tile = Image.fromarray(grey)
    pitch = min(row_mm, column_mm)
    if max(row_mm, column_mm) > MAX_STRETCH * pitch:  # a mistaken spacing, or a page of gigabytes
        return tile
    size = (round(tile.width * column_mm / pitch), round(tile.height * row_mm / pitch))
    return tile if size == tile.size else tile.resize(size, Image.Resampling.BILINEAR)


def _montage(tiles: list[Image.Image]) -> Image.Image:
    columns = math.ceil(math.sqrt(len(tiles)))
    width, height = tiles[0].size
    page = Image.new("L", (columns * width, math.ceil(len(tiles) / columns) * height))
    for index, tile in enumerate(tiles):
        page.paste(tile, (index % columns * width, index // columns * height))
    return page
