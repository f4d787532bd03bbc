"""Insert small lesions before the acquisition: what comes back of them, and are any invented.

    python benchmarks/lesions.py [--bundle ldmpir-2m] [--backend openvino] [-o results.json]

Discs of 20 % contrast, half of them brighter and half darker than the tissue, at places in
homogeneous tissue drawn at random. Each slice is acquired with and without them: the same coils,
phase, mask and noise. Contrast is the mean over the disc over the mean over the ring about it,
less one.

- recovered: what the lesion adds to the contrast at its place, over what it adds in the reference;
- found: with it, the contrast differs from the lesion-free reference's by half of 20 % or more;
- invented: places in homogeneous tissue where the *lesion-free* reconstruction's contrast differs
  from the reference's by half of 20 % or more, of all pixels there: what `found` would find with
  nothing there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import quality
from product import METHODS, Outcome, Product, arguments, write
from scipy import ndimage

CONTRAST = 0.2
NOTICED = CONTRAST / 2
RADII = {"radius 3": 3.0, "radius 1.5": 1.5}
ACCELERATIONS = (2, 4, 6, 8)
PLACES = 10
REACH = 8
"""Pixels about a place that must be homogeneous tissue; the rings end within."""
RING = (2.0, 5.0)
"""From so far outside the disc to so far."""
VARIATION = 0.15
"""Homogeneous: the standard deviation within `REACH` is at most this share of the mean."""


def disc(radius: float) -> np.ndarray:
    """Draw a disc with soft edges in the middle of a square `2 REACH + 1` wide, 1 inside."""
    return np.clip(radius + 0.5 - _distance(), 0, 1)


def ring(radius: float) -> np.ndarray:
    """Draw the ring about that disc, over which the background is averaged."""
    distance = _distance()
    inner, outer = radius + RING[0], radius + RING[1]
    return ((distance >= inner) & (distance <= outer)).astype(np.float64)


def contrast(image: np.ndarray, radius: float) -> np.ndarray:
    """Return the contrast of a disc centred on each pixel of `(H, W)`: its mean over the ring's."""
    means = [
        ndimage.convolve(image.astype(np.float64), kernel / kernel.sum(), mode="nearest")
        for kernel in (disc(radius), ring(radius))
    ]
    return means[0] / np.maximum(means[1], 1e-6 * image.max()) - 1


def insert(image: np.ndarray, places: np.ndarray, signs: np.ndarray, radius: float) -> np.ndarray:
    """Multiply the image by 1 ± `CONTRAST` in discs about `places`, `(n, 2)` rows and columns."""
    factor = np.zeros_like(image, np.float64)
    for (row, column), sign in zip(places, signs, strict=True):
        view = (slice(row - REACH, row + REACH + 1), slice(column - REACH, column + REACH + 1))
        factor[view] += sign * CONTRAST * disc(radius)
    return (image * (1 + factor)).astype(np.float32)


def homogeneous(image: np.ndarray) -> np.ndarray:
    """Mark the pixels of `(H, W)` about which the tissue is homogeneous."""
    around = (_distance() <= REACH).astype(np.float64)
    x = image.astype(np.float64)
    mean = ndimage.convolve(x, around / around.sum(), mode="constant")
    square = ndimage.convolve(x * x, around / around.sum(), mode="constant")
    even = np.sqrt(np.maximum(square - mean * mean, 0)) <= VARIATION * mean
    tissue = image > 0.1 * np.percentile(image, 99.5)
    return even & ndimage.minimum_filter(tissue, footprint=around > 0, mode="constant")


def draw_places(allowed: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw up to `n` places, `(n, 2)`, so far from each other that no ring meets another disc."""
    candidates = rng.permutation(np.argwhere(allowed))
    chosen: list[np.ndarray] = []
    for place in candidates:
        if all(np.hypot(*(place - other)) > 2 * REACH for other in chosen):
            chosen.append(place)
        if len(chosen) == n:
            break
    return np.array(chosen, int).reshape(-1, 2)


@dataclass(frozen=True)
class Pair:
    """One slice, acquired without and with lesions at `places`, and where tissue is homogeneous."""

    plain: Outcome
    marked: Outcome
    places: np.ndarray
    signs: np.ndarray
    allowed: np.ndarray


def judge(pairs: list[Pair], radius: float) -> dict[str, Any]:
    """Return for each method what the module's description defines, over all lesions."""
    table: dict[str, Any] = {"lesions": sum(len(pair.places) for pair in pairs)}
    for method in METHODS:
        recovered, found, invented, largest = [], [], [], 0.0
        for pair in pairs:
            at = tuple(pair.places.T)
            true = [contrast(one.reference, radius) for one in (pair.plain, pair.marked)]
            seen = [contrast(getattr(one, method), radius) for one in (pair.plain, pair.marked)]
            recovered.extend((seen[1] - seen[0])[at] / (true[1] - true[0])[at])
            found.extend(pair.signs * (seen[1] - true[0])[at] >= NOTICED)
            false = np.abs(seen[0] - true[0])[pair.allowed]
            invented.extend(false >= NOTICED)
            largest = max(largest, float(false.max(initial=0)))
        table[method] = {
            "recovered": [round(float(r), 3) for r in recovered],
            "found": round(float(np.mean(found)), 4),
            "invented": round(float(np.mean(invented)), 6),
            "largest_false_contrast": round(largest, 4),
        }
    return table


def _distance() -> np.ndarray:
    y, x = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]
    return np.hypot(y, x)


def main() -> None:
    args = arguments(__doc__.splitlines()[0], 4)
    product = Product(args.bundle, args.backend)
    images = list(quality.images("mr", args.slices))
    table: dict[str, Any] = {name: {} for name in RADII}
    for acceleration in ACCELERATIONS:
        make = quality.mri(8, acceleration, "equispaced")
        pairs: dict[str, list[Pair]] = {name: [] for name in RADII}
        for k, image in enumerate(images):
            allowed = homogeneous(image)
            places = draw_places(allowed, PLACES, np.random.default_rng([args.seed, k]))
            signs = np.resize([1.0, -1.0], len(places))

            def acquired(slice_: np.ndarray, k: int = k, make: Any = make) -> Outcome:
                return product(make(slice_, "mr", np.random.default_rng([args.seed, k])))

            plain = acquired(image)
            for name, radius in RADII.items():
                marked = acquired(insert(image, places, signs, radius))
                pairs[name].append(Pair(plain, marked, places, signs, allowed))
        for name, radius in RADII.items():
            row = table[name][f"{acceleration}"] = judge(pairs[name], radius)
            cells = (
                f"{method}: recovered {np.mean(row[method]['recovered']):.3f} (least "
                f"{np.min(row[method]['recovered']):.3f}), found {row[method]['found']:.1%}, "
                f"invented {row[method]['invented']:.3%}"
                for method in METHODS
            )
            print(f"R = {acceleration}, {name}, {row['lesions']}:  {'   '.join(cells)}", flush=True)
    write("lesions", args, product, {"contrast": CONTRAST, "results": table})


if __name__ == "__main__":
    main()
