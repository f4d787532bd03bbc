"""Weights on disk: safetensors beside a model.toml that states the architecture."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.errors import BundleError
from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.models.ldmpir import LdmPir

FRACTION_BITS = 12
"""Of float32's 23 that are written: the rest is noise of the training, and cannot be compressed. A
wheel is 2 MB smaller without it, and the image the same to 1e-4 of its bright end."""


def save_weights(model: LdmPir, path: Path) -> None:
    """Write the weights as safetensors, with the architecture in the metadata.

    They are float32, rounded to `FRACTION_BITS`.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    tensors = {name: _rounded(value) for name, value in model.state_dict().items()}
    data = save(tensors, metadata={"config": model.config.model_dump_json()})
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def _rounded(value: Tensor) -> Tensor:
    spare = 23 - FRACTION_BITS
    bits = value.detach().contiguous().view(torch.int32)
    # Of a float, the integer's carry from the fraction into the exponent is the next power of two.
    return ((bits + (1 << (spare - 1))) & -(1 << spare)).view(torch.float32)


def load_weights(path: Path) -> LdmPir:
    """Read a model from safetensors written by `save_weights`, in evaluation mode.

    Raises
    ------
    BundleError
        The file is missing, damaged, or its tensors do not fit its architecture.
    """
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors: dict[str, Tensor] = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a dict
        model = LdmPir(ModelConfig(**json.loads(metadata["config"])))
        model.load_state_dict(_with_trust(tensors, model))
    except (
        OSError,
        SafetensorError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as err:
        raise BundleError(
            f"cannot load weights from {path}: {err}; train them with 'ldmpir-edge train' "
            "or restore the released file"
        ) from err
    return model.eval()


def _with_trust(tensors: dict[str, Tensor], model: LdmPir) -> dict[str, Tensor]:
    """Give weights up to 0.9.0, whose network answered with a correction alone, a trust of zero."""
    n_planes = 3
    for name in ("unet.head.0.weight", "unet.head.0.bias"):
        missing = model.get_parameter(name).shape[0] // n_planes
        if tensors[name].shape[0] == (n_planes - 1) * missing:
            rows = tensors[name].new_zeros(missing, *tensors[name].shape[1:])
            tensors[name] = torch.cat([tensors[name], rows])
    return tensors


def read_model_toml(folder: Path) -> ModelConfig:
    """Read the architecture from `folder/model.toml`.

    Raises
    ------
    BundleError
        The file is missing or is not valid.
    """
    path = folder / "model.toml"
    try:
        return ModelConfig(**tomllib.loads(path.read_text())["architecture"])
    except (OSError, KeyError, TypeError, ValueError) as err:
        raise BundleError(f"cannot read the architecture from {path}: {err}") from err
