"""A tiny model with every weight awake, and one thread, since the machine is shared."""

from __future__ import annotations

import pytest
from one_thread import _one_thread  # noqa: F401 - pytest finds it by this import
from tiny_model import awake_model, fresh_model
from tiny_problems import tiny_problem

from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.physics.problem import FAMILIES, Family, Problem


@pytest.fixture(scope="session")
def problems() -> dict[Family, Problem]:
    """A 32-pixel problem of every family."""
    return {family: tiny_problem(family) for family in FAMILIES}


@pytest.fixture
def fresh() -> LdmPir:
    """A tiny model as training starts it: its U-Net answers zero."""
    return fresh_model()


@pytest.fixture
def model() -> LdmPir:
    """The same with noise on every weight, so that none of its parts is silent."""
    return awake_model()
