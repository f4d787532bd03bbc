"""Find the first node of a graph at which two engines part.

Every value inside the graph is made an output, and both engines are run on the golden pair's
inputs. An engine cannot fuse across an output: what goes wrong only in a fused kernel does not
show here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.bundle import Bundle, LoadedVariant, Precision
from ldmpir_edge.physics.problem import Family
from ldmpir_edge.runtimes import Backend, get_backend

if TYPE_CHECKING:
    import onnx

Arrays = Mapping[str, NDArray[Any]]
Runner = Callable[["onnx.ModelProto", Arrays], Arrays]
"""Runs a graph on inputs and gives its outputs by name, whatever they hold."""
Progress = Callable[[int, int], None]

TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
"""Largest difference between two sound engines, relative to a value's largest number. They sum in
another order, and in int8 a last bit moves what lies between two levels by a whole one. On the
golden pairs of ldmpir-2m, OpenVINO and ONNX Runtime were within 4e-5 in fp32 and 2e-3 in fp16."""

BATCH = 500
"""Values looked at in one run: at the size of a golden pair some megabytes."""

_ROUNDED_LIKE_INPUTS = frozenset({"Add", "Sub", "Relu", "Slice", "Gather"})
"""Operators whose output may be much smaller than what it is made of, and no more exact."""


@dataclass(frozen=True)
class Divergence:
    """The first node whose output differs although its inputs do not.

    Parameters
    ----------
    node, op_type, value
        The node's name, its operator and the output that differs.
    difference
        Largest difference relative to the value's largest number; None where only one is finite, or
        the shapes differ.
    inputs_difference
        The same of the values that go into the node, the largest of them.
    """

    node: str
    op_type: str
    value: str
    difference: float | None
    inputs_difference: float


def compare_layers(
    bundle: Bundle,
    family: Family,
    precision: Precision,
    backends: tuple[str, str],
    on_progress: Progress = lambda done, total: None,
) -> Divergence | None:
    """Compare two engines on a family's golden pair, for the default number of steps.

    Parameters
    ----------
    bundle, family, precision
        Which graph.
    backends
        The engine that is trusted, and the one that is asked about.
    on_progress
        As for `first_divergence`.

    Raises
    ------
    UsageError
        There is no such backend.
    BundleError
        The bundle lacks the variant or its golden pair.
    BackendError
        An engine does not take the graph with every value as an output, or fails.
    """
    import onnx

    trusted, asked = (get_backend(name) for name in backends)
    variant = bundle.extract(family, bundle.manifest.sampler.default_n_steps, precision)
    return first_divergence(
        onnx.load(variant.graph),
        bundle.golden(family).inputs,
        (_runner(trusted, variant), _runner(asked, variant)),
        TOLERANCES[precision],
        on_progress,
    )


def _runner(backend: Backend, variant: LoadedVariant) -> Runner:
    """Run changed copies of a variant's graph with the settings that the engine has in a scan."""

    def run(graph: onnx.ModelProto, inputs: Arrays) -> Arrays:
        import onnx

        with tempfile.TemporaryDirectory(prefix="ldmpir-layers-") as folder:
            path = Path(folder) / "graph.onnx"
            onnx.save(graph, path)
            with backend.load(replace(variant, graph=path, content_sha256=None)) as engine:
                return engine.compute(inputs)

    return run


def first_divergence(
    graph: onnx.ModelProto,
    inputs: Arrays,
    runners: tuple[Runner, Runner],
    tolerance: float,
    on_progress: Progress = lambda done, total: None,
) -> Divergence | None:
    """Find the first node, in the graph's order, that two engines compute differently.

    Parameters
    ----------
    graph
        With its weights inside; its nodes in the order of execution, as ONNX requires.
    inputs
        By name, exactly the graph's.
    runners
        The engine that is trusted, and the one that is asked about.
    tolerance
        Of the difference relative to a value's largest number; see `TOLERANCES`.
    on_progress
        Called with (values compared, values in all).

    Returns
    -------
        None where all values agree.

    Raises
    ------
    BackendError
        An engine does not take the graph with these outputs, or fails.
    """
    from polygraphy.backend.onnx import modify_outputs
    from polygraphy.logger import G_LOGGER

    values = [(node, name) for node in graph.graph.node for name in node.output if name]
    sizes = {name: _largest(array) for name, array in inputs.items()}
    differences = dict.fromkeys(inputs, 0.0)
    for start in range(0, len(values), BATCH):
        batch = values[start : start + BATCH]
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            marked = modify_outputs(graph, outputs=[name for _, name in batch], copy=True)
        trusted, asked = (run(marked, inputs) for run in runners)
        for node, name in batch:
            sources = node.input if node.op_type in _ROUNDED_LIKE_INPUTS else []
            sizes[name] = max(_largest(trusted[name]), *(sizes.get(s, 0.0) for s in sources), 0.0)
            differences[name] = _difference(trusted[name], asked[name], sizes[name])
            if differences[name] > tolerance:
                return Divergence(
                    node.name,
                    node.op_type,
                    name,
                    differences[name] if np.isfinite(differences[name]) else None,
                    max((differences.get(source, 0.0) for source in node.input), default=0.0),
                )
        on_progress(start + len(batch), len(values))
    return None


def _largest(array: NDArray[Any]) -> float:
    finite = array[np.isfinite(array)].astype(np.float64)
    return float(np.abs(finite).max(initial=0.0))


def _difference(trusted: NDArray[Any], asked: NDArray[Any], size: float) -> float:
    if trusted.shape != asked.shape:
        return np.inf
    a, b = trusted.astype(np.float64), asked.astype(np.float64)
    # Infinity minus itself is no number, but no difference either.
    parted = (a != b) & ~(np.isnan(a) & np.isnan(b))
    largest = float(np.abs(a[parted] - b[parted]).max(initial=0.0))
    if largest == 0:
        return 0.0
    return largest / size if size and np.isfinite(largest) else np.inf
