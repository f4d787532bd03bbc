"""Trace all graphs of a bundle, on all cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from ldmpir_edge.export.trace import trace
from ldmpir_edge.physics.problem import Family, Problem

if TYPE_CHECKING:
    import onnx

    from ldmpir_edge.models.ldmpir import LdmPir

MAX_PROCESSES = 4
"""Each holds torch and a copy of the model: some hundred MB."""


def trace_all(
    model: LdmPir, problems: Mapping[Family, Problem], n_steps: Sequence[int]
) -> Iterator[tuple[Family, int, onnx.ModelProto]]:
    """Yield (family, steps, graph) for every pair, in the order given.

    Tracing is Python and runs on one core; the processes work ahead of the consumer.

    Parameters
    ----------
    model
        Trained model.
    problems
        A small example of each family; only its shapes matter.
    n_steps
        Numbers of sampler steps.
    """
    import onnx

    pairs = [(family, n) for family in problems for n in n_steps]
    # Fork would copy the threads' locks of torch and OpenBLAS in whatever state they are.
    context = get_context("spawn")
    n_processes = min(MAX_PROCESSES, os.cpu_count() or 1)
    with ProcessPoolExecutor(n_processes, mp_context=context) as pool:
        futures = [pool.submit(_trace_bytes, model, problems[family], n) for family, n in pairs]
        for (family, n), future in zip(pairs, futures, strict=True):
            yield family, n, onnx.load_from_string(future.result())


def _trace_bytes(model: LdmPir, problem: Problem, n_steps: int) -> bytes:
    import torch

    # Its neighbours use the other cores.
    torch.set_num_threads(1)
    data: bytes = trace(model, problem, n_steps).SerializeToString()
    return data
