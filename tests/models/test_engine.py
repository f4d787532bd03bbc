"""The traced module against the sampler it wraps."""

from __future__ import annotations

import pytest
import torch
from tiny_problems import tables, tensors

from ldmpir_edge.models.engine import EngineModule, engine_inputs
from ldmpir_edge.models.sampler import sample
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import FAMILIES


@pytest.mark.parametrize("n_steps", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_problem_gives_exactly_the_inputs_that_an_engine_names(family, n_steps, problems):
    names = engine_inputs(family, n_steps)
    assert set(names) == set(engine_arrays(problems[family], n_steps))
    assert len(set(names)) == len(names)
    assert ("noise" in names) == (n_steps > 1)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_module_is_the_sampler(family, model, problems):
    problem = problems[family]
    given = tensors(problem)
    noise = torch.randn(1, 1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = sample(
        model,
        given["x1"],
        given["b"],
        given["noise_level"],
        given["condition"],
        family,
        tables(problem, given),
        2,
        noise,
    )
    inputs = given | {"noise": noise}
    module = EngineModule(model, family, 2)
    image = module(*(inputs[name] for name in engine_inputs(family, 2)))
    assert torch.equal(image, expected)


def test_a_missing_tensor_is_refused(model, problems):
    given = tensors(problems["pointwise"])
    with pytest.raises(ValueError, match="shorter"):
        EngineModule(model, "pointwise", 1)(given["b"], given["x1"])
