"""The loop: deterministic, resumable, and honest about what it gained."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_model import awake_model

from ldmpir_edge.errors import UsageError
from ldmpir_edge.finetuning.loop import Finetuner
from ldmpir_edge.finetuning.parameters import choose_parameters, merge_updates
from ldmpir_edge.finetuning.recipe import LOSSES, FinetuneRecipe
from ldmpir_edge.finetuning.scans import load_scans

SHORT = {"n_updates": 4, "check_every": 2, "n_steps": 1, "margin": 0.0}


def nothing(update, ratio):
    """Show no progress."""


def same(a, b) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def tuned(site, path, kind="mri", loss="equivariant", **change):
    recipe = FinetuneRecipe(loss=loss, **{**SHORT, **change})
    return Finetuner(awake_model(), load_scans(site(kind), loss), recipe, path)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [(k, loss) for k in ("mri", "ct") for loss in LOSSES] + [("image", "equivariant")],
)
def test_every_loss_lowers_the_held_out_error_of_a_bad_model(site, tmp_path, kind, loss):
    """Noise on every weight is not hard to improve on; the base itself stays as it was."""
    finetuner = tuned(site, tmp_path / "c.pt", kind, loss, n_updates=40, check_every=10)
    outcome = finetuner.run(nothing)
    assert outcome.improved
    assert outcome.held_out < 0.98
    assert outcome.n_updates in {10, 20, 30, 40}
    assert same(finetuner._base, awake_model())
    assert not same(outcome.model, awake_model())
    assert all(torch.isfinite(p).all() for p in outcome.model.parameters())


def test_a_seed_repeats_the_run_and_another_does_not(site, tmp_path):
    one, again, other = (
        tuned(site, tmp_path / f"{k}.pt", seed=seed).run(nothing).model
        for k, seed in enumerate((1, 1, 2))
    )
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(site, tmp_path, at):
    whole = tuned(site, tmp_path / "whole.pt", rank=2)
    expected = whole.run(nothing)

    def interrupt(update, ratio):
        if update == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(site, tmp_path / "c.pt", rank=2).run(interrupt)
    resumed = tuned(site, tmp_path / "c.pt", rank=2)
    assert resumed.update == at
    outcome = resumed.run(nothing)
    assert resumed.ratios == whole.ratios
    assert same(outcome.model, expected.model)


def test_without_the_margin_the_base_is_kept(site, tmp_path):
    outcome = tuned(site, tmp_path / "c.pt", margin=0.99).run(nothing)
    assert not outcome.improved
    assert outcome.n_updates == 0
    assert same(outcome.model, awake_model())


def test_it_stops_when_nothing_gets_better(site, tmp_path):
    finetuner = tuned(
        site, tmp_path / "c.pt", n_updates=100, check_every=1, patience=2, learning_rate=10.0
    )
    finetuner.run(nothing)
    assert finetuner.update < 100
    assert len(finetuner.ratios) - 1 - finetuner.ratios.index(min(finetuner.ratios)) == 2


def test_a_checkpoint_of_other_options_is_refused(site, tmp_path):
    path = tmp_path / "c.pt"
    tuned(site, path).run(nothing)
    with pytest.raises(UsageError, match="other options"):
        tuned(site, path, seed=5)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UsageError, match="cannot resume"):
        tuned(site, path)


def test_few_weights_move_and_low_rank_updates_merge():
    model = awake_model()
    before = copy.deepcopy(model)
    moving = choose_parameters(model, 2, 0)
    x = torch.randn(1, model.unet.stem.in_channels, 32, 32)
    embedding = torch.randn(1, 8)
    assert torch.equal(model.unet(x, embedding), before.unet(x, embedding))
    with torch.no_grad():
        for parameter in moving.values():
            parameter.add_(0.01)
    wanted = model.unet(x, embedding)
    merge_updates(model)
    torch.testing.assert_close(model.unet(x, embedding), wanted)
    assert model.state_dict().keys() == before.state_dict().keys()
    delta = (model.unet.stem.weight - before.unet.stem.weight).flatten(1)
    assert torch.linalg.matrix_rank(delta, rtol=1e-4) <= 2
    assert torch.equal(model.unet.stem.bias, before.unet.stem.bias)
