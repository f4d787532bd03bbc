"""Every simulated acquisition is solved by its own target."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_problems import disc, unit_maps

from ldmpir_edge.physics.normal import BATCHED_TABLES, NORMAL_OPERATORS
from ldmpir_edge.physics.padding import from_planes
from ldmpir_edge.physics.problem import Problem
from ldmpir_edge.training import acquisitions
from ldmpir_edge.training.acquisitions import (
    FINER,
    P_FBP_NOISE,
    SIMULATORS,
    Example,
    fbp_noise,
)
from ldmpir_edge.training.augment import block_means

SEEDS = range(6)

FAMILY_OF = {
    "mri-columns": "cartesian1d",
    "mri-2d": "separable",
    "ct": "toeplitz",
    "ct-fan": "rays",
    "denoise": "pointwise",
    "inpaint": "pointwise",
    "super-resolve": "separable",
}


def seeds(task: str) -> range:
    # The tables of a fan take seconds.
    return range(1) if task == "ct-fan" else SEEDS


def image_for(task: str) -> np.ndarray:
    image = disc(48 * FINER.get(task, 1))
    return 1000 * image - 1000 if task.startswith("ct") else image


def simulate(task: str, seed: int, modality: str = "mr") -> Example:
    modality = "ct" if task.startswith("ct") else modality
    return SIMULATORS[task](image_for(task), modality, np.random.default_rng(seed))


def gram(problem: Problem, x: np.ndarray) -> np.ndarray:
    tables = {k: v[None] if k in BATCHED_TABLES else v for k, v in problem.tables.items()}
    return NORMAL_OPERATORS[problem.family](x[None], tables)[0]


def residual(example: Example) -> float:
    problem = example.problem
    gap = problem.b - gram(problem, example.target)
    return float(np.linalg.norm(gap) / np.linalg.norm(problem.b))


@pytest.fixture
def quiet(monkeypatch):
    """Take the noise away, and nothing else."""
    for name in ("add_gaussian", "add_poisson_gaussian"):
        monkeypatch.setattr(acquisitions, name, lambda x, *_: x)


@pytest.mark.parametrize("task", SIMULATORS)
def test_an_example_is_float32_finite_and_of_its_family(task):
    for seed in seeds(task):
        example = simulate(task, seed)
        problem = example.problem
        assert problem.family == FAMILY_OF[task]
        assert problem.b.shape == problem.x1.shape == example.target.shape == (2, 48, 48)
        for array in (problem.b, problem.x1, example.target):
            assert array.dtype == np.float32
            assert np.isfinite(array).all()
        assert 0 < problem.noise_level < 0.5


@pytest.mark.parametrize(
    ("task", "limit"),
    [
        # Maps estimated from a few lines of a 48-pixel image do not explain it exactly.
        ("mri-columns", 0.12),
        ("mri-2d", 2e-3),
        # A convolution stands for a projection and a back-projection.
        ("ct", 0.03),
        # The projector of pixels stands for that of a finer image.
        ("ct-fan", 0.03),
        ("denoise", 1e-5),
        ("inpaint", 1e-5),
        ("super-resolve", 1e-5),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_without_noise_the_target_solves_the_problem(task, limit):
    assert max(residual(simulate(task, seed)) for seed in seeds(task)) < limit


@pytest.mark.parametrize("task", ["mri-columns", "mri-2d"])
@pytest.mark.usefixtures("quiet")
def test_mri_with_the_true_maps_is_exact(task, monkeypatch):
    maps = {n: unit_maps(n, (48, 48), np.random.default_rng(n)) for n in (4, 6, 8)}
    monkeypatch.setattr(acquisitions, "simulate_coil_maps", lambda _shape, n, _rng: maps[n])
    monkeypatch.setattr(
        acquisitions, "estimate_coil_maps", lambda kspace, _shape: maps[len(kspace)]
    )
    for seed in SEEDS:
        example = simulate(task, seed)
        assert residual(example) < 1e-3
        magnitude = np.abs(from_planes(example.target)) * example.problem.scale
        np.testing.assert_allclose(magnitude, disc(48), atol=1e-5)


@pytest.mark.parametrize("task", ["ct", "ct-fan", "denoise", "inpaint", "super-resolve"])
def test_the_target_is_the_image_in_engine_units(task):
    example = simulate(task, 1)
    restored = example.target[0] * example.problem.scale + example.problem.offset
    expected = block_means(image_for(task), FINER.get(task, 1))
    np.testing.assert_allclose(restored, expected, atol=1e-3)
    assert not example.target[1].any()


@pytest.mark.parametrize("modality", ["mr", "ct"])
@pytest.mark.parametrize("task", ["denoise", "inpaint", "super-resolve"])
def test_image_tasks_take_both_modalities(task, modality):
    image = disc(48) if modality == "mr" else 1000 * disc(48) - 1000
    example = SIMULATORS[task](image, modality, np.random.default_rng(3))
    assert example.problem.modality == modality
    restored = example.target[0] * example.problem.scale + example.problem.offset
    np.testing.assert_allclose(restored, image, atol=1e-3)


def _noise_power(noise: np.ndarray, low: float, high: float) -> float:
    """Mean power of a square image between two radial frequencies, in cycles a pixel."""
    frequency = np.fft.fftfreq(len(noise))
    radius = np.hypot(frequency[:, None], frequency)
    return float(np.mean(np.abs(np.fft.fft2(noise)[(radius >= low) & (radius < high)]) ** 2))


def test_the_noise_of_a_back_projection_grows_with_the_frequency_and_few_photons(monkeypatch):
    """Without an object its power is that of the ramp filter (Riederer et al., PMB 23, 1978)."""
    noise = {}
    for photons in (1e4, 4e4):
        monkeypatch.setattr(acquisitions, "_photons", lambda _, n=photons: n)
        air = np.full((96, 96), -1000, np.float32)
        noise[photons] = fbp_noise(air, np.random.default_rng(7))
    assert noise[1e4].std() == pytest.approx(2 * noise[4e4].std(), rel=0.05)
    assert abs(noise[1e4].mean()) < 0.02 * noise[1e4].std()
    middle = noise[1e4][16:-16, 16:-16]

    def expected(f: float) -> float:
        # The ramp, and what linear interpolation at places between samples leaves of it.
        return f * (2 + np.cos(2 * np.pi * f)) / 3

    slow, fast = (_noise_power(middle, f - 0.03, f + 0.03) for f in (0.08, 0.24))
    assert fast / slow == pytest.approx(expected(0.24) / expected(0.08), rel=0.2)


def test_part_of_the_ct_noise_went_through_a_reconstruction():
    image = 1000 * disc(48) - 1000
    slow_shares = []
    for seed in range(30):
        example = SIMULATORS["denoise"](image, "ct", np.random.default_rng(seed))
        noise = example.problem.x1[0] - example.target[0]
        slow_shares.append(_noise_power(noise, 0.02, 0.12) / _noise_power(noise, 0.02, 0.5))
    # White noise has as much power at low frequencies as elsewhere.
    coloured = np.mean(np.array(slow_shares) < 0.72)
    assert coloured == pytest.approx(P_FBP_NOISE, abs=0.15)


@pytest.mark.parametrize("seed", [11, 14, 23])
def test_the_stated_noise_level_is_that_of_the_data(seed):
    example = simulate("mri-columns", seed)
    problem = example.problem
    assert problem.tables["csm_halves"].shape[1] == 1, "the seed must draw a single coil"
    # Then b − AᴴA x is the noise of the sampled columns, seen through a unitary map.
    energy = np.sum((problem.b - gram(problem, example.target)) ** 2, dtype=np.float64)
    deviation = np.sqrt(energy / problem.n_measurements)
    assert deviation == pytest.approx(problem.noise_level, rel=0.1)


def test_a_task_has_variety():
    """Neither the mask, the coils nor the noise may be the same in every example."""
    examples = [simulate("mri-columns", seed) for seed in SEEDS]
    assert len({e.problem.tables["csm_halves"].shape[1] for e in examples}) > 1
    assert len({np.count_nonzero(e.problem.tables["cos"].any(0)) for e in examples}) > 3
    levels = [e.problem.noise_level for e in examples]
    assert max(levels) > 4 * min(levels)
    shares = [simulate("inpaint", seed).problem.tables["mask"].mean() for seed in SEEDS]
    assert max(shares) - min(shares) > 0.2


def test_the_fan_sees_every_corner_of_the_image(monkeypatch):
    geometries, spacings = [], []

    def watch(_sinogram, geometry, _shape, spacing_mm, **_):
        geometries.append(geometry)
        spacings.append(spacing_mm)
        raise StopIteration

    monkeypatch.setattr(acquisitions, "build_ct_problem", watch)
    with pytest.raises(StopIteration):
        simulate("ct-fan", 0)
    (geometry,) = geometries
    half_width = geometry.n_detectors / 2 * geometry.detector_spacing_mm
    half_fan = np.arctan(half_width / (geometry.source_origin_mm + geometry.origin_detector_mm))
    assert geometry.source_origin_mm * np.sin(half_fan) >= spacings[0] * 48 / np.sqrt(2)


@pytest.mark.parametrize("size", [8, 16, 24])
def test_rectangles_to_inpaint_fit_small_images(size, monkeypatch):
    monkeypatch.setattr(acquisitions, "P_MISSING", (0.0, 0.0, 1.0))
    rng = np.random.default_rng(3)
    image = rng.random((size, size + 5)).astype(np.float32)
    problems = [acquisitions.simulate_inpaint(image, "mr", rng).problem for _ in range(20)]
    known = [p.tables["mask"][:size, : size + 5] for p in problems]
    assert min(np.mean(mask) for mask in known) < 1
