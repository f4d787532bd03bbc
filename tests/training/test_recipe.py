"""A recipe is read whole, or refused with every fault named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldmpir_edge.errors import UsageError
from ldmpir_edge.models.config import ModelConfig, preset
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.training.recipe import Stage, read_recipe

ZOO = Path(__file__).resolve().parents[2] / "models"

GOOD = """
name = "tiny"
[architecture]
widths = [8, 8, 8, 8]
[training]
seed = 3
[training.tasks]
denoise = 1.0
[[training.stages]]
n_updates = 5
learning_rate = 1e-3
size = [32, 48]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "model.toml"
    path.write_text(text)
    return path


def test_a_recipe_is_read(tmp_path):
    config, recipe = read_recipe(write(tmp_path, GOOD))
    assert config == ModelConfig(widths=(8, 8, 8, 8))
    assert recipe.seed == 3
    assert recipe.tasks == {"denoise": 1.0}
    assert recipe.stages == (Stage(n_updates=5, learning_rate=1e-3, size=(32, 48)),)


def test_the_released_recipe_is_valid():
    config, recipe = read_recipe(ZOO / "ldmpir-2m" / "model.toml")
    assert config == preset("ldmpir-2m")
    assert any(stage.n_steps for stage in recipe.stages)
    assert load_weights(ZOO / "ldmpir-2m" / "weights.safetensors").config == config


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("[architecture]", "[arch]", r"architecture: Field required"),
        ("seed = 3", "seed = -1", r"training\.seed"),
        ("seed = 3", "seed = 'x'", r"training\.seed"),
        ("seed = 3", "sede = 3", r"training\.sede: Extra inputs"),
        ("seed = 3", "ema_decay = 1.0", r"training\.ema_decay"),
        ("seed = 3", "gradient_clip = nan", r"training\.gradient_clip"),
        ("denoise = 1.0", "denoize = 1.0", r"training\.tasks\.denoize"),
        ("denoise = 1.0", "denoise = -1.0", r"training\.tasks\.denoise"),
        ("denoise = 1.0", "denoise = 0.0", r"no task has a weight above zero"),
        ("n_updates = 5", "n_updates = 0", r"training\.stages\.0\.n_updates"),
        ("learning_rate = 1e-3", "learning_rate = inf", r"training\.stages\.0\.learning_rate"),
        ("size = [32, 48]", "size = []", r"training\.stages\.0\.size"),
        ("size = [32, 48]", "size = [33]", r"training\.stages\.0\.size\.0: .*multiple of 16"),
        ("size = [32, 48]", "size = [16]", r"training\.stages\.0\.size\.0"),
        ("size = [32, 48]", "n_steps = [4, 0]", r"training\.stages\.0\.n_steps\.1"),
        ("[architecture]", "[architecture", r"cannot read the training recipe"),
    ],
)
def test_a_fault_is_named_with_its_place(old, new, fault, tmp_path):
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UsageError, match=fault) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_needs_a_stage(tmp_path):
    text = GOOD[: GOOD.index("[[")].replace("seed = 3", "stages = []")
    with pytest.raises(UsageError, match=r"training\.stages"):
        read_recipe(write(tmp_path, text))


def test_a_recipe_needs_its_table(tmp_path):
    with pytest.raises(UsageError, match="training: Field required"):
        read_recipe(write(tmp_path, GOOD[: GOOD.index("[training]")]))


def test_a_scalar_in_place_of_a_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match="architecture"):
        read_recipe(write(tmp_path, "architecture = 5\ntraining = 'none'"))


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.toml"):
        read_recipe(tmp_path / "absent.toml")
    binary = tmp_path / "model.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"model\.toml"):
        read_recipe(binary)
