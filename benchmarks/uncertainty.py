"""Hold the uncertainty map of `ldmpir-edge report --samples 8` against the true error.

    python benchmarks/uncertainty.py [--bundle ldmpir-2m] [--backend openvino] [-o results.json]

The map is the product's own: the standard deviation over 8 samples of the bridge, with noise in
the first of 4 steps, smoothed, and the image's local detail. The error is that of the image
that is delivered, the deterministic one. Over the pixels of the object (of inpainting those that
were missing: the others are copied), for each slice:

- spearman: rank correlation of deviation and |error|;
- perfect: the same if the map were perfect, that is of deviation and |z| times deviation with z
  standard normal. It is below 1, for a deviation does not say how large an error is but how large
  errors like it are, and low where the deviation hardly varies;
- coverage: share of pixels whose error is at most twice the deviation: 95.4 % if normal;
- factor: what the deviation must be multiplied by so that it covers 95 %.

Reliability: pixels in ten classes of equal size by their deviation, mean deviation and root mean
square error of each, over the range that PSNR takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import quality
from product import Product, arguments, write
from scipy import ndimage, stats

from ldmpir_edge.physics.problem import Modality, Task
from ldmpir_edge.reconstruct.slices import FinishedSlice
from ldmpir_edge.report.metrics import CT_WINDOW_HU
from ldmpir_edge.scans.model import Scan

N_SAMPLES = 8
CLASSES = 10
COVERED = 0.95
BODY_HU = -500.0


def the_object(reference: np.ndarray, modality: Modality) -> np.ndarray:
    """Mark the largest piece of `(H, W)` that is brighter than the background, holes filled."""
    low = BODY_HU if modality == "ct" else 0.05 * np.percentile(reference, 99.5)
    pieces, n = ndimage.label(ndimage.binary_opening(reference > low, iterations=2))
    largest = 1 + np.argmax(np.bincount(pieces.ravel(), minlength=n + 1)[1:])
    return ndimage.binary_fill_holes(pieces == largest)


def judge(deviation: np.ndarray, error: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Return the numbers of the module's description; two arrays `(n,)` of one slice's pixels."""
    size = np.abs(error)
    perfect = deviation * np.abs(rng.standard_normal(deviation.shape))
    return {
        "spearman": float(stats.spearmanr(deviation, size).statistic),
        "perfect": float(stats.spearmanr(deviation, perfect).statistic),
        "coverage": float(np.mean(size <= 2 * deviation)),
        # Where all samples agree to the last bit, no factor covers an error.
        "factor": float(np.quantile(size / np.maximum(deviation, 1e-9), COVERED)),
    }


def reliability(deviation: np.ndarray, error: np.ndarray) -> list[tuple[float, float]]:
    """Return mean deviation and root mean square error of `CLASSES` classes by deviation."""
    order = np.array_split(np.argsort(deviation), CLASSES)
    return [
        (float(np.mean(deviation[one])), float(np.sqrt(np.mean(error[one] ** 2)))) for one in order
    ]


def finished(product: Product, scan: Scan, task: Task) -> FinishedSlice:
    """Reconstruct the one slice of a scan as `ldmpir-edge report --samples` does."""
    seen: list[FinishedSlice] = []
    stream = product.reconstructor.stream(scan, task=task, n_samples=N_SAMPLES, observe=seen.append)
    for _ in stream:
        pass
    return seen[0]


def pixels(
    product: Product, case: quality.Case, modality: Modality
) -> tuple[np.ndarray, np.ndarray]:
    """Return deviation and error of the pixels that count, over the range that PSNR takes."""
    scan, task, reference = case
    done = finished(product, scan, task)
    counted = the_object(reference, modality)
    if task == "inpaint":
        counted &= done.prepared.measured == 0
    span = np.ptp(CT_WINDOW_HU) if modality == "ct" else reference.max()
    return (
        (done.deviation[counted] / span).astype(np.float64),
        ((done.piece.image - reference)[counted] / span).astype(np.float64),
    )


def main() -> None:
    args = arguments(__doc__.splitlines()[0], 3)
    product = Product(args.bundle, args.backend)
    table: dict[str, Any] = {}
    for number, (name, (modality, make)) in enumerate(quality.CASES.items()):
        rows: list[dict[str, float]] = []
        curves: list[list[tuple[float, float]]] = []
        for k, image in enumerate(quality.images(modality, args.slices)):
            rng = np.random.default_rng([args.seed, number, k])
            deviation, error = pixels(product, make(image, modality, rng), modality)
            rows.append(judge(deviation, error, rng))
            curves.append(reliability(deviation, error))
        table[name] = {key: [round(row[key], 3) for row in rows] for key in rows[0]}
        table[name]["reliability"] = np.mean(curves, axis=0).round(6).tolist()
        cells = "   ".join(f"{key} {np.mean(table[name][key]):.3f}" for key in rows[0])
        print(f"{name:30s} {cells}", flush=True)
    write("uncertainty", args, product, {"samples": N_SAMPLES, "results": table})


if __name__ == "__main__":
    main()
