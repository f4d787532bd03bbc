"""Random geometry and contrast, so that few patients stand for many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldmpir_edge.physics.fourier import centred_fft, centred_ifft
from ldmpir_edge.physics.problem import Modality

MAX_DISCS = 16
AIR: dict[Modality, float] = {"mr": 0.0, "ct": -1000.0}
"""Least value of an image: no signal, and HU of air."""

KSPACE_SHARE = (0.62, 0.74)
"""Less than what scanners that interpolate measure of k-space along an axis: three quarters."""

View = Callable[[NDArray[np.float32], int, float, np.random.Generator], NDArray[np.float32]]
"""Makes a square image of so many pixels from an `(H, W)` one, the float being outside."""


def above_air(
    view: View,
    image: NDArray[np.float32],
    modality: Modality,
    size: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Take a `(size, size)` view of an `(H, W)` image, with air outside and nothing below it.

    Splines swing round edges.
    """
    air = np.float32(AIR[modality])
    return np.maximum(view(np.maximum(image, air), size, float(air), rng), air)


def random_view(
    image: NDArray[np.float32], size: int, fill: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Resample an `(H, W)` image to `(size, size)` with a random zoom, rotation, shift and flip.

    Resampling also removes what is special to a source: several sets were interpolated by the
    scanner and are empty at the top of their spectrum. `fill` is the value outside.
    """
    zoom = size / max(image.shape) * np.exp(rng.uniform(np.log(0.8), np.log(1.6)))
    angle = rng.uniform(-0.3, 0.3) if rng.random() < 0.6 else 0.0
    turns = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip = np.diag(rng.choice([-1.0, 1.0], size=2))
    swap = np.eye(2)[:, ::-1] if rng.random() < 0.5 else np.eye(2)
    matrix = turns @ flip @ swap / zoom
    source_centre = (np.array(image.shape) - 1) / 2
    shift = rng.uniform(-0.06, 0.06, 2) * size
    offset = source_centre - matrix @ ((size - 1) / 2 + shift)
    if zoom < 0.9:
        # Shrinking without a low-pass would fold the source's noise and edges.
        image = ndimage.gaussian_filter(image, 0.4 / zoom)
    view: NDArray[np.float32] = ndimage.affine_transform(
        image, matrix, offset, (size, size), order=3 if rng.random() < 0.5 else 1, cval=fill
    ).astype(np.float32)
    return view


def shorter_kspace(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Give an MR `(H, W)` image the coarser grid of the middle of its k-space.

    Scanners often fill k-space up with zeros. Who sees such images alone learns that there is
    nothing at the top of a spectrum, and takes it from those that have it. Both directions are cut,
    since pixels stay square.
    """
    share = rng.uniform(*KSPACE_SHARE)
    n_rows, n_columns = (max(1, round(share * n)) for n in image.shape)
    top, left = image.shape[0] // 2 - n_rows // 2, image.shape[1] // 2 - n_columns // 2
    kspace = centred_fft(image, (0, 1))[top : top + n_rows, left : left + n_columns]
    gain = np.sqrt(n_rows * n_columns / image.size)
    shorter: NDArray[np.float32] = (centred_ifft(kspace, (0, 1)).real * gain).astype(np.float32)
    return shorter


def square_part(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Cut a square out of an `(H, W)` image, as wide as the shorter of its sides."""
    side = min(image.shape)
    top, left = (int(rng.integers(0, n - side + 1)) for n in image.shape)
    return image[top : top + side, left : left + side]


def block_means(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Average an `(H, W)` image over squares of `factor` pixels; what fills none is cut off."""
    rows, columns = (n // factor for n in image.shape)
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    means: NDArray[np.float32] = blocks.mean((1, 3), dtype=np.float32)
    return means


def native_view(
    image: NDArray[np.float32], size: int, fill: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Cut `(size, size)` out of an `(H, W)` image, or set it into `fill`, without resampling.

    Larger images are averaged over squares of whole pixels. Noise and texture stay as a scan has
    them: who learns from smooth images alone smooths those that are not.
    """
    blocks = block_means(image, max(1, round(max(image.shape) / size)))
    view = np.full((size, size), fill, np.float32)
    here, there = [], []
    for n in blocks.shape:
        shift = round(rng.uniform(-0.06, 0.06) * size)
        first = (size - n) // 2 + shift
        here.append(slice(max(first, 0), min(first + n, size)))
        there.append(slice(max(-first, 0), min(size - first, n)))
    view[tuple(here)] = blocks[tuple(there)]
    view = view[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
    return view.T if rng.random() < 0.5 else view


def random_contrast(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Bend the intensities of a non-negative MR `(H, W)` image, scaled to about [0, 1].

    A random power, and at times an inversion within the object, as between T1 and T2 weighting.
    """
    top = float(np.percentile(image, 99.8))
    if top <= 0:
        return image
    x: NDArray[np.float32] = np.clip(image / top, 0, 1.5)
    x = x ** np.exp(rng.uniform(np.log(0.6), np.log(1.6)))
    if rng.random() < 0.2:
        x = x * np.clip(1.15 - x, 0.05, None) * 2
    return x.astype(np.float32)


def random_discs(
    image: NDArray[np.float32], unit: NDArray[np.float32] | float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Put up to `MAX_DISCS` small discs with soft edges on the bright half of an `(H, W)` image.

    Brighter or darker by 5 to 40 % of `unit`, a number or one for each pixel, with a
    radius of 1 to 6 pixels. Healthy anatomy holds few isolated spots, and a prior that never
    saw any removes those that matter.
    """
    height, width = image.shape
    factor = np.zeros_like(image)
    places = np.argwhere(image >= np.median(image))
    for row, column in places[rng.integers(len(places), size=rng.integers(1, MAX_DISCS + 1))]:
        radius = rng.uniform(1, 6)
        reach = int(radius) + 2
        rows, columns = (
            np.arange(max(middle - reach, 0), min(middle + reach + 1, length))
            for middle, length in ((row, height), (column, width))
        )
        distance = np.hypot(rows[:, None] - row, columns - column)
        change = rng.choice([-1.0, 1.0]) * rng.uniform(0.05, 0.4)
        factor[np.ix_(rows, columns)] += change * np.clip(radius + 0.5 - distance, 0, 1)
    return image + factor * unit
