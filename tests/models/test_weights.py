"""Weights on disk: what is written comes back, and nothing else is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldmpir_edge.errors import BundleError
from ldmpir_edge.models.config import ModelConfig, preset
from ldmpir_edge.models.weights import load_weights, read_model_toml, save_weights

ZOO = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture
def saved(model, tmp_path) -> Path:
    save_weights(model, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_weights_round_trip(model, saved):
    loaded = load_weights(saved)
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        # Half a unit of the last fraction bit that is written.
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=2**-13, atol=0)
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


@torch.no_grad()
def test_weights_of_before_the_networks_trust_are_those_of_a_trust_of_zero(model, saved):
    head = {name: model.state_dict()[name] for name in ("unet.head.0.weight", "unet.head.0.bias")}
    for tensor in head.values():
        tensor[8:] = 0
    save_weights(model, saved)
    old = load_file(saved)
    for name in head:
        old[name] = old[name][:8].clone()
    save_file(old, saved, metadata={"config": model.config.model_dump_json()})
    for name, value in load_weights(saved).state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=2**-13, atol=0)


def test_written_again_the_weights_are_the_same(saved, tmp_path):
    save_weights(load_weights(saved), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_the_spare_bits_are_zero(model, saved):
    for value in load_file(saved).values():
        mantissas = value.view(torch.int32) & 0x3FF
        assert not mantissas.any()


def test_the_file_is_plain_safetensors(model, saved):
    tensors = load_file(saved)
    assert tensors.keys() == model.state_dict().keys()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def foreign(path: Path) -> None:
    path.write_text("these are not weights")


def without_architecture(path: Path) -> None:
    save_file(load_file(path), path)


def of_another_architecture(path: Path) -> None:
    other = ModelConfig(widths=(8, 8, 8, 16), embedding=8).model_dump_json()
    save_file(load_file(path), path, metadata={"config": other})


def with_an_unknown_entry(path: Path) -> None:
    save_file(load_file(path), path, metadata={"config": '{"attention": true}'})


def without_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    config = ModelConfig(widths=(8, 8, 8, 8), embedding=8, n_cg=3).model_dump_json()
    tensors.pop("log_error.bias")
    save_file(tensors, path, metadata={"config": config})


def with_a_tensor_without_axes(path: Path) -> None:
    tensors = load_file(path)
    config = ModelConfig(widths=(8, 8, 8, 8), embedding=8, n_krylov=2, n_cg=3).model_dump_json()
    tensors["unet.head.0.bias"] = torch.tensor(0.0)
    save_file(tensors, path, metadata={"config": config})


def architecture_is_no_table(path: Path) -> None:
    save_file(load_file(path), path, metadata={"config": "null"})


@pytest.mark.parametrize(
    "harm",
    [
        truncated,
        cut_in_the_header,
        empty,
        missing,
        foreign,
        without_architecture,
        of_another_architecture,
        with_a_tensor_without_axes,
        with_an_unknown_entry,
        without_a_tensor,
        architecture_is_no_table,
    ],
)
def test_a_file_that_is_not_this_models_weights_is_refused(harm, saved):
    harm(saved)
    with pytest.raises(BundleError, match=str(saved)):
        load_weights(saved)


def test_the_released_model_states_the_presets_architecture():
    assert read_model_toml(ZOO / "ldmpir-2m") == preset("ldmpir-2m")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "name = 'x'",
        "[architecture\n",
        "[architecture]\nwidths = 'wide'",
        "[architecture]\nheads = 8",
        "architecture = 5",
    ],
)
def test_a_bad_model_toml_is_refused(text, tmp_path):
    if text is not None:
        (tmp_path / "model.toml").write_text(text)
    with pytest.raises(BundleError, match=r"model\.toml"):
        read_model_toml(tmp_path)
