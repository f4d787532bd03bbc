"""Each ablation leaves out what it names, and nothing else."""

from __future__ import annotations

import ablations
import numpy as np
import pytest
import torch
from ablations import PARTS, Variant
from tiny_model import awake_model
from tiny_problems import tiny_problem

from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.training import dataset
from ldmpir_edge.training.acquisitions import Example
from ldmpir_edge.training.recipe import Recipe


@pytest.fixture(scope="module")
def model():
    return awake_model()


@pytest.fixture
def item():
    problem = tiny_problem("cartesian1d")
    return dataset.to_tensors(Example(problem, np.zeros_like(problem.x1)))


def image(model, item, variant):
    with torch.no_grad():
        return ablations.reconstruct(model, item, variant)


@pytest.mark.parametrize("n_steps", [1, 4, 8])
def test_the_whole_is_the_deployed_sampler(model, item, n_steps):
    with torch.no_grad():
        deployed = dataset.reconstruct(model, item, n_steps)
    torch.testing.assert_close(image(model, item, Variant(n_steps=n_steps)), deployed)


@pytest.mark.parametrize("name", [name for name in PARTS if name not in ("whole", "8 steps")])
def test_every_part_changes_the_image_where_it_is_in_the_sampler(model, item, name):
    variant = PARTS[name]
    if variant.t_last:
        pytest.skip("the times belong to the model's configuration")
    assert not torch.allclose(image(model, item, variant), image(model, item, Variant()))


def changed(item, name):
    return {**item, name: item[name] * 1.5 + 0.01}


@pytest.mark.parametrize(
    ("variant", "unseen"),
    [
        (Variant(conditioned=False), "noise_level"),
        (Variant(conditioned=False), "condition"),
        (Variant(from_adjoint=True), "x1"),
        (PARTS["as a one-shot U-Net"], "b"),
        (PARTS["as MoDL"], "x1"),
        (PARTS["as MoDL"], "noise_level"),
    ],
)
def test_what_is_left_out_makes_no_difference(model, item, variant, unseen):
    same = image(model, changed(item, unseen), variant)
    torch.testing.assert_close(same, image(model, item, variant), rtol=0, atol=0)
    assert not torch.equal(image(model, changed(item, unseen), Variant()), same)


@pytest.mark.parametrize("initial", [True, False])
def test_training_starts_from_what_it_is_given_and_moves(model, item, initial):
    stage = {"n_updates": 1, "learning_rate": 1e-3, "warmup": 0, "size": (32,), "n_steps": (4,)}
    given = model if initial else None
    minutes = 1e-4  # one update
    trained, n_updates = ablations.train(
        Variant(n_steps=1), Recipe(stages=(stage,)), [item], minutes, given
    )
    assert n_updates >= 1
    if initial:
        apart = [
            float((a - b).detach().abs().max())
            for a, b in zip(trained.parameters(), model.parameters(), strict=True)
        ]
        assert 0 < max(apart) < 0.01
    else:
        assert trained.config == ModelConfig()
