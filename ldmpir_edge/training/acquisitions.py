"""Simulated acquisitions: a clean image becomes an engine problem and its target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.physics.ct_problem import build_ct_problem
from ldmpir_edge.physics.fbp import fbp
from ldmpir_edge.physics.fourier import centred_ifft
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.image_problem import (
    build_denoise_problem,
    build_inpaint_problem,
    build_superresolution_problem,
)
from ldmpir_edge.physics.masks import column_mask, partial_fourier, variable_density_mask
from ldmpir_edge.physics.mri_problem import build_mri_problem
from ldmpir_edge.physics.noise import add_gaussian, add_poisson_gaussian
from ldmpir_edge.physics.padding import pad_image, to_planes
from ldmpir_edge.physics.problem import HU_SCALE, Modality, Problem
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.physics.superresolution import BlurDecimateOp
from ldmpir_edge.scans.coil_maps import estimate_coil_maps
from ldmpir_edge.scans.coils import random_phase, simulate_coil_maps
from ldmpir_edge.training.augment import block_means
from ldmpir_edge.training.recipe import TrainingTask

MU_WATER_PER_MM = 0.0192
CT_FINER = 2
"""Pixels of an image that is projected across one that is reconstructed. On the same grid the data
would be what the model's own operator makes, as no scanner's are."""


@dataclass(frozen=True)
class Example:
    """A problem and the `(2, H, W)` float32 image, in engine units, that solves it.

    `spots` `(H, W)` is 1 where small discs changed the image that it was made of, or a share.
    """

    problem: Problem
    target: NDArray[np.float32]
    spots: NDArray[np.float32] | None = None


P_FBP_NOISE = 0.4
"""Share of the CT images to denoise whose noise went through a reconstruction."""
P_MISSING = (0.5, 0.25, 0.25)
"""Shares of pixels, columns and rectangles among what is to inpaint."""
OWN_NOISE = 1.3
"""An estimate of the noise of an image with noise added may be this many times what was added."""

FINER: dict[TrainingTask, int] = {"ct": CT_FINER, "ct-fan": CT_FINER}
"""How many times as fine as what is reconstructed a task's simulator wants its image, if not 1."""

Simulator = Callable[[NDArray[np.float32], Modality, np.random.Generator], Example]


def simulate_mri_columns(
    image: NDArray[np.float32], modality: Modality, rng: np.random.Generator
) -> Example:
    """Acquire with a 1-D phase-encode mask: single or multi coil, at times partial Fourier."""
    n_coils = int(rng.choice([1, 1, 4, 6, 8, 8, 8, 8]))
    width = image.shape[1]
    top_acceleration = 6.0 if n_coils == 1 else 10.0
    acceleration = float(np.exp(np.log(2.0) + np.log(top_acceleration / 2) * rng.random() ** 0.8))
    n_acs = int(rng.integers(round(0.06 * width), round(0.12 * width)))
    mask = column_mask(
        width, acceleration, n_acs, "random" if rng.random() < 0.5 else "equispaced", rng
    )
    if rng.random() < 0.15:
        mask = partial_fourier(mask, float(rng.uniform(0.6, 0.9)))
    return acquire_mri(image, mask, n_coils, n_acs, _noise_level(rng), rng)


def simulate_mri_2d(
    image: NDArray[np.float32], modality: Modality, rng: np.random.Generator
) -> Example:
    """Acquire with a variable-density 2-D mask."""
    n_coils = int(rng.choice([1, 4, 8]))
    acceleration = float(np.exp(rng.uniform(np.log(3.0), np.log(12.0))))
    n_acs = int(rng.integers(16, 28))
    height, width = image.shape
    mask = variable_density_mask((height, width), acceleration, n_acs, rng)
    return acquire_mri(image, mask, n_coils, n_acs, _noise_level(rng), rng)


def _noise_level(rng: np.random.Generator) -> float:
    # Scans of low field need the range's noisy end, but most of their share went to denoising what
    # sampling had not hurt: half now have less than 4.4e-3, a quarter over 1.4e-2.
    low, high = np.log(1e-3), np.log(5e-2)
    return float(np.exp(low + (high - low) * rng.random() ** 1.4))


def acquire_mri(
    image: NDArray[np.float32],
    mask: NDArray[np.float32],
    n_coils: int,
    n_acs: int,
    noise_level: float,
    rng: np.random.Generator,
) -> Example:
    """Acquire with simulated coils, whose maps are estimated as a scan's would be.

    Parameters
    ----------
    image
        `(H, W)` magnitude in any unit.
    mask
        `(W,)` phase-encode columns or `(H, W)` samples.
    n_coils, n_acs
        Coils, and autocalibration lines that the mask holds.
    noise_level
        Standard deviation per real component of k-space, in the image's unit.
    rng
        Draws phase, coil maps and noise.
    """
    shape = (image.shape[0], image.shape[1])
    x = (image * random_phase(shape, rng)).astype(np.complex64)
    true_maps = (
        simulate_coil_maps(shape, n_coils, rng)
        if n_coils > 1
        else np.ones((1, *shape), np.complex64)
    )
    coil_images = true_maps * x
    op = CartesianOp(true_maps, mask)
    kspace = op.mask * add_gaussian(op.forward(x), noise_level, rng).astype(np.complex64)
    # The maps are estimated from the lines that a scan would have, as in deployment.
    csm = estimate_coil_maps(_centre(kspace, n_acs, mask.ndim), shape) if n_coils > 1 else true_maps
    hybrid = mask.ndim == 1
    if hybrid:
        kspace = centred_ifft(kspace, (-2,))
    problem = build_mri_problem(kspace, csm, mask, noise_level, hybrid=hybrid)
    combined = np.sum(np.conj(csm) * coil_images, axis=0) / problem.scale
    return Example(problem, to_planes(pad_image(combined)))


def _centre(kspace: NDArray[np.complex64], n_acs: int, mask_ndim: int) -> NDArray[np.complex64]:
    height, width = kspace.shape[-2:]
    lines = min(n_acs, width)
    readout = min(height, 32) if mask_ndim == 1 else lines
    top, left = (height - readout + 1) // 2, (width - lines + 1) // 2
    return kspace[:, top : top + readout, left : left + lines]


def simulate_ct(
    image: NDArray[np.float32], modality: Modality, rng: np.random.Generator
) -> Example:
    """Project a HU image in parallel beam: sparse views, few photons or a limited angle."""
    size = image.shape[0] // CT_FINER
    n_views = int(np.exp(rng.uniform(np.log(40), np.log(240))))
    span = np.pi if rng.random() < 0.7 else rng.uniform(0.5, 0.95) * np.pi
    spacing_mm = float(rng.uniform(0.6, 1.0) * 512 / size)
    pitch = spacing_mm * float(rng.choice([1.0, 1.0, 1.25]))
    geometry = RadonGeometry(
        kind="parallel",
        angles_rad=np.arange(n_views) * span / n_views + rng.uniform(0, np.pi),
        n_detectors=int(np.ceil(1.42 * size * spacing_mm / pitch)),
        detector_spacing_mm=pitch,
    )
    return acquire_ct(image, geometry, spacing_mm, _photons(rng), rng)


def simulate_fan_ct(
    image: NDArray[np.float32], modality: Modality, rng: np.random.Generator
) -> Example:
    """Project a HU image in fan beam over a full turn, with sparse views."""
    size = image.shape[0] // CT_FINER
    n_views = int(rng.integers(40, 120))
    spacing_mm = float(rng.uniform(0.6, 1.0) * 512 / size)
    pitch = 2 * spacing_mm
    # The magnified diagonal of the image must fall on the detector: 2.4 tan(asin(√½ / 1.2)).
    n_detectors = int(np.ceil(1.76 * 2 * size * spacing_mm / pitch))
    geometry = RadonGeometry(
        kind="fan-equidistant",
        angles_rad=np.arange(n_views) * 2 * np.pi / n_views,
        n_detectors=n_detectors,
        detector_spacing_mm=pitch,
        source_origin_mm=1.2 * size * spacing_mm,
        origin_detector_mm=1.2 * size * spacing_mm,
    )
    return acquire_ct(image, geometry, spacing_mm, _photons(rng), rng)


def _photons(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(8e3), np.log(1e6))))


def acquire_ct(
    image: NDArray[np.float32],
    geometry: RadonGeometry,
    spacing_mm: float,
    photons: float,
    rng: np.random.Generator,
) -> Example:
    """Project an image in HU, `CT_FINER` times as fine as the one that is reconstructed.

    Parameters
    ----------
    image
        `(CT_FINER · H, CT_FINER · W)`; the target's pixels are its means over squares.
    geometry
        The scan.
    spacing_mm
        Edge of the reconstructed pixels.
    photons
        That reach a detector pixel without an object.
    rng
        Draws the noise.
    """
    attenuation = np.maximum(image / 1000 + 1, 0) * MU_WATER_PER_MM
    ideal = RadonOp(geometry, attenuation.shape, spacing_mm / CT_FINER).forward(
        attenuation.astype(np.float32)
    )
    image = block_means(image, CT_FINER)
    shape = (image.shape[0], image.shape[1])
    sinogram = add_poisson_gaussian(ideal, photons, 5.0, rng).astype(np.float32)
    problem = build_ct_problem(
        sinogram,
        geometry,
        shape,
        spacing_mm,
        mu_water_per_mm=MU_WATER_PER_MM,
        photons=photons,
    )
    return Example(problem, _target(image, problem))


def simulate_denoise(
    image: NDArray[np.float32], modality: Modality, rng: np.random.Generator
) -> Example:
    """Add Gaussian noise, or Rician (MR), or that of filtered back-projection (CT)."""
    scale = HU_SCALE if modality == "ct" else 1.0
    level = scale * float(np.exp(rng.uniform(np.log(4e-3), np.log(0.15))))
    noisy: NDArray[np.inexact]
    if modality == "ct" and rng.random() < P_FBP_NOISE:
        noise = fbp_noise(image, rng)
        noisy, level = image + noise, float(noise.std())
    elif modality == "mr" and rng.random() < 0.5:
        noisy = np.abs(add_gaussian(image.astype(np.complex64), level, rng))
    else:
        noisy = add_gaussian(image, level, rng)
    known = None if rng.random() < 0.5 else level
    problem = build_denoise_problem(noisy.astype(np.float32), modality, known)
    # Noise that an image brought along stays in the target: who is told of it must not keep it.
    if problem.noise_level * problem.scale > OWN_NOISE * level:
        problem = build_denoise_problem(noisy.astype(np.float32), modality, level)
    return Example(problem, _target(image, problem))


def fbp_noise(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the noise, in HU, that photon counting leaves in a filtered back-projection.

    It is not white: high frequencies have most of it, and it lies in streaks along dense rays.

    Parameters
    ----------
    image
        `(H, W)` HU.
    rng
        Draws the scan, its photons and the noise.
    """
    shape = (image.shape[0], image.shape[1])
    spacing_mm = float(rng.uniform(0.6, 1.0) * 512 / max(shape))
    n_views = int(rng.integers(180, 360))
    geometry = RadonGeometry(
        kind="parallel",
        angles_rad=np.arange(n_views) * np.pi / n_views,
        n_detectors=int(np.ceil(1.42 * max(shape))),
        detector_spacing_mm=spacing_mm,
    )
    attenuation = (np.maximum(image / 1000 + 1, 0) * MU_WATER_PER_MM).astype(np.float32)
    ideal = RadonOp(geometry, shape, spacing_mm).forward(attenuation)
    change = add_poisson_gaussian(ideal, _photons(rng), 5.0, rng) - ideal
    noise = fbp(change.astype(np.float32), geometry, shape, spacing_mm)
    hu: NDArray[np.float32] = noise / np.float32(MU_WATER_PER_MM) * np.float32(1000)
    return hu


def simulate_inpaint(
    image: NDArray[np.float32], modality: Modality, rng: np.random.Generator
) -> Example:
    """Lose random pixels, a few columns, or rectangles."""
    known = np.ones(image.shape, bool)
    kind = rng.choice(3, p=P_MISSING)
    if kind == 0:
        known = rng.random(image.shape) > rng.uniform(0.1, 0.7)
    elif kind == 1:
        known[:, rng.random(image.shape[1]) < rng.uniform(0.02, 0.15)] = False
    else:
        largest = min(24, min(image.shape) // 2)
        for _ in range(rng.integers(1, 6)):
            y, x = (int(rng.integers(0, n - largest)) for n in image.shape)
            height, width = (int(n) for n in rng.integers(largest // 6, largest, 2))
            known[y : y + height, x : x + width] = False
    problem = build_inpaint_problem(image, known, modality)
    return Example(problem, _target(image, problem))


def simulate_superresolution(
    image: NDArray[np.float32], modality: Modality, rng: np.random.Generator
) -> Example:
    """Blur and decimate by 2 or 4."""
    return acquire_coarse(image, modality, 2 if rng.random() < 0.7 else 4, rng)


def acquire_coarse(
    image: NDArray[np.float32], modality: Modality, factor: int, rng: np.random.Generator
) -> Example:
    """Blur and decimate an `(H, W)` image by `factor`, and add a little noise."""
    shape = (image.shape[0], image.shape[1])
    coarse = BlurDecimateOp(shape, factor).forward(image.astype(np.float64))
    level = float(np.exp(rng.uniform(np.log(1e-3), np.log(1e-2))))
    level *= HU_SCALE if modality == "ct" else 1.0
    noisy = add_gaussian(coarse, level, rng).astype(np.float32)
    problem = build_superresolution_problem(noisy, factor, modality, level)
    return Example(problem, _target(image, problem))


def _target(image: NDArray[np.float32], problem: Problem) -> NDArray[np.float32]:
    """Bring a real image to the problem's units and padded grid."""
    return to_planes(on_grid((image - problem.offset) / problem.scale, problem))


def on_grid(image: NDArray[np.float32], problem: Problem) -> NDArray[np.float32]:
    """Pad an `(h, w)` image with zeros to the problem's grid."""
    height, width = problem.x1.shape[-2:]
    top, left, h, w = problem.crop or (0, 0, height, width)
    padded: NDArray[np.float32] = np.pad(image, ((top, height - h - top), (left, width - w - left)))
    return padded


SIMULATORS: dict[TrainingTask, Simulator] = {
    "mri-columns": simulate_mri_columns,
    "mri-2d": simulate_mri_2d,
    "ct": simulate_ct,
    "ct-fan": simulate_fan_ct,
    "denoise": simulate_denoise,
    "inpaint": simulate_inpaint,
    "super-resolve": simulate_superresolution,
}
