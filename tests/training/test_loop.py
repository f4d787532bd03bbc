"""The training loop: it learns, it resumes exactly, and it trusts no file."""

from __future__ import annotations

import csv
import math
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ldmpir_edge.errors import OutputError, ScanDataError, UsageError
from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.training import loop
from ldmpir_edge.training.acquisitions import Example
from ldmpir_edge.training.dataset import SimulatedScans
from ldmpir_edge.training.loop import Trainer, learning_rate
from ldmpir_edge.training.recipe import Recipe, Stage
from ldmpir_edge.training.validation import Validation

TINY = ModelConfig(widths=(8, 8, 8, 8), embedding=8, n_cg=2)
TWO_STAGES = Recipe(
    seed=9,
    tasks={"denoise": 1.0, "mri-columns": 1.0},
    stages=(
        Stage(n_updates=4, learning_rate=1e-3, warmup=2, size=(32, 48)),
        Stage(
            n_updates=4, learning_rate=1e-3, warmup=1, size=(32,), n_steps=(1, 2), batch=2, echo=2
        ),
    ),
)


def trainer(folder: Path, stacks, recipe=TWO_STAGES, config=TINY, **options) -> Trainer:
    return Trainer(config, recipe, stacks, folder, n_workers=0, **options)


def ignore(_row) -> None:
    """Take no notice of an update."""


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as f:
        return list(csv.DictReader(f))


class PowerCutError(Exception):
    """Stops a run in the middle of it."""


def cut_at(update: int):
    def on_update(row) -> None:
        if row["update"] == update:
            raise PowerCutError

    return on_update


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, mr) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    trainer(folder, [mr]).run(ignore)
    return folder


@pytest.fixture
def whole(unbroken, tmp_path) -> Path:
    """A copy of the folder of an unbroken run."""
    return Path(shutil.copytree(unbroken, tmp_path / "whole"))


@pytest.mark.parametrize("cut", [3, 4, 5, 8])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(cut, whole, tmp_path, mr):
    broken = tmp_path / "broken"
    with pytest.raises(PowerCutError):
        trainer(broken, [mr], checkpoint_every=2).run(cut_at(cut))
    again = trainer(broken, [mr], checkpoint_every=2)
    # The cut comes before the checkpoint of its own update.
    assert again.update == 2 * ((cut - 1) // 2)
    path = again.run(ignore)
    assert path.read_bytes() == (whole / "weights.safetensors").read_bytes()
    states = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (whole, broken)]
    assert states[0]["update"] == states[1]["update"] == 8
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name
    # The updates that were lost and repeated stand once in the log.
    untimed = [[{**r, "seconds": "", "waited": ""} for r in rows(f)] for f in (whole, broken)]
    assert untimed[0] == untimed[1]


def test_the_validation_curve_is_that_of_the_averaged_weights(tmp_path, mr):
    path = trainer(tmp_path, [mr], held_out=[mr], checkpoint_every=4).run(ignore)
    with (tmp_path / "validation.csv").open(newline="") as f:
        looks = list(csv.DictReader(f))
    assert [(int(look["update"]), look["task"]) for look in looks] == [
        (update, task) for update in (0, 4, 8) for task in ("denoise", "mri-columns")
    ]
    # The last look again, by what the weights' file holds.
    alone = Validation([mr], TWO_STAGES, tmp_path / "again.csv")
    alone.look(load_weights(path), 8)
    with (tmp_path / "again.csv").open(newline="") as f:
        for again, look in zip(csv.DictReader(f), looks[-2:], strict=True):
            assert float(again["psnr"]) == pytest.approx(float(look["psnr"]), abs=0.01)
            assert again["psnr_x1"] == look["psnr_x1"]
    assert {look["psnr"] for look in looks[:2]} != {look["psnr"] for look in looks[-2:]}


def test_a_resumed_run_looks_once_at_each_checkpoint(tmp_path, mr):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer(whole, [mr], held_out=[mr], checkpoint_every=2).run(ignore)
    with pytest.raises(PowerCutError):
        trainer(broken, [mr], held_out=[mr], checkpoint_every=2).run(cut_at(5))
    # A look of which the checkpoint was lost.
    with (broken / "validation.csv").open("a") as f:
        f.write("6,denoise,1,1\n")
    trainer(broken, [mr], held_out=[mr], checkpoint_every=2).run(ignore)
    assert (whole / "validation.csv").read_bytes() == (broken / "validation.csv").read_bytes()


def test_validation_changes_nothing_of_the_training(whole, tmp_path, mr):
    path = trainer(tmp_path, [mr], held_out=[mr], checkpoint_every=2).run(ignore)
    assert path.read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_images_that_cannot_validate_are_refused(tmp_path, ct):
    recipe = TWO_STAGES.model_copy(update={"tasks": {"mri-columns": 1.0}})
    with pytest.raises(ScanDataError, match="none of the 1 validation volumes"):
        Validation([ct], recipe, tmp_path / "validation.csv")


def test_a_finished_run_stays_as_it_is(whole, mr):
    before = (whole / "weights.safetensors").read_bytes()
    log = (whole / "log.csv").read_bytes()
    seen: list[object] = []
    trainer(whole, [mr]).run(seen.append)
    assert not seen
    assert (whole / "weights.safetensors").read_bytes() == before
    assert (whole / "log.csv").read_bytes() == log


def test_the_seed_decides_the_run_and_leaves_torchs_own_alone(whole, tmp_path, mr):
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    first = trainer(tmp_path / "a", [mr])
    assert torch.equal(torch.rand(1), expected)
    other = trainer(tmp_path / "b", [mr], TWO_STAGES.model_copy(update={"seed": 10}))
    name = "unet.stem.weight"
    assert not torch.equal(first.model.state_dict()[name], other.model.state_dict()[name])
    again = first.run(ignore)
    assert again.read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_a_run_starts_from_initial_weights_and_goes_on_from_its_own(whole, tmp_path, mr):
    weights = whole / "weights.safetensors"
    run = trainer(tmp_path, [mr], initial=weights)
    for name, value in load_weights(weights).state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value), name
        assert torch.equal(run.average.state_dict()[name], value), name
    run.run(ignore)
    again = trainer(tmp_path, [mr], initial=weights)
    assert again.update == 8
    assert torch.equal(
        again.model.state_dict()["unet.stem.weight"], run.model.state_dict()["unet.stem.weight"]
    )


def test_initial_weights_of_another_architecture_are_refused(whole, tmp_path, mr):
    other = TINY.model_copy(update={"n_cg": 3})
    with pytest.raises(UsageError, match=r"weights\.safetensors holds weights of another archit"):
        trainer(tmp_path, [mr], config=other, initial=whole / "weights.safetensors")


def test_the_log_has_one_row_an_update(whole):
    log = rows(whole)
    assert list(log[0]) == [
        "update",
        "stage",
        "task",
        "family",
        "loss",
        "psnr",
        "psnr_x1",
        "seconds",
        "waited",
    ]
    assert [int(r["update"]) for r in log] == list(range(1, 9))
    assert [int(r["stage"]) for r in log] == [0] * 4 + [1] * 4
    assert {(r["task"], r["family"]) for r in log} <= {
        ("denoise", "pointwise"),
        ("mri", "cartesian1d"),
    }
    for row in log:
        assert 0 < float(row["loss"]) < 10
        assert 0 < float(row["psnr_x1"]) < 120
        assert 0 <= float(row["waited"]) <= float(row["seconds"])


def test_the_weights_are_those_of_the_average(whole):
    loaded = load_weights(whole / "weights.safetensors")
    state = torch.load(whole / "checkpoint.pt", weights_only=True)
    assert loaded.config == TINY
    for name, value in loaded.state_dict().items():
        # Of the fraction 12 bits are written.
        torch.testing.assert_close(value, state["average"][name], rtol=2**-13, atol=0)
    assert any(not torch.equal(v, state["model"][n]) for n, v in state["average"].items())


def test_the_average_follows_the_weights_by_its_decay(tmp_path, mr):
    recipe = TWO_STAGES.model_copy(update={"ema_decay": 0.3})
    run = trainer(tmp_path, [mr], recipe)
    name = "log_error.bias"
    weights = [float(run.model.state_dict()[name])]
    averages = [weights[0]]

    def watch(_row) -> None:
        weights.append(float(run.model.state_dict()[name]))
        averages.append(float(run.average.state_dict()[name]))

    run.run(watch)
    expected = weights[0]
    for n, weight in enumerate(weights[1:]):
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weight
        assert averages[n + 1] == pytest.approx(expected, rel=1e-6)
    assert weights[-1] != weights[0]


def test_sixty_updates_on_one_example_lower_its_loss(tmp_path, mr, monkeypatch):
    class OneExample(SimulatedScans):
        def example(self, index: int) -> Example:
            return super().example(0)

    monkeypatch.setattr(loop, "SimulatedScans", OneExample)
    stage = Stage(n_updates=60, learning_rate=1e-2, warmup=3, size=(32,), n_steps=(2,))
    recipe = Recipe(seed=1, tasks={"mri-columns": 1.0}, stages=(stage,))
    losses: list[float] = []
    gains: list[float] = []

    def watch(row) -> None:
        losses.append(row["loss"])
        gains.append(row["psnr"] - row["psnr_x1"])

    trainer(tmp_path, [mr], recipe).run(watch)
    assert losses[-1] < 0.5 * losses[0]
    assert gains[-1] > gains[0] + 3


def test_an_update_that_overflows_leaves_the_weights(tmp_path, mr, monkeypatch):
    run = trainer(tmp_path, [mr])
    before = {n: v.clone() for n, v in run.model.state_dict().items()}
    monkeypatch.setattr(loop, "image_loss", lambda x, *_: (x * math.inf).sum())
    with pytest.raises(PowerCutError):
        run.run(cut_at(2))
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, value in run.average.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_learning_rate_warms_up_and_decays_to_a_tenth(tmp_path, mr):
    stage = Stage(n_updates=110, learning_rate=2e-3, warmup=10)
    rates = [learning_rate(stage, k) for k in range(110)]
    np.testing.assert_allclose(rates[:10], 2e-3 * np.arange(1, 11) / 10)
    k = np.arange(100)
    cosine = 2e-4 + (2e-3 - 2e-4) * (1 + np.cos(np.pi * k / 100)) / 2
    np.testing.assert_allclose(rates[10:], cosine)
    assert learning_rate(Stage(n_updates=5, learning_rate=1.0, warmup=0), 0) == 1.0
    # The optimiser uses it, each stage from its own start.
    run = trainer(tmp_path, [mr])
    used: list[float] = []
    run.run(lambda _row: used.append(run.optimizers[0].param_groups[0]["lr"]))
    expected = [learning_rate(s, k) for s in TWO_STAGES.stages for k in range(4)]
    assert used == expected


def test_a_checkpoint_of_another_architecture_or_recipe_is_refused(whole, mr):
    with pytest.raises(UsageError, match=r"checkpoint\.pt .*another architecture; choose a new"):
        trainer(whole, [mr], config=TINY.model_copy(update={"n_cg": 3}))
    with pytest.raises(UsageError, match=r"checkpoint\.pt .*another recipe; choose a new"):
        trainer(whole, [mr], recipe=TWO_STAGES.model_copy(update={"ssim_weight": 0.2}))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("hello")


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps([1, 2, 3]))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)


def edited(**changes):
    def harm(path: Path) -> None:
        state = torch.load(path, weights_only=True) | changes
        torch.save({k: v for k, v in state.items() if v is not None}, path)

    return harm


@pytest.mark.parametrize(
    "harm",
    [
        truncated,
        empty,
        text,
        bare_pickle,
        flipped,
        edited(update=None),
        edited(update="soon"),
        edited(update=-1),
        edited(update=9),
        edited(config=7),
        edited(config={"attention": True}),
        edited(recipe={"stages": []}),
        edited(model=None),
        edited(model={"unet": torch.zeros(3)}),
        edited(optimizers=7),
        edited(optimizers=[]),
        edited(optimizers=[{"state": {}, "param_groups": []}] * 2),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_the_way_out(harm, whole, mr):
    path = whole / "checkpoint.pt"
    harm(path)
    with pytest.raises(UsageError, match=rf"cannot resume from {path}: .+; remove the") as caught:
        trainer(whole, [mr])
    assert "\n" not in str(caught.value)
    path.unlink()
    # The way out works: without the file a new run begins, with a log of its own.
    assert trainer(whole, [mr]).update == 0
    assert not rows(whole)


class Payload:
    """Unpickled, it leaves a mark on the disk."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_hostile_checkpoint_is_refused_and_not_run(whole, tmp_path, mr):
    mark = tmp_path / "executed"
    torch.save({"config": Payload(mark)}, whole / "checkpoint.pt")
    with pytest.raises(UsageError, match="cannot resume from"):
        trainer(whole, [mr])
    assert not mark.exists()
    # The same file does its harm where it is trusted: the test can fail.
    torch.load(whole / "checkpoint.pt", weights_only=False)
    assert mark.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, mr):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path / 'file'}"):
        trainer(tmp_path / "file", [mr])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always-full device")
def test_a_full_disk_is_said_so(tmp_path, mr):
    run = trainer(tmp_path, [mr])
    (tmp_path / "log.csv").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"log\.csv: the disk is full"):
        run.run(ignore)


def test_an_interrupted_checkpoint_keeps_the_old_one(whole, mr, monkeypatch):
    before = (whole / "checkpoint.pt").read_bytes()
    run = trainer(whole, [mr])

    def half_written(_state, file) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OutputError, match=r"checkpoint\.pt: the disk is full"):
        run.run(ignore)
    assert (whole / "checkpoint.pt").read_bytes() == before
    assert {p.name for p in whole.iterdir()} == {"checkpoint.pt", "log.csv", "weights.safetensors"}
