"""What the page of a scan and that of a pair have in common: scores, colours and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.problem import Modality, Task
from ldmpir_edge.reconstruct.slices import PreparedSlice
from ldmpir_edge.report.figure import DIFFERENCE_GAINS, error_gain
from ldmpir_edge.report.metrics import ImageScores, score

Image = NDArray[np.float32]

MEASURED: dict[Task, str] = {
    "mri": "Sampled k-space",
    "ct": "Sinogram",
    "inpaint": "Known pixels",
}
RANGES: dict[Modality, str] = {
    "ct": "PSNR is over 2000 HU.",
    "mr": "PSNR is over the largest value of the slice's reference.",
}

_BRIGHT_PERCENTILE = 99.5


class ColourScale:
    """How the maps of a page are coloured: one of them sets the bar, the others are magnified."""

    def __init__(self) -> None:
        self._bright: dict[str, list[float]] = {}

    def add(self, key: str, values: Image) -> None:
        """Take a map of a slice, not negative, under the key of its panel."""
        bright = float(np.percentile(values, _BRIGHT_PERCENTILE))
        self._bright.setdefault(key, []).append(bright)

    def choose(self, width: float) -> tuple[int, dict[str, int]]:
        """Return the bar's gain on a grey window's width, and the magnification of each map.

        The map that was added first sets the bar, so that it is not magnified.
        """
        bright = {key: np.asarray(values) for key, values in self._bright.items()}
        gain = error_gain(next(iter(bright.values())), width, DIFFERENCE_GAINS)
        return gain, {
            key: error_gain(v, width / gain, DIFFERENCE_GAINS) for key, v in bright.items()
        }


def score_images(
    images: Mapping[str, Image], keys: Iterable[str], reference: Image, modality: Modality
) -> dict[str, ImageScores]:
    """Score those of the images that there are; none that cannot be scored.

    A reference without signal, or of a few pixels, is shown all the same.
    """
    scores = {}
    for key in keys:
        with suppress(ScanDataError, ShapeError):
            if key in images:
                scores[key] = score(images[key], reference, modality)
    return scores


def score_caption(scores: ImageScores) -> str:
    """Say PSNR and SSIM in a few words."""
    return f"{scores.psnr:.2f} dB, SSIM {scores.ssim:.3f}"


def measured_caption(prepared: PreparedSlice) -> str:
    """Say how much was measured in a few words; none where the input is complete."""
    measured = prepared.measured
    if measured is None:
        return ""
    height, width = measured.shape
    if prepared.problem.task == "ct":
        return f"{height} views, {width} detectors"
    return f"{np.mean(measured):.1%} of {height} × {width}"
