"""Denoising, inpainting and super-resolution of one real image as engine problems."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.physics.conjugate_gradient import iterate
from ldmpir_edge.physics.image_noise import (
    estimate_noise_level,
    rician_noise_level,
    without_rician_bias,
)
from ldmpir_edge.physics.linear_op import Array
from ldmpir_edge.physics.padding import pad_image, to_planes
from ldmpir_edge.physics.problem import HU_OFFSET, HU_SCALE, Modality, Problem, mr_scaling
from ldmpir_edge.physics.superresolution import decimation_matrix
from ldmpir_edge.physics.total_variation import (
    differences,
    differences_adjoint,
    lagged_diffusivity,
)

SUPERRESOLUTION_WEIGHT, SUPERRESOLUTION_NOISE_WEIGHT = 5e-4, 2.0
"""λ = the one + the other · noise² of total variation. From 1e-4 to 3e-3 an image of little noise
differs by 0.2 dB; without the second, noise of 3 % and more is amplified."""
SUPERRESOLUTION_ITERATIONS = 6
PATCH, REACH, ALIKE = 5, 6, 0.8
"""Non-local means: pixels of a patch's side, how far off patches are searched, and how far those
that still count differ, in noise levels."""
INPAINTING_ITERATIONS = 12
"""With a third of the pixels missing, 10 give what 60 give. Large holes mostly keep what filled
them."""


def build_denoise_problem(
    image: NDArray[np.float32], modality: Modality, noise_level: float | None = None
) -> Problem:
    """State the denoising of a real `(H, W)` image (HU for CT, any unit for MR).

    `noise_level` is the noise's standard deviation in the image's unit; None estimates it. An MR
    magnitude over a background of noise is first freed of the bias that the noise gives it: `b` is
    without it, `unreconstructed` the image as it came.
    """
    scale, offset = image_scaling(image, modality)
    scaled = ((image - offset) / scale).astype(np.float32)
    level = estimate_noise_level(scaled) if noise_level is None else noise_level / scale
    rician = rician_noise_level(scaled) if modality == "mr" else None
    unbiased = scaled
    if rician is not None:
        unbiased = without_rician_bias(scaled, rician)
        # A scanner's filters may have left less noise in the background than in the object.
        level = max(level, rician) if noise_level is None else level
    mask = np.ones_like(scaled)
    smooth = non_local_means(unbiased, level)
    problem = _pointwise(unbiased, mask, smooth, "denoise", modality, level, scale, offset)
    return replace(problem, unreconstructed=pad_image(to_planes(scaled)))


def build_inpaint_problem(
    image: NDArray[np.float32],
    known: NDArray[np.bool_],
    modality: Modality,
    noise_level: float | None = None,
) -> Problem:
    """State the filling of the pixels of a real `(H, W)` image where `known` is False.

    `noise_level` as for denoising; None takes that of a nearly noise-free image.

    Raises
    ------
    ScanDataError
        No pixel is known.
    """
    if not known.any():
        raise ScanDataError("no pixel is known: inpainting needs some; check which are NaN")
    scale, offset = image_scaling(image[known], modality)
    scaled = np.where(known, (image - offset) / scale, 0).astype(np.float32)
    filled = fill_missing(scaled, known)
    level = 1e-3 if noise_level is None else noise_level / scale
    mask = known.astype(np.float32)
    smooth = np.maximum(flatten_missing(filled, known), min(0.0, float(scaled.min())))
    problem = _pointwise(scaled, mask, smooth, "inpaint", modality, level, scale, offset)
    return replace(problem, unreconstructed=pad_image(to_planes(filled)))


def build_superresolution_problem(
    image: NDArray[np.float32],
    factor: int,
    modality: Modality,
    noise_level: float | None = None,
) -> Problem:
    """State the super-resolution of a real `(h, w)` image to `(h * factor, w * factor)`.

    The operator is divided by its norm, so that ‖A‖ = 1. `noise_level` as for denoising.

    Raises
    ------
    ShapeError
        `factor` is below 2.
    """
    from scipy import ndimage  # slow to import, and needed for images only
    from scipy.sparse import csr_array

    scale, offset = image_scaling(image, modality)
    scaled = ((image - offset) / scale).astype(np.float64)
    height, width = image.shape[0] * factor, image.shape[1] * factor
    left, right = decimation_matrix(height, factor), decimation_matrix(width, factor)
    norm = float(np.linalg.norm(left, 2) * np.linalg.norm(right, 2))
    left, right = left / np.sqrt(norm), right / np.sqrt(norm)
    y = scaled / norm
    b = left.T @ y @ right
    unreconstructed = ndimage.zoom(scaled, factor, order=3, mode="nearest", grid_mode=True)
    rows, columns = (csr_array((m.T @ m).astype(np.float32)) for m in (left, right))
    level = estimate_noise_level(scaled) if noise_level is None else noise_level / scale

    def normal(x: NDArray[np.float32]) -> NDArray[np.float32]:
        # The columns' matrix is symmetric, and a sparse one stands on the left.
        product: NDArray[np.float32] = (columns @ (rows @ x).T).T
        return product

    x1 = lagged_diffusivity(
        normal,
        b.astype(np.float32),
        unreconstructed.astype(np.float32),
        SUPERRESOLUTION_WEIGHT + SUPERRESOLUTION_NOISE_WEIGHT * (level / norm) ** 2,
        n_iterations=SUPERRESOLUTION_ITERATIONS,
        lowest=min(0.0, float(scaled.min())),
    )
    csm = np.ones((1, height, width), np.complex64)
    padded = pad_image(to_planes(csm))
    return Problem(
        family="separable",
        task="super-resolve",
        modality=modality,
        b=pad_image(to_planes(b)),
        x1=pad_image(to_planes(x1)),
        noise_level=float(level / norm),
        tables={
            "csm": padded,
            "left": _real_pairs(np.pad(left, ((0, 0), (0, padded.shape[-2] - height)))),
            "right": _real_pairs(np.pad(right, ((0, 0), (0, padded.shape[-1] - width))).T),
            "mask": np.ones(image.shape, np.float32),
        },
        scale=scale,
        offset=offset,
        crop=(0, 0, height, width),
        measurement_energy=float(np.sum(y**2)),
        n_measurements=y.size,
        unreconstructed=pad_image(to_planes(unreconstructed)),
    )


def image_scaling(image: NDArray[np.float32], modality: Modality) -> tuple[float, float]:
    """Return (scale, offset) of the scaling contract for an image's values."""
    return (HU_SCALE, HU_OFFSET) if modality == "ct" else (mr_scaling(image), 0.0)


def non_local_means(image: NDArray[np.float32], noise_level: float) -> NDArray[np.float32]:
    """Average the pixels of an `(H, W)` image whose surroundings look alike.

    `noise_level` is the standard deviation of white noise, in the image's unit; without noise the
    image is returned as it is. A network of few layers does not compare places far from each other.

    Source: Buades et al., CVPR 2005; Darbon et al., ISBI 2008.
    """
    from skimage.restoration import denoise_nl_means  # slow to import, and needed for images only

    if noise_level <= 0:
        return image
    smooth = denoise_nl_means(
        image,
        patch_size=PATCH,
        patch_distance=REACH,
        h=ALIKE * noise_level,
        sigma=noise_level,
        fast_mode=True,
    )
    # An axis of one is lost there.
    shaped: NDArray[np.float32] = smooth.reshape(image.shape)
    return shaped


def fill_missing(image: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fill unknown pixels by normalised Gaussian convolution, narrowest kernel that reaches.

    Source: Knutsson and Westin, "Normalized and differential convolution", CVPR 1993.
    """
    from scipy import ndimage  # slow to import, and needed for images only

    filled = np.where(known, image, 0).astype(np.float32)
    missing = ~known
    width = 0.7
    while missing.any():
        weight = ndimage.gaussian_filter(known.astype(np.float32), width)
        value = ndimage.gaussian_filter(np.where(known, image, 0).astype(np.float32), width)
        reached = missing & (weight > 0.05 if width < max(image.shape) else weight >= 0)
        filled[reached] = value[reached] / np.maximum(weight[reached], 1e-6)
        missing &= ~reached
        width *= 2
    return filled


def flatten_missing(filled: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Bend what fills unknown pixels as little as the known ones allow: minimise Σ |Δx|².

    By conjugate gradients from the filled `(H, W)` image; known pixels keep their values.

    Source: Chui and Mhaskar, "MRA contextual-recovery extension of smooth functions on manifolds",
    ACHA 28(1), 2010 (biharmonic inpainting).
    """
    free = (~known).astype(np.float32)

    def bend(v: Array) -> Array:
        return _minus_laplacian(_minus_laplacian(v[0, 0] * free))[None, None] * free

    pull = -_minus_laplacian(_minus_laplacian(filled)) * free
    change, _ = iterate(bend, pull[None, None], None, INPAINTING_ITERATIONS)
    flat: NDArray[np.float32] = filled + change[0, 0]
    return flat


def _minus_laplacian(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum the differences from the four neighbours; there are none beyond the edges."""
    laplacian: NDArray[np.float32] = differences_adjoint(*differences(x))
    return laplacian


def _pointwise(
    y: NDArray[np.float32],
    mask: NDArray[np.float32],
    x1: NDArray[np.float32],
    task: str,
    modality: Modality,
    noise_level: float,
    scale: float,
    offset: float,
) -> Problem:
    return Problem(
        family="pointwise",
        task="denoise" if task == "denoise" else "inpaint",
        modality=modality,
        b=pad_image(to_planes(y * mask)),
        x1=pad_image(to_planes(x1)),
        noise_level=float(noise_level),
        tables={"mask": pad_image(mask)},
        scale=scale,
        offset=offset,
        crop=(0, 0, y.shape[0], y.shape[1]),
        measurement_energy=float(np.sum((y.astype(np.float64) * mask) ** 2)),
        n_measurements=int(np.count_nonzero(mask)),
    )


def _real_pairs(matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.stack([matrix, np.zeros_like(matrix)], axis=-1).astype(np.float32)
