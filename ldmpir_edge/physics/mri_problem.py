"""From prepared k-space to the engine's problem, for one slice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.physics.conjugate_gradient import iterate
from ldmpir_edge.physics.fourier import dft_matrix
from ldmpir_edge.physics.linear_op import Array
from ldmpir_edge.physics.padding import pad_image, to_planes
from ldmpir_edge.physics.preconditioner import (
    circulant_of_pixels,
    density_of_halves,
    diagonal,
    half_transforms,
    sampling_density,
)
from ldmpir_edge.physics.problem import BRIGHT_PERCENTILE, Family, Problem, mr_scaling
from ldmpir_edge.physics.smoothing import smooth
from ldmpir_edge.physics.total_variation import EdgePenalty

PASSES = (3, 3, 5)
"""Conjugate-gradient iterations of each pass of the classical estimate, preconditioned by the
sampling density."""
PASSES_2D = (4, 4, 6)
"""The same for 2-D masks, preconditioned by the diagonal alone."""
EDGE_SMOOTHING = (0.02, 0.01)
"""ε of the passes for total variation that follow, the image's bright end being 1."""
EDGE_ITERATIONS = 4
EDGE_FLOOR, EDGE_NOISE, EDGE_NOISE_SQUARED = 2e-4, 0.15, 5.0
"""Their λ = EDGE_FLOOR + EDGE_NOISE · noise + EDGE_NOISE_SQUARED · noise². At a noise of 0.006,
0.03 and 0.09 of the bright end, 0.15, 0.3 and 0.6 times the noise were best."""
LARGEST_EDGE_WEIGHT = 0.1
"""Of λ, which would else rise as the image fades in a slice that is noise alone."""
RELATIVE_ERROR = 3e-3
NOISE_WEIGHT = 6.0
"""λ = RELATIVE_ERROR + NOISE_WEIGHT · noise², the image's bright end being 1."""
LARGEST_WEIGHT = 0.5
"""Of λ: where noise is a third of the bright end, more of it would damp the image, which would then
be less bright beside the noise, and be damped more in the next pass, until nothing is left."""
FAINTEST = 0.05
"""Of the bright end: below it all pixels are equally likely to be changed."""
CARRIED = 0.5
"""Share of the pass before that a pass is drawn to: at 0 faint tissue comes out 5 % too dark in a
scan that hardly needs a prior, at 1 aliasing is kept (2 dB at R = 4)."""
FIRST_BLUR, BLUR = 4.0, 1.0
"""Standard deviations, in pixels, of what smooths the magnitudes."""
COLUMN_MULTIPLE = 8


def build_mri_problem(
    kspace: NDArray[np.complex64],
    csm: NDArray[np.complex64],
    mask: NDArray[np.float32],
    noise_level: float,
    *,
    hybrid: bool,
) -> Problem:
    """State the reconstruction of one Cartesian slice as normal equations.

    Parameters
    ----------
    kspace
        `(coils, readout, phase_encode)` complex, whitened; zero where not sampled. With
        `hybrid`, already transformed along readout.
    csm
        Same shape, complex coil sensitivity maps with Σ|S|² = 1 inside the object.
    mask
        `(phase_encode,)`, or `(readout, phase_encode)` for a mask that varies along readout.
    noise_level
        Standard deviation of the noise per real component of `kspace`.
    hybrid
        Whether the readout axis is an image axis.

    Returns
    -------
        A `cartesian1d` problem for a 1-D mask, a `separable` one for a 2-D mask. `x1` is
        CG-SENSE with priors of magnitude and few edges; see `reweighted_sense`.

    Raises
    ------
    ShapeError
        k-space, maps and mask do not fit together.
    ScanDataError
        The mask is empty.
    """
    op = CartesianOp(csm, mask, hybrid=hybrid)
    measured = kspace[..., mask != 0].astype(np.complex128)
    adjoint = op.adjoint(kspace)
    x1 = reweighted_sense(op, adjoint, noise_level)
    family, tables = _tables(csm, mask)
    height, width = op.domain_shape
    scale = mr_scaling(x1)
    sampled = int(np.count_nonzero(mask)) * (height if mask.ndim == 1 else 1)
    return Problem(
        family=family,
        task="mri",
        modality="mr",
        b=pad_image(to_planes(adjoint / np.float32(scale))),
        x1=pad_image(to_planes(x1 / np.float32(scale))),
        noise_level=noise_level / scale,
        tables=tables,
        scale=scale,
        crop=(0, 0, height, width),
        measurement_energy=float(np.vdot(measured, measured).real) / scale**2,
        n_measurements=2 * sampled * csm.shape[0],
    )


def reweighted_sense(
    op: CartesianOp, adjoint: NDArray[np.complex64], noise_level: float
) -> NDArray[np.complex64]:
    """Reconstruct by CG-SENSE that expects more where the image is brighter, and few edges.

    Each pass minimises ‖A x − y‖² + λ Σ |x − x₀ / 2|² / m² by preconditioned conjugate gradients,
    x₀ being the pass before and m its smoothed magnitude: what aliases from the bright scalp is
    put back there, and not into the brain. For plain CG-SENSE m is 1 and x₀ is 0. The last passes
    have 2 λ Σ √(|∇x|² + ε²) in its place: see `EdgePenalty`.

    The complex operator with its fast transforms takes 60 % of the time of the engine's matrix
    products for a 1-D mask, and an eighth for a 2-D one.

    Parameters
    ----------
    op
        A.
    adjoint
        Aᴴy, `(H, W)` complex64.
    noise_level
        Standard deviation of the noise per real component of y.

    Returns
    -------
        x, `(H, W)` complex64.

    Source: Pruessmann et al., MRM 46(4), 2001; Gorodnitsky and Rao, "FOCUSS", IEEE TSP 45(3),
    1997; Jung et al., "k-t FOCUSS", MRM 61(1), 2009; Block et al., "Undersampled radial MRI with
    multiple coils", MRM 57(6), 2007 (total variation).
    """
    # The solver is real: it is shown the real and imaginary parts as an axis of their own.
    shape = (1, *adjoint.shape, 2)

    def as_real(image: NDArray[np.complex64]) -> NDArray[np.float32]:
        return np.ascontiguousarray(image, np.complex64).view(np.float32).reshape(shape)

    def as_complex(parts: NDArray[np.float32]) -> NDArray[np.complex64]:
        return parts.view(np.complex64)[0, ..., 0]

    # In units of the image, so that a scan of any scale gives the same.
    unit = float(np.abs(adjoint).max()) or 1.0
    # The diagonal of AᴴA is the share of samples where the maps have unit norm.
    mean_density = float(np.mean(op.mask))
    density = sampling_density(op.csm, op.mask) if op.mask.ndim == 1 else None
    # Each pass solves for the change of x, from zero: what is left of the data is carried along,
    # which spares each later pass an application of AᴴA.
    left = as_real(adjoint / np.float32(unit))
    seen, x = left, np.zeros_like(left)

    def solve(
        penalise: Callable[[Array], Array], spread: Array, pull: Array, n_iterations: int
    ) -> None:
        """Add the change that N = AᴴA + `penalise`, of diagonal `spread`, owes to left − `pull`."""
        nonlocal left, x

        def normal(v: Array) -> Array:
            return as_real(op.gram(as_complex(v))) + penalise(v)

        goal = left - pull
        precondition = (
            diagonal(spread, mean_density)
            if density is None
            else circulant_of_pixels(spread[None], seen, density, mean_density)
        )
        change, unsolved = iterate(normal, goal, None, n_iterations, precondition)
        left = left - (goal - unsolved - penalise(change))
        x = x + change

    for number, n_iterations in enumerate(PASSES_2D if density is None else PASSES):
        penalty = _penalty(seen[0], noise_level / unit, BLUR if number else FIRST_BLUR)
        solve(partial(np.multiply, penalty), penalty, (1 - CARRIED) * penalty * x, n_iterations)
        seen = x
    bright = mr_scaling(as_complex(x))
    noise = noise_level / (unit * bright)
    weight = EDGE_FLOOR + EDGE_NOISE * noise + EDGE_NOISE_SQUARED * noise**2
    weight = bright * min(weight, LARGEST_EDGE_WEIGHT)
    for edge in EDGE_SMOOTHING:
        edges = EdgePenalty(as_complex(x), weight, edge * bright)

        def smoothed(v: Array, edges: EdgePenalty = edges) -> Array:
            return as_real(edges(as_complex(v)))

        both_parts = np.repeat(edges.diagonal[..., None], 2, axis=-1)
        solve(smoothed, both_parts, smoothed(x), EDGE_ITERATIONS)
        seen = x
    return as_complex(x) * np.float32(unit)


def _penalty(parts: NDArray[np.float32], noise_level: float, blur: float) -> NDArray[np.float32]:
    """Return λ / m² for an image `(H, W, 2)`, in its shape: numpy is slow at axes of two."""
    magnitude = smooth(np.hypot(parts[..., 0], parts[..., 1]), blur)
    bright = float(np.percentile(magnitude, BRIGHT_PERCENTILE)) or 1.0
    expected = np.maximum(magnitude / np.float32(bright), np.float32(FAINTEST))
    weight = min(RELATIVE_ERROR + NOISE_WEIGHT * (noise_level / bright) ** 2, LARGEST_WEIGHT)
    penalty: NDArray[np.float32] = np.float32(weight) / expected**2
    return np.repeat(penalty[..., None], 2, axis=-1)


def _tables(
    csm: NDArray[np.complex64], mask: NDArray[np.float32]
) -> tuple[Family, dict[str, NDArray[np.generic]]]:
    height, width = csm.shape[-2:]
    maps = pad_image(csm)
    padded_height, padded_width = maps.shape[-2:]
    if mask.ndim == 1:
        half = padded_width // 2
        left, right = maps[..., :half], maps[..., : half - 1 : -1]
        csm_halves = np.stack([left.real, left.imag, right.real, right.imag], dtype=np.float32)
        cos, sin = _half_dft(mask, half)
        all_cos, all_sin = half_transforms(padded_width)
        return "cartesian1d", {
            "csm_halves": csm_halves,
            "cos": cos,
            "sin": sin,
            "density": density_of_halves(sampling_density(csm, mask), padded_width),
            "all_cos": all_cos,
            "all_sin": all_sin,
        }
    columns = dft_matrix(width)
    left = np.zeros((height, padded_height), np.complex64)
    left[:, :height] = dft_matrix(height)
    right = np.zeros((padded_width, width), np.complex64)
    right[:width] = columns.T
    pairs = {
        name: np.stack([m.real, m.imag], axis=-1).astype(np.float32)
        for name, m in (("left", left), ("right", right))
    }
    return "separable", {"csm": to_planes(maps), **pairs, "mask": mask.astype(np.float32)}


def _half_dft(
    mask: NDArray[np.float32], half: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines `(half, n)` of the orthonormal DFT about the padded row's middle.

    n is the number of sampled columns, filled up with zeros to a multiple of 8, which the
    engines' vector units like.
    """
    width = len(mask)
    sampled = np.flatnonzero(mask) - width // 2
    position = np.arange(half) - (half - 0.5)
    angle = 2 * np.pi / width * np.outer(position, sampled)
    spare = np.zeros((half, -len(sampled) % COLUMN_MULTIPLE))
    cos, sin = (np.hstack([f(angle) / np.sqrt(width), spare]) for f in (np.cos, np.sin))
    return cos.astype(np.float32), sin.astype(np.float32)
