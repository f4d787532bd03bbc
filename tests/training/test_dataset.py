"""Examples depend on the seed and their index alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_problems import disc
from torch.utils.data import DataLoader

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.models.engine import engine_inputs
from ldmpir_edge.training import dataset
from ldmpir_edge.training.acquisitions import FINER
from ldmpir_edge.training.dataset import ECHO_BLOCK, SimulatedScans, to_tensors
from ldmpir_edge.training.images import ImageStack
from ldmpir_edge.training.recipe import Recipe, Stage

STAGES = (Stage(n_updates=1, learning_rate=1e-3),)
MIX = Recipe(seed=5, stages=STAGES)


def scans(stacks, recipe=MIX, sizes=(32,), start=0, length=20, echo=1) -> SimulatedScans:
    return SimulatedScans(stacks, recipe, sizes, start, length, echo)


def assert_same(a, b) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, dict):
            assert_same(value, b[name])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
        else:
            assert value == b[name], name


def test_an_example_is_a_function_of_seed_and_index(mr, ct):
    whole = scans([mr, ct])
    late = scans([mr, ct], start=5, length=3)
    assert len(whole) == 20
    assert len(late) == 3
    # In any order, from any start.
    for index in (7, 5, 6):
        assert_same(whole[index], late[index - 5])
        assert_same(to_tensors(whole.example(index)), late[index - 5])
    assert not torch.equal(whole[5]["target"], whole[6]["target"])
    other = scans([mr, ct], recipe=MIX.model_copy(update={"seed": 6}))
    assert not torch.equal(whole[5]["target"], other[5]["target"])


def test_echo_uses_every_example_equally_often_in_an_order_of_the_seed(mr):
    data = scans([mr], length=3 * 2 * ECHO_BLOCK, echo=3)
    order = [data.source(k) for k in range(len(data))]
    for block in range(2):
        first = block * ECHO_BLOCK
        used = sorted(order[3 * first : 3 * (first + ECHO_BLOCK)])
        assert used == sorted(3 * list(range(first, first + ECHO_BLOCK)))
    # Spread out: hardly any example follows itself.
    assert sum(a == b for a, b in pairwise(order)) < 10
    assert order == [scans([mr], echo=3).source(k) for k in range(len(data))]
    assert order != [
        scans([mr], MIX.model_copy(update={"seed": 6}), echo=3).source(k) for k in range(len(data))
    ]


def test_what_is_super_resolved_fills_its_spectrum(rng, monkeypatch):
    """Scanners fill k-space up with zeros: a finer grid of that holds nothing more."""
    monkeypatch.setattr(dataset, "P_SHORTER", 0.0)
    monkeypatch.setattr(dataset, "P_NATIVE", 1.0)
    monkeypatch.setattr(dataset, "P_DISCS", 0.0)
    monkeypatch.setattr(dataset, "random_contrast", lambda image, rng: image)
    filled = np.fft.fftshift(np.fft.fft2(rng.standard_normal((128, 128))))
    outside = np.abs(np.arange(128) - 64) > 48
    filled[outside] = filled[:, outside] = 0
    texture = np.fft.ifft2(np.fft.ifftshift(filled)).real
    y, x = np.mgrid[-64:64, -64:64]
    image = np.exp(-(x**2 + y**2) / 2 / 14**2) * (1 + 0.2 * texture)
    stack = ImageStack("zero-filled", "mr", image[None].astype(np.float32))

    def top(task):
        recipe = MIX.model_copy(update={"tasks": {task: 1.0}})
        targets = [scans([stack], recipe, sizes=(128,))[k]["target"][0, 0] for k in range(6)]
        spectra = [np.fft.fftshift(np.abs(np.fft.fft2(target)) ** 2) for target in targets]
        sides = [len(s) for s in spectra]
        edges = [np.abs(np.arange(n) - n // 2) > 0.9 * n / 2 for n in sides]
        return [
            min(s[e].sum(), s[:, e].sum()) / s.sum() for s, e in zip(spectra, edges, strict=True)
        ]

    assert min(top("super-resolve")) > 10 * max(top("inpaint"))


def test_an_image_of_less_kspace_fills_its_canvas(rng, monkeypatch):
    """Zeros round it would say that where there is no signal there is no noise."""
    monkeypatch.setattr(dataset, "P_SHORTER", 1.0)
    monkeypatch.setattr(dataset, "P_NATIVE", 1.0)
    monkeypatch.setattr(dataset, "P_DISCS", 0.0)
    image = 100 + 20 * rng.standard_normal((1, 128, 128)).astype(np.float32)
    recipe = MIX.model_copy(update={"tasks": {"inpaint": 1.0}})
    data = scans([ImageStack("grainy", "mr", image)], recipe, sizes=(128,))
    targets = [data[k]["target"][0, 0] for k in range(8)]
    assert {t.shape[0] for t in targets} <= {64, 80, 96}
    # What is left is the shift, of 6 % at most, to either side.
    assert max(float((t < 1e-3).float().mean()) for t in targets) < 1 - 0.94**2
    oblong = scans([ImageStack("oblong", "mr", image[:, :, :96])], recipe, sizes=(128,))
    targets = [oblong[k]["target"][0, 0] for k in range(8)]
    assert {t.shape for t in targets} <= {(48, 48), (64, 64)}
    assert max(float((t < 1e-3).float().mean()) for t in targets) < 1 - 0.94**2
    # A recipe's size is never exceeded, and what has no more pixels than a tile gets one.
    data = scans([ImageStack("grainy", "mr", image)], recipe, sizes=(64,))
    assert {data[k]["target"].shape[-1] for k in range(8)} == {64}
    small = ImageStack("small", "mr", image[:, :20, :20])
    assert {scans([small], recipe)[k]["target"].shape[-1] for k in range(4)} == {16}


def test_an_echoed_example_is_simulated_once(mr, monkeypatch):
    data = scans([mr], length=2 * ECHO_BLOCK, echo=2)
    made: list[int] = []
    simulate = SimulatedScans.example
    monkeypatch.setattr(
        SimulatedScans, "example", lambda self, k: made.append(k) or simulate(self, k)
    )
    for k in range(2 * ECHO_BLOCK):
        assert_same(data[k], to_tensors(simulate(data, data.source(k))))
    assert sorted(made) == list(range(ECHO_BLOCK))
    # What was handed out may be changed or moved by its taker.
    data[0]["target"].zero_()
    assert_same(data[0], to_tensors(simulate(data, data.source(0))))
    # Stages start where they like, but draw examples of their own.
    apart = SimulatedScans([mr], MIX, (32,), 0, 10, 2, offset=1000)
    assert_same(apart[3], to_tensors(simulate(data, 1000 + data.source(3))))
    # From the middle, as after a resumption.
    assert_same(scans([mr], start=17, echo=2)[3], data[20])


def test_worker_processes_give_the_same_examples(mr, ct):
    data = scans([mr, ct], length=4)
    for k, item in enumerate(DataLoader(data, batch_size=None, num_workers=1)):
        assert_same(item, data[k])


def test_tasks_come_in_their_proportions(mr):
    recipe = Recipe(stages=STAGES, tasks={"denoise": 3.0, "inpaint": 1.0, "super-resolve": 0.0})
    data = scans([mr], recipe)
    tasks = [data[k]["task"] for k in range(80)]
    assert set(tasks) == {"denoise", "inpaint"}
    # 60 expected, with a deviation of 3.9.
    assert 48 <= tasks.count("denoise") <= 72


def test_sizes_are_drawn_from_the_stage(mr, monkeypatch):
    monkeypatch.setattr(dataset, "P_SHORTER", 0.0)
    recipe = Recipe(stages=STAGES, tasks={"denoise": 1.0})
    data = scans([mr], recipe, sizes=(32, 48))
    assert {data[k]["target"].shape[-1] for k in range(20)} == {32, 48}


@pytest.mark.parametrize("modality", ["mr", "ct"])
def test_tasks_that_no_image_serves_are_left_out(modality, mr, ct):
    data = scans([mr if modality == "mr" else ct])
    seen = {data.example(k).problem.task for k in range(15)}
    assert ("mri" in seen) == (modality == "mr")
    assert ("ct" in seen) == (modality == "ct")


def test_each_modality_feeds_its_own_tasks(mr, ct):
    data = scans([mr, ct])
    pairs = {(e.problem.task, e.problem.modality) for e in map(data.example, range(30))}
    assert ("mri", "mr") in pairs
    assert ("ct", "ct") in pairs
    assert not {("mri", "ct"), ("ct", "mr")} & pairs
    assert {m for task, m in pairs if task in ("denoise", "inpaint", "super-resolve")} == {
        "mr",
        "ct",
    }


def test_a_recipe_without_a_possible_task_is_refused(mr):
    with pytest.raises(ScanDataError, match=r"none of the 1 image volumes .*\(ct\)"):
        scans([mr], Recipe(stages=STAGES, tasks={"ct": 1.0}))
    with pytest.raises(ScanDataError, match="none of the 0"):
        scans([])


def test_large_volumes_are_drawn_by_the_root_of_their_slices():
    # 16 slices against 1: drawn 4 : 1, told apart by how much of the frame they fill.
    left, right = np.zeros((2, 64, 64), np.float32)
    left[:, :] = 1.0
    left[28:36, 28:36] = 0.2
    right[20:44, 20:44] = 1.0
    stacks = [
        ImageStack("many", "mr", np.repeat(left[None], 16, axis=0)),
        ImageStack("one", "mr", right[None]),
    ]
    data = scans(stacks, Recipe(stages=STAGES, tasks={"super-resolve": 1.0}))
    full = [float((data[k]["target"][:, 0] > 0.3).float().mean()) > 0.5 for k in range(100)]
    assert 66 <= sum(full) <= 92


def test_a_modality_of_many_volumes_does_not_drown_the_other(mr, ct):
    # 16 volumes against 1: drawn 4 : 1.
    data = scans([mr] * 16 + [ct], Recipe(stages=STAGES, tasks={"denoise": 1.0}))
    n_mr = sum(data.example(k).problem.modality == "mr" for k in range(100))
    assert 66 <= n_mr <= 92


def test_ct_padding_becomes_air(ct):
    data = scans([ct], Recipe(stages=STAGES, tasks={"inpaint": 1.0}))
    for k in range(10):
        assert float(data[k]["target"].min()) >= 0


def test_an_empty_slice_is_passed_over_and_an_empty_volume_named():
    image = (100 * disc(48)).astype(np.float32)
    mostly_empty = ImageStack("half", "mr", np.stack([np.zeros_like(image), image]))
    recipe = Recipe(stages=STAGES, tasks={"denoise": 1.0})
    for k in range(10):
        assert scans([mostly_empty], recipe)[k]["target"].max() > 0.1
    with pytest.raises(ScanDataError, match="nothing-there"):
        scans([ImageStack("nothing-there", "mr", np.zeros((2, 48, 48)))], recipe)[0]


@pytest.mark.parametrize("task", ["mri-columns", "ct", "denoise", "super-resolve"])
@pytest.mark.parametrize("size", [32, 40])
def test_spots_are_where_discs_were_put(task, size, mr, ct, monkeypatch):
    finer = FINER.get(task, 1)

    def one_square(image, unit, rng):
        changed = image.copy()
        changed[12 * finer : 16 * finer, 20 * finer : 25 * finer] += 4000
        return changed

    monkeypatch.setattr(dataset, "random_discs", one_square)
    monkeypatch.setattr(dataset, "P_DISCS", 1.0)
    # So large that what is cut in k-space still has as many pixels as asked for.
    mr = ImageStack("large", "mr", mr.slices.repeat(2, axis=1).repeat(2, axis=2))
    item = scans([mr, ct], Recipe(stages=STAGES, tasks={task: 1.0}), sizes=(size,))[0]
    assert item["spots"].shape == (1, 1, *item["target"].shape[2:])
    rows, columns = np.nonzero(item["spots"][0, 0].numpy())
    assert len(rows) == 4 * 5
    # The brightest pixels are those of the square, wherever padding has put it.
    brightness = item["target"][0].norm(dim=0)
    assert float(brightness[rows, columns].min()) > float(brightness.quantile(0.9))
    monkeypatch.setattr(dataset, "P_DISCS", 0.0)
    plain = scans([mr, ct], Recipe(stages=STAGES, tasks={task: 1.0}), sizes=(size,))[0]
    assert not plain["spots"].any()


def test_an_item_feeds_the_engine(mr, ct):
    for item in map(scans([mr, ct]).__getitem__, range(10)):
        names = {*item, *item["tables"]} - {"family", "task", "target", "spots", "tables"}
        assert names == set(engine_inputs(item["family"], 1))
        assert item["noise_level"].shape == (1,)
        assert item["condition"].sum() == 2
