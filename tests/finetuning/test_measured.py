"""What updates see, what is kept back, and what is measured anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldmpir_edge.finetuning.kspace import MeasuredKspace
from ldmpir_edge.finetuning.measured import DividedSlice, folds
from ldmpir_edge.finetuning.moves import Move, random_move
from ldmpir_edge.finetuning.scans import load_scans
from ldmpir_edge.finetuning.sinogram import MeasuredSinogram
from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.physics.noise import add_gaussian, add_poisson_gaussian
from ldmpir_edge.physics.padding import from_planes, pad_image

LEVEL = 0.01


def first(site, kind):
    return load_scans(site(kind), "equivariant").slices[0].measured


def test_every_part_is_in_one_fold(rng):
    parts = np.sum(folds(37, 8, rng), axis=0)
    assert np.array_equal(parts, np.ones(37))


def test_lines_kept_back_are_not_in_what_is_shown(site, rng):
    """Changing the lines that are kept back changes nothing that an update sees."""
    measured = first(site, "mri")
    kept_back = folds(measured.n_parts, 8, rng)[0]
    before = measured.shown(~kept_back)
    m = measured.measurement
    whole = {tuple(i) for i in np.argwhere(m.mask != 0)}
    seen = {tuple(i) for i in np.argwhere(measured._mask(kept_back) == 1)}
    assert seen < whole
    m.data[..., measured._mask(kept_back) == 1] = 1e3
    after = measured.shown(~kept_back)
    assert np.array_equal(before.b, after.b)
    assert np.array_equal(before.x1, after.x1)


@pytest.mark.parametrize("kind", ["mri", "ct"])
def test_shown_and_kept_back_make_the_whole(site, rng, kind):
    measured = first(site, kind)
    assert isinstance(measured, DividedSlice)
    parts = folds(measured.n_parts, 2, rng)[0]
    rest, shown, whole = measured.only(parts), measured.shown(~parts), measured.problem
    assert rest.n_measurements + shown.n_measurements == whole.n_measurements
    if kind == "mri":
        total = rest.b * rest.scale + shown.b * shown.scale
        np.testing.assert_allclose(total, whole.b * whole.scale, rtol=0, atol=1e-5 * total.max())


@pytest.mark.parametrize("kind", ["mri", "ct"])
def test_a_better_image_predicts_what_was_kept_back_better(site, rng, kind):
    measured = first(site, kind)
    kept_back = folds(measured.n_parts, 4, rng)[0]
    test = measured.prediction(kept_back, measured.shown(~kept_back))
    blank = test.error(lambda problem: np.zeros_like(problem.x1))
    classical = test.error(lambda problem: problem.x1)
    assert 0 < classical < 0.5 * blank


def test_the_true_image_is_wrong_by_the_noise_alone(site, rng):
    """The measurement is replaced by that of a known image."""
    m = first(site, "mri").measurement
    truth = rng.standard_normal((2, *m.csm.shape[1:])).astype(np.float32)
    image = from_planes(truth)
    op = CartesianOp(m.csm, m.mask, hybrid=True)
    data = op.mask * add_gaussian(op.forward(image), LEVEL, rng)
    measured = MeasuredKspace(replace(m, data=data.astype(np.complex64), noise_level=LEVEL))
    kept_back = folds(measured.n_parts, 2, rng)[0]
    seen = measured.shown(~kept_back)
    test = measured.prediction(kept_back, seen)
    error = test.error(lambda problem: pad_image(truth) / np.float32(problem.scale))
    assert error == pytest.approx(test.noise, rel=0.1)


def test_true_projections_are_wrong_by_the_photons_alone(site, rng):
    measured = first(site, "ct")
    truth = np.maximum(measured.problem.x1, 0)
    op = measured._op(measured.geometry)
    ideal = op.forward(truth[0] * np.float32(measured._unit))
    noisy = add_poisson_gaussian(ideal, measured.photons, 0.0, rng).astype(np.float32)
    remeasured = MeasuredSinogram(noisy, measured.scan)
    kept_back = folds(measured.n_parts, 2, rng)[0]
    test = remeasured.prediction(kept_back, remeasured.shown(~kept_back))
    assert test.error(lambda problem: truth) == pytest.approx(test.noise, rel=0.2)


@pytest.mark.parametrize("kind", ["mri", "ct", "image"])
def test_a_remeasured_image_is_measured_like_the_scan(site, rng, kind):
    measured = first(site, kind)
    example = measured.remeasure(measured.problem.x1, None, rng)
    problem, ours = example.problem, measured.problem
    assert problem.family == ours.family
    assert problem.n_measurements == ours.n_measurements
    total = problem.noise_level * (problem.scale if kind == "mri" else 1)
    assert total == pytest.approx(ours.noise_level, rel=0.2)
    # It is the same image: its classical estimate is near.
    relative = np.linalg.norm(problem.x1 - example.target) / np.linalg.norm(example.target)
    assert relative < (0.6 if kind == "image" else 0.4)


def test_a_move_takes_a_point_where_its_matrix_says(rng):
    move = Move(np.array([[0.0, 1.0], [1.0, 0.0]]), np.zeros(2), (9, 9))
    image = np.zeros((9, 9), np.complex64)
    image[2, 5] = 1 + 2j
    moved = move.image(image)
    assert moved.dtype == np.complex64
    assert np.argmax(np.abs(moved)) == 5 * 9 + 2
    assert moved[5, 2] == pytest.approx(1 + 2j, abs=1e-5)


def test_moved_maps_stay_normalised(site, rng):
    csm = first(site, "mri").measurement.csm
    moved = random_move(csm.shape[1:], rng).maps(csm)
    norm = np.sum(np.abs(moved) ** 2, axis=0)
    assert np.all((np.abs(norm - 1) < 1e-4) | (norm == 0))
    assert 0.3 < (norm > 0).mean() / (np.abs(csm).sum(axis=0) > 0).mean() < 1.7
