"""Training with a network in bfloat16: the same direction, float32 everywhere else."""

from __future__ import annotations

import pytest
import torch

from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.training.dataset import SimulatedScans, reconstruct
from ldmpir_edge.training.loop import Trainer
from ldmpir_edge.training.losses import image_loss
from ldmpir_edge.training.mixed_precision import Bf16LdmPir
from ldmpir_edge.training.recipe import Recipe, Stage

TINY = ModelConfig(widths=(8, 8, 8, 8), embedding=8, n_cg=2)
BF16_EPSILON = 2.0**-8


def recipe(*tasks: str) -> Recipe:
    stage = Stage(n_updates=2, learning_rate=1e-3, warmup=1, size=(32,), n_steps=(2,))
    return Recipe(seed=5, bf16=True, tasks=dict.fromkeys(tasks, 1.0), stages=(stage,))


def twins() -> tuple[LdmPir, Bf16LdmPir]:
    """Two models of the same weights, none of which is zero."""
    torch.manual_seed(0)
    full = LdmPir(TINY)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    half = Bf16LdmPir(TINY)
    half.load_state_dict(full.state_dict())
    return full, half


def gradient(model: LdmPir, item) -> torch.Tensor:
    loss = image_loss(reconstruct(model, item, 2), item["target"], item["x1"], 0.05)
    parts = torch.autograd.grad(
        loss, list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("task", ["mri-columns", "denoise", "inpaint"])
def test_gradients_point_where_those_in_float32_do(task, mr):
    item = SimulatedScans([mr], recipe(task), (32,), 0, 1)[0]
    full, half = twins()
    exact, rounded = gradient(full, item), gradient(half, item)
    assert rounded.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.95
    assert float(rounded.norm() / exact.norm()) == pytest.approx(1, abs=0.1)


def test_the_network_rounds_to_bfloat16_and_its_answer_is_float32():
    full, half = twins()
    images, embedding = torch.randn(1, 6, 32, 32), torch.randn(1, 8)
    with torch.no_grad():
        answers = zip(full.correct(images, embedding), half.correct(images, embedding), strict=True)
    for exact, rounded in answers:
        assert rounded.dtype == torch.float32
        assert rounded.is_contiguous()
        error = float((rounded - exact).norm() / exact.norm())
        # Of the order of the type's rounding: neither exact nor wrong.
        assert BF16_EPSILON / 30 < error < 4 * BF16_EPSILON


def test_the_weights_of_a_run_are_a_float32_model(tmp_path, mr):
    trainer = Trainer(TINY, recipe("denoise"), [mr], tmp_path, n_workers=0)
    assert isinstance(trainer.model, Bf16LdmPir)
    assert type(trainer.average) is LdmPir
    model = load_weights(trainer.run(lambda _: None))
    assert type(model) is LdmPir
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
