from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ellipses import analytic_sinogram, pixelated

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics import ct_problem
from ldmpir_edge.physics.ct_problem import build_ct_problem, view_note
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.noise import add_poisson_gaussian
from ldmpir_edge.physics.normal import NORMAL_OPERATORS
from ldmpir_edge.physics.rebin import rebin_to_parallel

MU_WATER = 0.02
TURN = 2 * np.pi
SCANS = {
    "parallel": RadonGeometry(
        "parallel", np.arange(90) * np.pi / 90, 150, detector_spacing_mm=0.9, detector_offset=0.25
    ),
    "flat fan": RadonGeometry(
        "fan-equidistant",
        np.arange(24) * TURN / 24,
        100,
        detector_spacing_mm=2.4,
        source_origin_mm=150.0,
        origin_detector_mm=120.0,
    ),
    "arc fan": RadonGeometry(
        "fan-equiangular",
        1 + np.arange(20) * TURN / 28,
        100,
        detector_spacing_rad=0.009,
        source_origin_mm=150.0,
    ),
}


def problem_of(name, shape=(105, 110), sinogram=None, photons=1e5):
    geometry = SCANS[name]
    if sinogram is None:
        sinogram = analytic_sinogram(geometry).astype(np.float32)
    return build_ct_problem(
        sinogram, geometry, shape, 1.0, mu_water_per_mm=MU_WATER, photons=photons
    )


def crop(planes, problem):
    top, left, height, width = problem.crop
    return planes[0, top : top + height, left : left + width]


def true_planes(problem):
    """The phantom on the padded grid, in engine units, where the crop's centre is the axis."""
    top, left, height, width = problem.crop
    rows, columns = problem.b.shape[1:]
    # Twice the grid's size around the axis, then cut: pixel centres fall on those of the crop.
    odd = (2 * rows + height % 2, 2 * columns + width % 2)
    wide = pixelated(odd, 1.0)
    first = ((odd[0] - height) // 2 - top, (odd[1] - width) // 2 - left)
    image = wide[first[0] : first[0] + rows, first[1] : first[1] + columns] / (2 * MU_WATER)
    return np.stack([image, np.zeros_like(image)]).astype(np.float32)


def apply_gram(problem, planes):
    return NORMAL_OPERATORS[problem.family](planes[None], problem.tables)[0]


def residual_energy(problem, planes):
    """‖A'x − y'‖² from the normal equations alone."""
    gram = apply_gram(problem, planes).astype(np.float64)
    cross = np.vdot(planes.astype(np.float64), problem.b)
    return problem.measurement_energy - 2 * cross + np.vdot(planes, gram)


@pytest.mark.parametrize("shape", [(105, 110), (112, 112), (97, 101)])
def test_the_crop_holds_the_slice_in_hounsfield_units(shape):
    problem = problem_of("parallel", shape)
    assert problem.family == "toeplitz"
    assert problem.b.shape == problem.x1.shape == (2, 112, 112)
    truth = pixelated(shape, 1.0) / MU_WATER * 1000 - 1000
    image = crop(problem.x1, problem) * problem.scale + problem.offset
    assert np.linalg.norm(image - truth) < 0.1 * np.linalg.norm(truth + 1000)
    for axis in (0, 1):
        errors = [np.linalg.norm(np.roll(image, step, axis) - truth) for step in (-1, 0, 1)]
        assert np.argmin(errors) == 1
        # A misplacement by half a pixel would make the neighbours' errors differ.
        assert errors[0] == pytest.approx(errors[2], rel=0.1)


@pytest.mark.parametrize("name", SCANS)
def test_the_true_slice_solves_the_normal_equations(name):
    problem = problem_of(name)
    assert problem.family == ("toeplitz" if name == "parallel" else "rays")
    assert problem.task == problem.modality == "ct"
    truth = true_planes(problem)
    gram = apply_gram(problem, truth)
    assert np.linalg.norm(gram - problem.b) < 0.05 * np.linalg.norm(problem.b)
    assert abs(residual_energy(problem, truth)) < 0.01 * problem.measurement_energy
    # Half a pixel off, the same slice must fit worse: the padding is placed exactly.
    shifted = (truth + np.roll(truth, 1, axis=2)) / 2
    worse = apply_gram(problem, shifted)
    assert np.linalg.norm(worse - problem.b) > np.linalg.norm(gram - problem.b)


@pytest.mark.parametrize("name", SCANS)
def test_noise_level_is_the_residual_that_noise_leaves(name, rng):
    clean = analytic_sinogram(SCANS[name]).astype(np.float32)
    noisy = add_poisson_gaussian(clean, 1e4, 0.0, rng)
    problem = problem_of(name, sinogram=noisy, photons=1e4)
    truth = true_planes(problem)
    added = residual_energy(problem, truth) - residual_energy(problem_of(name), truth)
    expected = problem.n_measurements * problem.noise_level**2
    assert added == pytest.approx(expected, rel=0.15)
    guessed = problem_of(name, sinogram=noisy, photons=None)
    assert guessed.noise_level == pytest.approx(problem.noise_level, rel=0.1)


def test_tables_are_built_once_for_a_scan():
    first, second = problem_of("parallel"), problem_of("parallel")
    assert first.tables["kernel"] is second.tables["kernel"]


@pytest.mark.parametrize("name", ["flat fan", "arc fan"])
def test_rebinned_rays_are_the_parallel_scan_of_the_same_slice(name):
    n_views = 270 if name == "arc fan" else 360
    dense = dataclasses.replace(SCANS[name], angles_rad=1 + np.arange(n_views) * np.pi / 180)
    shuffled = np.random.default_rng(1).permutation(dense.n_views)
    dense = dataclasses.replace(dense, angles_rad=dense.angles_rad[shuffled])
    parallel, sinogram = rebin_to_parallel(dense, analytic_sinogram(dense).astype(np.float32))
    assert parallel.kind == "parallel"
    assert parallel.n_views == 180
    assert sinogram.dtype == np.float32
    assert parallel.spacing == pytest.approx(dense.iso_spacing_mm)
    expected = analytic_sinogram(parallel)
    assert np.linalg.norm(sinogram - expected) < 0.01 * np.linalg.norm(expected)


def test_a_dense_fan_is_rebinned_rather_than_tabulated(monkeypatch):
    monkeypatch.setattr(ct_problem, "MAX_RAY_TABLE_ENTRIES", 1_000_000)
    dense = dataclasses.replace(SCANS["flat fan"], angles_rad=np.arange(180) * TURN / 180)
    sinogram = analytic_sinogram(dense).astype(np.float32)
    problem = build_ct_problem(sinogram, dense, (105, 110), 1.0, mu_water_per_mm=MU_WATER)
    assert problem.family == "toeplitz"
    truth = pixelated((105, 110), 1.0) / (2 * MU_WATER)
    error = np.linalg.norm(crop(problem.x1, problem) - truth) / np.linalg.norm(truth)
    assert error < 0.1


def test_a_dense_fan_of_three_turns_is_that_of_one(monkeypatch, rng):
    monkeypatch.setattr(ct_problem, "MAX_RAY_TABLE_ENTRIES", 1_000_000)
    turn = np.arange(180) * TURN / 180
    # An encoder's error keeps repeats from being the same number.
    angles = np.concatenate([turn, TURN + turn, 2 * TURN + turn]) + 1e-7 * rng.random(540)
    thrice = dataclasses.replace(SCANS["flat fan"], angles_rad=angles)
    sinogram = analytic_sinogram(thrice).astype(np.float32)
    problem = build_ct_problem(sinogram, thrice, (105, 110), 1.0, mu_water_per_mm=MU_WATER)
    truth = pixelated((105, 110), 1.0) / (2 * MU_WATER)
    error = np.linalg.norm(crop(problem.x1, problem) - truth) / np.linalg.norm(truth)
    assert error < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detector_spacing_mm": 0.0024}, "the detectors reach .* mm and the image|reach"),
        ({"detector_offset": 30.0}, "displaced detectors"),
        ({"detector_offset": 500.0}, "displaced detectors"),
    ],
)
@pytest.mark.parametrize("name", ["parallel", "flat fan"])
def test_detectors_that_miss_the_image_are_refused(name, changes, message):
    geometry = dataclasses.replace(SCANS[name], **changes)
    sinogram = np.zeros((geometry.n_views, geometry.n_detectors), np.float32)
    with pytest.raises(ScanDataError, match=message):
        build_ct_problem(sinogram, geometry, (105, 110), 1.0, mu_water_per_mm=MU_WATER)


def test_detectors_that_see_a_part_of_the_image_are_told():
    geometry = SCANS["parallel"]
    assert view_note(geometry, (105, 110), 1.0) is None
    note = view_note(geometry, (300, 300), 1.0)
    assert note is not None
    assert "circle of 67 mm radius of an image of 150 mm" in note


def test_unusable_input_is_refused():
    geometry = SCANS["parallel"]
    good = np.zeros((90, 150), np.float32)
    with pytest.raises(ShapeError, match=r"\(150, 90\)"):
        build_ct_problem(good.T, geometry, (16, 16), 1.0, mu_water_per_mm=MU_WATER)
    bad = good.copy()
    bad[3, 4] = np.inf
    with pytest.raises(ScanDataError, match="1 values that are not finite"):
        build_ct_problem(bad, geometry, (16, 16), 1.0, mu_water_per_mm=MU_WATER)
    with pytest.raises(ScanDataError, match="mu_water_per_mm is -1"):
        build_ct_problem(good, geometry, (16, 16), 1.0, mu_water_per_mm=-1.0)
    with pytest.raises(ScanDataError, match="photons is 0"):
        build_ct_problem(good, geometry, (16, 16), 1.0, mu_water_per_mm=MU_WATER, photons=0.0)


@pytest.mark.parametrize("name", sorted(SCANS))
def test_the_classical_image_is_nearer_to_the_object_than_what_it_is_made_from(name):
    """And has nothing lighter than air."""
    problem = problem_of(name)
    truth = crop(true_planes(problem), problem)
    error, untreated = (
        np.linalg.norm(crop(planes, problem) - truth)
        for planes in (problem.x1, problem.unreconstructed)
    )
    assert error < 0.8 * untreated
    assert problem.x1.min() == 0
    assert residual_energy(problem, problem.x1) < 0.01 * problem.measurement_energy


def test_the_classical_image_needs_no_noise_to_be_better():
    """Few views and the pixels' size leave an error that no photons take away."""
    problem = problem_of("parallel", photons=1e10)
    truth = crop(true_planes(problem), problem)
    both = (problem.x1, problem.unreconstructed)
    error, before = (np.linalg.norm(crop(planes, problem) - truth) for planes in both)
    assert error < 0.8 * before


@pytest.mark.parametrize(
    ("kind", "degrees", "n_views", "is_limited"),
    [
        ("parallel", 120, 90, True),
        ("parallel", 180, 8, False),
        ("parallel", 172, 300, False),
        ("fan-equidistant", 150, 60, True),
        ("fan-equidistant", 220, 60, False),
        ("fan-equidistant", 360, 12, False),
    ],
)
def test_a_missing_wedge_gets_more_iterations(monkeypatch, kind, degrees, n_views, is_limited):
    fan = {"source_origin_mm": 150.0, "origin_detector_mm": 120.0} if kind != "parallel" else {}
    geometry = RadonGeometry(
        kind,
        np.arange(n_views) * np.radians(degrees) / n_views,
        60,
        detector_spacing_mm=1.5,
        **fan,
    )
    given = []

    def watch(gram, b, start, weight, *, n_iterations, lowest):
        given.append(n_iterations)
        return start

    monkeypatch.setattr(ct_problem, "lagged_diffusivity", watch)
    sinogram = np.zeros((n_views, 60), np.float32)
    build_ct_problem(sinogram, geometry, (32, 32), 1.0, mu_water_per_mm=MU_WATER, photons=1e5)
    few, many = (12, 16) if fan else (8, 48)
    assert given == [many if is_limited else few]


def blobs_and_their_integrals(geometry, n, rng):
    """Gaussians, whose line integrals have a closed form: an image `(n, n)` and its sinogram."""
    centres = np.vstack([np.zeros((1, 2)), rng.uniform(-0.3 * n, 0.3 * n, (150, 2))])
    widths = np.append(0.22 * n, rng.uniform(0.8, 3, 150))
    heights = np.append(MU_WATER, rng.uniform(0.1, 1, 150) * MU_WATER)
    u = (np.arange(geometry.n_detectors) - (geometry.n_detectors - 1) / 2) * geometry.spacing
    axis = np.arange(n) - (n - 1) / 2
    image, sinogram = np.zeros((n, n)), np.zeros((geometry.n_views, geometry.n_detectors))
    for (x, y), width, height in zip(centres, widths, heights, strict=True):
        place = x * np.cos(geometry.angles_rad) + y * np.sin(geometry.angles_rad)
        away = (u - place[:, None]) / width
        sinogram += height * width * np.sqrt(2 * np.pi) * np.exp(-(away**2) / 2)
        image += height * np.exp(-((axis - x) ** 2 + (axis[:, None] + y) ** 2) / 2 / width**2)
    return image.astype(np.float32), sinogram.astype(np.float32)


def test_what_lies_between_the_detectors_is_kept(rng):
    """Back-projection that interpolates linearly lost it: the error was 0.040 of the image.

    The data have no noise; that of 10⁵ photons is told, for a prior that holds back streaks.
    """
    geometry = RadonGeometry("parallel", np.arange(45) * np.pi / 45, 124, detector_spacing_mm=1.0)
    image, sinogram = blobs_and_their_integrals(geometry, 96, rng)
    problem = build_ct_problem(
        sinogram, geometry, image.shape, 1.0, mu_water_per_mm=MU_WATER, photons=1e5
    )
    error = np.linalg.norm(crop(problem.x1, problem) * 2 * MU_WATER - image)
    assert error < 0.026 * np.linalg.norm(image)


def test_the_variance_of_the_noise_weighs_the_prior(monkeypatch):
    """Ten times the photons are a tenth of the weight, but for the floor and the share of noise."""
    geometry = RadonGeometry("parallel", np.arange(90) * np.pi / 90, 60, detector_spacing_mm=1.5)
    weights = []

    def watch(gram, b, start, weight, **options):
        weights.append(weight)
        return start

    monkeypatch.setattr(ct_problem, "lagged_diffusivity", watch)
    sinogram = np.full((90, 60), 0.5, np.float32)
    noise = [
        build_ct_problem(
            sinogram, geometry, (32, 32), 1.0, mu_water_per_mm=MU_WATER, photons=photons
        ).noise_level
        for photons in (1e12, 1e6, 1e5, 10.0)
    ]
    none, little, more, most = weights
    assert (more - none) / (little - none) == pytest.approx(10, rel=0.02)
    assert most == pytest.approx(0.75 * noise[-1], rel=0.02)


@pytest.mark.parametrize(("pitch_mm", "degrees"), [(1.5, 120), (3.0, 120), (3.5, 180)])
def test_coarse_detectors_give_no_worse_than_back_projection(pitch_mm, degrees):
    """Thin rays that far apart alias."""
    geometry = RadonGeometry(
        "parallel", np.arange(60) * np.radians(degrees) / 60, int(160 / pitch_mm), pitch_mm
    )
    problem = build_ct_problem(
        analytic_sinogram(geometry).astype(np.float32),
        geometry,
        (105, 110),
        1.0,
        mu_water_per_mm=MU_WATER,
        photons=1e5,
    )
    truth = crop(true_planes(problem), problem)
    error, untreated = (
        np.linalg.norm(crop(planes, problem) - truth)
        for planes in (problem.x1, problem.unreconstructed)
    )
    assert error < untreated
    assert problem.x1.max() < 1.2 * truth.max()
