from __future__ import annotations

from pathlib import Path

import data_weight
import pytest
import torch

from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.physics.problem import condition_vector

WEIGHTS = Path(__file__).parents[2] / "models" / "ldmpir-2m" / "weights.safetensors"
SHAPE = (1, 2, 16, 16)


@torch.no_grad()
def data_terms(model, noise_level, t):
    """λ less its least value in a flat image, by task and modality: the model's own λ."""
    found = {}
    for task, modality in data_weight.served():
        condition = torch.from_numpy(condition_vector(task, modality))[None]
        level = torch.tensor([noise_level])
        embedding = model.embed(t, level, condition)
        trust = torch.zeros(1, 1, *SHAPE[2:])
        lam = model.weight(torch.full(SHAPE, 0.5), trust, level, embedding, condition)
        found[task, modality] = float(lam.mean()) - model.config.lambda_min
    return found


@pytest.mark.parametrize("noise_level", [3e-3, 3e-2])
@pytest.mark.parametrize("t", [1.0, 0.01])
def test_the_data_of_what_is_named_alone_count_more(noise_level, t):
    model = load_weights(WEIGHTS)
    before = data_terms(model, noise_level, t)
    factors = data_weight.parse_factor("mri=0.4") | data_weight.parse_factor("denoise/ct=1.5")
    data_weight.change(model, factors)
    after = data_terms(model, noise_level, t)
    for pair, term in before.items():
        wanted = {("mri", "mr"): 0.4, ("denoise", "ct"): 1.5}.get(pair, 1.0)
        assert after[pair] / term == pytest.approx(wanted, rel=0.04), pair


def test_a_task_without_a_modality_is_all_of_it():
    assert data_weight.parse_factor("denoise=2") == {("denoise", "mr"): 2, ("denoise", "ct"): 2}
    for text in ("mri/ct=2", "denoise", "scan=2", "denoise=0", "denoise=nan"):
        with pytest.raises(ValueError, match=r".*"):
            data_weight.parse_factor(text)
