"""A tiny model, awake in every part, and the graphs that are traced from it, once each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import onnx
import pytest
import torch
from tiny_model import awake_model
from tiny_problems import tiny_problem

from ldmpir_edge.export.trace import trace
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.physics.problem import Family

Traced = Callable[[Family, int], onnx.ModelProto]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model() -> LdmPir:
    return awake_model()


@pytest.fixture(scope="session")
def traced(model: LdmPir) -> Traced:
    """Trace a family and a number of steps; ask for the same again and it is not traced twice."""
    return cache(lambda family, n_steps: trace(model, tiny_problem(family), n_steps))
