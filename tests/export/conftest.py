"""A tiny model, awake in every part, and the graphs that are traced from it, once each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import onnx
import pytest
from one_thread import _one_thread  # noqa: F401 - pytest finds it by this import
from tiny_model import awake_model
from tiny_problems import tiny_problem

from ldmpir_edge.export.trace import trace
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.physics.problem import Family

Traced = Callable[[Family, int], onnx.ModelProto]


@pytest.fixture(scope="session")
def model() -> LdmPir:
    return awake_model()


@pytest.fixture(scope="session")
def traced(model: LdmPir) -> Traced:
    """Trace a family and a number of steps; ask for the same again and it is not traced twice."""
    return cache(lambda family, n_steps: trace(model, tiny_problem(family), n_steps))
