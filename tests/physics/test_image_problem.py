from __future__ import annotations

import numpy as np
import pytest
from ellipses import pixelated
from skimage.restoration import inpaint_biharmonic

from ldmpir_edge.physics.image_problem import (
    build_denoise_problem,
    build_inpaint_problem,
    build_superresolution_problem,
    fill_missing,
    flatten_missing,
    non_local_means,
)
from ldmpir_edge.physics.superresolution import BlurDecimateOp


def smooth_image(shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (1 + np.sin(rows / 5) * np.cos(columns / 7)).astype(np.float32)


def test_missing_pixels_bend_as_little_as_those_of_another_library(rng):
    image = smooth_image((40, 48))
    known = rng.random(image.shape) > 0.3
    # At the edges scikit-image has other differences.
    known[:3] = known[-3:] = known[:, :3] = known[:, -3:] = True
    filled = fill_missing(np.where(known, image, 0), known)
    flat = flatten_missing(filled, known)
    expected = inpaint_biharmonic(image, ~known)
    np.testing.assert_array_equal(flat[known], image[known])
    assert np.linalg.norm(flat - expected) < 0.02 * np.linalg.norm(filled - expected)
    assert np.linalg.norm(flat - image) < 0.1 * np.linalg.norm(filled - image)


def test_large_holes_are_no_worse_for_being_bent(rng):
    image = smooth_image((64, 64))
    known = np.ones(image.shape, bool)
    known[10:40, 20:44] = False
    filled = fill_missing(np.where(known, image, 0), known)
    flat = flatten_missing(filled, known)
    assert np.linalg.norm(flat - image) < np.linalg.norm(filled - image)


def test_the_start_of_inpainting_and_what_it_was_made_from(rng):
    image = 300 * smooth_image((32, 32))
    known = rng.random(image.shape) > 0.3
    problem = build_inpaint_problem(image, known, "mr")
    filled = fill_missing(np.where(known, image, 0), known)
    np.testing.assert_allclose(problem.unreconstructed[0] * problem.scale, filled, rtol=1e-4)
    np.testing.assert_allclose(
        problem.x1[0] * problem.scale, flatten_missing(filled, known), rtol=1e-3, atol=0.1
    )


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("factor", [2, 4])
def test_a_classical_enlargement_is_sharper_than_interpolation(factor, noise, rng):
    truth = pixelated((96, 96), 1.0).astype(np.float32) * 50
    coarse = BlurDecimateOp(truth.shape, factor).forward(truth.astype(np.float64))
    coarse += noise * truth.max() * rng.standard_normal(coarse.shape)
    problem = build_superresolution_problem(coarse.astype(np.float32), factor, "mr")
    error, interpolated = (
        np.linalg.norm(planes[0] * problem.scale - truth)
        for planes in (problem.x1, problem.unreconstructed)
    )
    assert error < (0.85 if noise < 0.1 else 1.0) * interpolated


@pytest.mark.parametrize("task", ["inpaint", "super-resolve"])
def test_the_start_is_nowhere_lighter_than_air(task, rng):
    """Sharp edges make both overshoot."""
    hu = np.full((32, 32), -1000, np.float32)
    hu[8:20, 8:24] = 1500
    if task == "inpaint":
        problem = build_inpaint_problem(hu, rng.random(hu.shape) > 0.4, "ct")
    else:
        problem = build_superresolution_problem(hu, 2, "ct")
        assert problem.unreconstructed.min() < 0
    assert problem.x1.min() >= 0


@pytest.mark.parametrize("modality", ["mr", "ct"])
@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_the_start_of_denoising_is_nearer_to_the_object_than_its_input(modality, noise, rng):
    truth = pixelated((96, 90), 1.0).astype(np.float32) / 0.03
    truth = 2000 * truth - 1000 if modality == "ct" else 300 * truth
    unit = 2000 if modality == "ct" else float(truth.max())
    noisy = (truth + noise * unit * rng.standard_normal(truth.shape)).astype(np.float32)
    problem = build_denoise_problem(noisy, modality)
    before, after = (
        np.linalg.norm(planes[0, :96, :90] * problem.scale + problem.offset - truth)
        for planes in (problem.b, problem.x1)
    )
    assert after < 0.6 * before
    # What was measured stays in b, and is shown beside it.
    shown = problem.unreconstructed[0, :96, :90] * problem.scale + problem.offset
    np.testing.assert_allclose(shown, noisy, atol=1e-3 * unit)


def test_an_image_without_noise_starts_as_it_is():
    image = smooth_image((32, 32))
    np.testing.assert_array_equal(non_local_means(image, 0.0), image)
    problem = build_denoise_problem(np.zeros((16, 16), np.float32), "mr")
    assert not problem.x1.any()


@pytest.mark.parametrize("shape", [(1, 20), (20, 1), (2, 2)])
def test_narrow_images_keep_their_shape(shape, rng):
    image = rng.random(shape).astype(np.float32)
    smooth = non_local_means(image, 0.1)
    assert smooth.shape == shape
    assert smooth.dtype == np.float32
    assert np.isfinite(smooth).all()
