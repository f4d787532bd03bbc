"""A tiny model with every weight awake, and one thread, since the machine is shared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_problems import tiny_problem

from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.physics.problem import FAMILIES, Family, Problem

TINY = ModelConfig(widths=(8, 8, 8, 8), embedding=8, n_cg=3)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def problems() -> dict[Family, Problem]:
    """A 32-pixel problem of every family."""
    return {family: tiny_problem(family) for family in FAMILIES}


@pytest.fixture
def fresh() -> LdmPir:
    """A tiny model as training starts it: its U-Net answers zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return LdmPir(TINY).eval()


@pytest.fixture
def model(fresh: LdmPir) -> LdmPir:
    """The same with noise on every weight, so that none of its parts is silent."""
    draws = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
    return fresh
