"""A model small enough to train, trace and export within a test."""

from __future__ import annotations

from pathlib import Path

import torch

from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.weights import save_weights

TINY = ModelConfig(widths=(8, 8, 8, 8), embedding=8, n_krylov=2, n_cg=3)

MODEL_TOML = """
name = "tiny"
version = "0.0.1"
licence = "Apache-2.0"

[architecture]
widths = [8, 8, 8, 8]
embedding = 8
n_cg = 3
"""

TARGET = """
name = "tiny"
description = "for tests"
n_steps = [1]
default_n_steps = 1
gate_backends = ["onnxruntime"]

[limits]
min_height = 16
max_height = 64
min_width = 16
max_width = 64
max_coils = 8
max_views = 90
"""


def fresh_model() -> LdmPir:
    """A tiny model as training starts it: its U-Net answers zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return LdmPir(TINY).eval()


def awake_model() -> LdmPir:
    """The same with noise on every weight, so that none of its parts is silent."""
    model = fresh_model()
    draws = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
    return model


def save_model(folder: Path, model: LdmPir) -> Path:
    """Write a model folder as `ldmpir-edge export` takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / "weights.safetensors")
    (folder / "model.toml").write_text(MODEL_TOML)
    return folder
