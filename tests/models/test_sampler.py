"""The bridge, its schedule, and the sampler over every family."""

from __future__ import annotations

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_problems import tables, tensors

from ldmpir_edge.errors import UsageError
from ldmpir_edge.models.ksm import normal_operator
from ldmpir_edge.models.ldmpir import ERROR_START, LdmPir
from ldmpir_edge.models.sampler import (
    STEP_PRESETS,
    bridge_state,
    iterations,
    sample,
    schedule,
)
from ldmpir_edge.physics.problem import FAMILIES, Problem

SIGMA = 0.3
T_LAST = 1 / 8
TIMES = [1.0, 0.5, 0.25, 0.125]


def run(model, problem: Problem, n_steps: int, noise=None) -> torch.Tensor:
    given = tensors(problem)
    return sample(
        model,
        given["x1"],
        given["b"],
        given["noise_level"],
        given["condition"],
        problem.family,
        tables(problem, given),
        n_steps,
        noise,
    )


def drawn(n_steps: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, n_steps - 1, 2, size, size, generator=torch.Generator().manual_seed(seed))


def test_the_schedule_walks_from_the_estimate_to_the_image():
    assert schedule(1, T_LAST) == (1.0, 0.0)
    assert schedule(2, T_LAST) == (1.0, 0.125, 0.0)
    np.testing.assert_allclose(schedule(4, T_LAST), (*TIMES, 0.0))
    eight = schedule(8, T_LAST)
    assert (eight[0], eight[-1]) == (1.0, 0.0)
    # A geometric series to t_last: every step keeps the same share of the one before.
    assert eight[-2] == pytest.approx(T_LAST)
    np.testing.assert_allclose(np.diff(np.log(eight[:-1])), np.log(T_LAST) / 7)


@pytest.mark.parametrize("n_steps", [0, -1])
def test_a_sampler_needs_a_step(n_steps, fresh, problems):
    with pytest.raises(UsageError, match=f"at least one step, not {n_steps}"):
        run(fresh, problems["pointwise"], n_steps)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 1.0])
def test_bridge_state_has_the_bridges_mean_and_variance(t):
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    x_t = bridge_state(torch.tensor(2.0), torch.tensor(-1.0), torch.tensor(t), SIGMA, noise)
    deviation = SIGMA * math.sqrt(t * (1 - t))
    assert float(x_t.mean()) == pytest.approx(2 * (1 - t) - t, abs=5 * deviation / 447 + 1e-6)
    assert float(x_t.std()) == pytest.approx(deviation, rel=0.02, abs=1e-7)


class Oracle:
    """Stands in for a trained model: it knows the image, and remembers what it was shown."""

    def __init__(self, image: float) -> None:
        self.config = SimpleNamespace(sigma_bridge=SIGMA, t_last=T_LAST, n_cg=4)
        self.image = image
        self.states: dict[float, torch.Tensor] = {}
        self.residuals: dict[float, torch.Tensor] = {}
        self.iterations: list[int] = []

    def __call__(self, x_t, t, *rest):
        self.states[t] = x_t
        x0_hat = torch.full_like(x_t, self.image)
        self.residuals[t] = rest[-2]
        self.iterations.append(rest[-1])
        return x0_hat, -x0_hat


def walk(oracle: Oracle, noise: torch.Tensor | None, size: int) -> torch.Tensor:
    zero = torch.zeros(1, 2, size, size)
    return sample(
        oracle, zero + 1, zero, zero, zero, "pointwise", {"mask": zero[:, 0] + 1}, 4, noise
    )


def test_the_sampler_visits_the_bridge_between_estimate_and_image():
    oracle = Oracle(3.0)
    assert torch.all(walk(oracle, None, 4) == 3.0)
    assert list(oracle.states) == pytest.approx(TIMES)
    for t, state in oracle.states.items():
        np.testing.assert_allclose(state.numpy(), 3 * (1 - t) + t, rtol=1e-6)


def test_later_steps_meet_the_data_better():
    oracle = Oracle(3.0)
    walk(oracle, None, 4)
    assert oracle.iterations == [0, 1, 3, 4]
    assert [iterations(k, 8, 4) for k in range(8)] == [0, 0, 1, 2, 2, 3, 4, 4]
    assert iterations(0, 1, 4) == 4
    assert [iterations(k, 4, 1) for k in range(4)] == [0, 0, 1, 1]
    # Halves go down: exactly 0.5 and 1.5 of 2.
    assert [iterations(k, 4, 2) for k in range(4)] == [0, 0, 1, 2]


def test_the_residual_is_that_of_the_walk_without_its_noise():
    """With b = 0 and AᴴA = 1 the residual of an image is its negative."""
    oracle = Oracle(3.0)
    walk(oracle, drawn(4, size=16), 16)
    for t, residual in oracle.residuals.items():
        np.testing.assert_allclose(residual.numpy(), -(3 * (1 - t) + t), rtol=1e-6)


def test_the_samplers_noise_is_that_of_the_brownian_bridge():
    oracle = Oracle(3.0)
    assert torch.all(walk(oracle, drawn(4, size=256), 256) == 3.0)
    deviations = {
        time: (state - (3 * (1 - time) + time)).double()
        for time, state in zip(TIMES, oracle.states.values(), strict=True)
    }
    # Covariance of the bridge: σ² s (1 − t) for s ≤ t, whatever the steps in between.
    for s, t in itertools.combinations_with_replacement(TIMES[:0:-1], 2):
        covariance = float((deviations[s] * deviations[t]).mean())
        assert covariance == pytest.approx(SIGMA**2 * s * (1 - t), rel=0.03)
    assert not deviations[1.0].any()


@pytest.mark.parametrize("n_steps", STEP_PRESETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_set_of_weights_serves_every_family(family, n_steps, model, problems):
    image = run(model, problems[family], n_steps, drawn(n_steps))
    assert image.shape == (1, 2, 32, 32)
    assert torch.isfinite(image).all()
    image.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_model_brings_the_estimate_closer_to_the_data(family, fresh, problems):
    """Its network answers zero, so that what remains is data consistency from x1."""
    # The classical image is near a solution of the data alone: start farther away.
    problem = dataclasses.replace(problems[family], x1=problems[family].x1 / 2)
    given = tensors(problem)
    with torch.no_grad():
        fresh.contrast.zero_()
    image = run(fresh, problem, 1)
    lam = fresh.config.lambda_min + (problem.noise_level / ERROR_START) ** 2
    gram = normal_operator(family, tables(problem, given))
    expected = given["b"] + lam * given["x1"]
    before = torch.linalg.norm(expected - gram(given["x1"]) - lam * given["x1"])
    after = torch.linalg.norm(expected - gram(image) - lam * image)
    assert after < 0.3 * before


@torch.no_grad()
def test_the_mean_is_the_default_and_repeats_bit_for_bit(model, problems):
    problem = problems["cartesian1d"]
    mean = run(model, problem, 4)
    assert torch.equal(run(model, problem, 4), mean)
    assert torch.equal(run(model, problem, 4, torch.zeros(1, 3, 2, 32, 32)), mean)


@torch.no_grad()
def test_a_seed_reproduces_a_sample_and_another_gives_another(model, problems):
    problem = problems["cartesian1d"]
    first = run(model, problem, 4, drawn(4, seed=1))
    assert torch.equal(run(model, problem, 4, drawn(4, seed=1)), first)
    assert not torch.allclose(run(model, problem, 4, drawn(4, seed=2)), first, atol=1e-4)
    assert not torch.allclose(run(model, problem, 4), first, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["cartesian1d", "separable", "pointwise", "toeplitz", "rays"])
def test_a_batch_is_its_images_one_by_one(family, model, problems):
    problem = problems[family]
    given = tensors(problem)
    other = dict(given)
    for name in {"b", "x1", "noise_level"}:
        other[name] = 0.5 * given[name]
    other["x1"] = other["x1"].flip(-1)
    for name in {"csm", "csm_halves", "density", "mask"} & set(given):
        other[name] = given[name].flip(1)
    # All but the tables of the shared geometry.
    batched = {"b", "x1", "noise_level", "condition", "csm", "csm_halves", "density", "mask"}

    def go(inputs, noise):
        return sample(
            model,
            inputs["x1"],
            inputs["b"],
            inputs["noise_level"],
            inputs["condition"],
            family,
            tables(problem, inputs),
            4,
            noise,
        )

    both = {k: torch.cat([v, other[k]]) if k in batched else v for k, v in given.items()}
    noise = torch.cat([drawn(4, seed=1), drawn(4, seed=2)])
    together = go(both, noise)
    atol = 1e-5 * float(together.abs().max())
    np.testing.assert_allclose(together[:1], go(given, noise[:1]), atol=atol)
    np.testing.assert_allclose(together[1:], go(other, noise[1:]), atol=atol)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("error", [0.02, 0.1])
@pytest.mark.parametrize("noise_level", [0.0, 0.01, 0.05])
def test_lambda_weighs_the_networks_error_against_the_noise(error, noise_level, fresh: LdmPir):
    fresh.log_error.bias.fill_(math.log(error))
    lam = seen_lambda(fresh, noise_level)
    assert lam == pytest.approx(0.01 + (noise_level / error) ** 2, rel=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    ("bias", "noise_level", "expected"),
    [(1e6, 0.1, 0.02), (-1e6, 1e-3, 1.01), (-1e6, 1.0, 100.0), (0.0, 1e6, 100.0)],
)
def test_lambda_stays_in_its_bounds(bias, noise_level, expected, fresh: LdmPir):
    fresh.log_error.bias.fill_(bias)
    assert seen_lambda(fresh, noise_level) == pytest.approx(expected, rel=1e-3)


def seen_lambda(model: LdmPir, noise_level: float) -> float:
    """Seen from outside: with y = 0, all known and x_t = 1 the answer is λ / (1 + λ)."""
    ones, zero = torch.ones(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)
    answer, _ = model(
        ones,
        0.5,
        ones,
        zero,
        torch.tensor([noise_level]),
        torch.zeros(1, 7),
        "pointwise",
        {"mask": torch.ones(1, 16, 16)},
        -ones,
        1,
    )
    return float((answer / (1 - answer)).mean())


@torch.no_grad()
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_bright_tissue_listens_to_the_data_by_the_tasks_power(power, fresh: LdmPir):
    fresh.contrast[:] = torch.tensor([power, 0, 0, 0, 0, 0, 0])
    image = torch.zeros(1, 2, 48, 48)
    image[:, 0, 16:32, 16:24], image[:, 0, 16:32, 24:32] = 1.0, 0.25
    level, condition = torch.tensor([0.02]), torch.eye(7)[:1]
    even = torch.zeros(1, 1, 48, 48)
    lam = fresh.weight(image, even, level, fresh.embed(0.5, level, condition), condition)[0, 0]
    # Away from the edge between them, which is smoothed.
    bright, faint = float(lam[24, 19]), float(lam[24, 28])
    assert faint / bright == pytest.approx(4.0**power, rel=1e-4)
    # More background changes nothing.
    wide = F.pad(image, (0, 48, 0, 48))
    padded = fresh.weight(
        wide,
        torch.zeros(1, 1, *wide.shape[2:]),
        level,
        fresh.embed(0.5, level, condition),
        condition,
    )[0, 0]
    assert float(padded[24, 19]) == pytest.approx(bright, rel=1e-3)
    other = fresh.weight(
        image, even, level, fresh.embed(0.5, level, torch.eye(7)[1:2]), torch.eye(7)[1:2]
    )
    assert float(other.std()) == pytest.approx(0, abs=1e-6)


@torch.no_grad()
def test_the_network_trusts_its_answer_pixel_by_pixel(fresh: LdmPir):
    level, condition = torch.tensor([0.02]), torch.eye(7)[1:2]
    embedding = fresh.embed(0.5, level, condition)
    image, trust = torch.ones(1, 2, 16, 16), torch.zeros(1, 1, 16, 16)
    even = fresh.weight(image, trust, level, embedding, condition)
    trust[0, 0, 3, 4], trust[0, 0, 5, 6] = math.log(3), -50.0
    ratio = (fresh.weight(image, trust, level, embedding, condition) / even)[0, 0]
    assert float(ratio[3, 4]) == pytest.approx(3, rel=1e-5)
    assert float(ratio[5, 6]) == pytest.approx(math.exp(-4), rel=1e-5)
    assert float(ratio[0, 0]) == pytest.approx(1)
    # Seen from outside: what the third plane of the network's answer does.
    fresh.unet.head[0].bias[-4:] = math.log(3)
    assert seen_lambda(fresh, 0.02) == pytest.approx(3 * float(even.mean()), rel=0.2)


@torch.no_grad()
@pytest.mark.parametrize("changed", ["t", "noise_level", "condition"])
def test_time_noise_and_task_condition_the_network(changed, model):
    given = {"t": 0.5, "noise_level": torch.tensor([0.01]), "condition": torch.zeros(1, 7)}
    before = model.embed(**given)
    given[changed] = given[changed] + 0.4
    assert not torch.allclose(model.embed(**given), before, atol=1e-3)


@torch.no_grad()
def test_no_noise_is_a_finite_condition(model):
    assert torch.isfinite(model.embed(1.0, torch.tensor([0.0]), torch.zeros(1, 7))).all()
