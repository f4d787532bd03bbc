"""Image quality against a reference, with the value range stated.

The range convention decides the figure, so there is one for each modality:

- MR: magnitude images; the data range is the maximum of the reference (fastMRI's convention).
- CT: both images are clipped to the window [-1000, 1000] HU and shifted to [0, 2000], where
  air is 0; the data range is 2000 HU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.problem import Modality

CT_WINDOW_HU = (-1000.0, 1000.0)
SSIM_WINDOW = 7
"""Side of the uniform SSIM window, in pixels: the default of scikit-image and of fastMRI."""


@dataclass(frozen=True)
class ImageScores:
    """The three scores of one image: `psnr` in dB, `ssim` up to 1, `nmse` from 0."""

    psnr: float
    ssim: float
    nmse: float


def psnr(image: NDArray[Any], reference: NDArray[Any], modality: Modality) -> float:
    """Compute the peak signal-to-noise ratio in dB; infinite where the images are equal.

    Parameters
    ----------
    image, reference
        `(H, W)` or `(slices, H, W)`, real or complex (its magnitude is taken), in the scan's
        unit (HU for CT). A volume is scored as a whole, with one data range.
    modality
        Chooses the range convention of this module.

    Raises
    ------
    ShapeError
        The shapes differ or are not two- or three-dimensional.
    ScanDataError
        A value is not finite, or the reference is empty of signal.
    """
    from skimage.metrics import peak_signal_noise_ratio

    seen, truth, data_range = _prepare(image, reference, modality)
    if np.array_equal(seen, truth):
        return float("inf")
    return float(peak_signal_noise_ratio(truth, seen, data_range=data_range))


def ssim(image: NDArray[Any], reference: NDArray[Any], modality: Modality) -> float:
    """Compute the structural similarity, averaged over slices.

    Parameters and errors are those of `psnr`; `ShapeError` also where a side is under 7 pixels.

    Source: Wang et al., IEEE TIP 13(4), 2004, with a uniform window of 7 pixels.
    """
    from skimage.metrics import structural_similarity

    seen, truth, data_range = _prepare(image, reference, modality)
    if min(seen.shape[1:]) < SSIM_WINDOW:
        raise ShapeError(
            f"SSIM needs slices of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, "
            f"got {seen.shape[1]}x{seen.shape[2]}; use psnr or nmse"
        )
    similarity: Callable[..., float] = structural_similarity
    scores = [
        similarity(t, s, data_range=data_range, win_size=SSIM_WINDOW)
        for s, t in zip(seen, truth, strict=True)
    ]
    return float(np.mean(scores))


def nmse(image: NDArray[Any], reference: NDArray[Any], modality: Modality) -> float:
    """Compute the squared error over the reference's energy; 0 where the images are equal.

    Parameters and errors are those of `psnr`. CT is scored above air (HU + 1000).
    """
    from skimage.metrics import normalized_root_mse

    seen, truth, _ = _prepare(image, reference, modality)
    return float(normalized_root_mse(truth, seen, normalization="euclidean")) ** 2


def score(image: NDArray[Any], reference: NDArray[Any], modality: Modality) -> ImageScores:
    """Compute all three scores; parameters and errors as `psnr` and `ssim`."""
    return ImageScores(
        psnr(image, reference, modality),
        ssim(image, reference, modality),
        nmse(image, reference, modality),
    )


def _prepare(
    image: NDArray[Any], reference: NDArray[Any], modality: Modality
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    if image.shape != reference.shape or image.ndim not in (2, 3):
        raise ShapeError(
            f"image {image.shape} and reference {reference.shape} cannot be compared; "
            "give two (H, W) or two (slices, H, W) arrays of one shape"
        )
    seen, truth = _as_volume(image, modality), _as_volume(reference, modality)
    for name, values in (("image", seen), ("reference", truth)):
        if not np.isfinite(values).all():
            raise ScanDataError(f"the {name} holds NaN or infinite values; it cannot be scored")
    if modality == "ct":
        low, high = CT_WINDOW_HU
        seen, truth = np.clip(seen, low, high) - low, np.clip(truth, low, high) - low
        data_range = high - low
    else:
        data_range = float(truth.max(initial=0.0))
    if not truth.any():
        raise ScanDataError(
            "the reference holds no signal (every value is zero, or air); give another reference"
        )
    return seen, truth, data_range


def _as_volume(values: NDArray[Any], modality: Modality) -> NDArray[np.float64]:
    if np.iscomplexobj(values) or modality == "mr":
        values = np.abs(values)
    volume = values.astype(np.float64)
    return volume if volume.ndim == 3 else volume[np.newaxis]
