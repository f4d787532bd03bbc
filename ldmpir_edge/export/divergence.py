"""Find the nodes of a graph that two engines compute differently.

One engine runs the graph with every value inside it as an output. Then both run every node by
itself, on these values: what one node does differently, those behind it do not inherit. Without
that, two sound engines differ by more than a tenth deep inside an int8 graph, where a last bit
decides on which level a number lands.

An engine cannot fuse across an output: what goes wrong only in a fused kernel does not show here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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

TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-3, "int8": 0.1}
"""Largest difference between two sound engines, relative to a value's largest number. They sum in
another order and, in half precision, round that; OpenVINO halves the kernels of int8 convolutions,
and loses their last bit, on processors without VNNI. ONNX Runtime and OpenVINO were within 1e-5,
6e-4 and 6e-2 on ldmpir-2m's golden pairs on such a processor."""

BATCH = 500
"""Nodes in one graph: at the size of a golden pair their values are some megabytes."""

_GIVEN = "_given"


@dataclass(frozen=True)
class Divergence:
    """A node whose output differs although the same goes into it.

    Parameters
    ----------
    node, op_type, value
        The node's name, its operator and the output that differs.
    difference
        Largest difference relative to the value's largest number; None where only one is finite, or
        the shapes differ.
    """

    node: str
    op_type: str
    value: str
    difference: float | None


def compare_layers(
    bundle: Bundle,
    family: Family,
    precision: Precision,
    backends: tuple[str, str],
    on_progress: Progress = lambda done, total: None,
) -> list[Divergence]:
    """Compare two engines on a family's golden pair, for the default number of steps.

    Parameters
    ----------
    bundle, family, precision
        Which graph.
    backends
        The engine whose values every node gets, and the other one.
    on_progress
        As for `find_divergences`.

    Raises
    ------
    UsageError
        There is no such backend.
    BundleError
        The bundle lacks the variant or its golden pair.
    BackendError
        An engine does not take such a graph, or fails.
    """
    import onnx

    variant = bundle.extract(family, bundle.manifest.sampler.default_n_steps, precision)
    first, second = (_runner(get_backend(name), variant) for name in backends)
    graph, inputs = onnx.load(variant.graph), bundle.golden(family).inputs
    tolerance = TOLERANCES[precision]
    return list(find_divergences(graph, inputs, (first, second), tolerance, on_progress))


def find_divergences(
    graph: onnx.ModelProto,
    inputs: Arrays,
    runners: tuple[Runner, Runner],
    tolerance: float,
    on_progress: Progress = lambda done, total: None,
) -> Iterator[Divergence]:
    """Yield the nodes, in the graph's order, that two engines compute differently.

    Parameters
    ----------
    graph
        With its weights inside; its nodes in the order of execution, as ONNX requires.
    inputs
        By name, exactly the graph's.
    runners
        The engine whose values every node gets, and the other one.
    tolerance
        Of the difference, relative to a value's largest number: see `TOLERANCES`.
    on_progress
        Called with (nodes done, nodes to do), of which each counts twice.

    Raises
    ------
    BackendError
        An engine does not take such a graph, or fails.
    """
    from polygraphy.backend.onnx import modify_outputs
    from polygraphy.logger import G_LOGGER

    nodes = list(graph.graph.node)
    values: dict[str, NDArray[Any]] = dict(inputs)
    done = 0
    for batch in _batches(nodes):
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            marked = modify_outputs(graph, outputs=_outputs(batch), copy=True)
        values |= runners[0](marked, inputs)
        done += len(batch)
        on_progress(done, 2 * len(nodes))
    given = _given_values(nodes, values)
    for batch in _batches(nodes):
        apart, fed = _take_apart(graph, batch, given, inputs)
        ours, theirs = (run(apart, fed) for run in runners)
        for node in batch:
            for name in filter(None, node.output):
                difference = _difference(ours[name], theirs[name])
                if difference > tolerance:
                    finite = difference if np.isfinite(difference) else None
                    yield Divergence(node.name, node.op_type, name, finite)
        done += len(batch)
        on_progress(done, 2 * len(nodes))


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


def _batches(nodes: Sequence[onnx.NodeProto]) -> Iterator[Sequence[onnx.NodeProto]]:
    return (nodes[start : start + BATCH] for start in range(0, len(nodes), BATCH))


def _outputs(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    return [name for node in nodes for name in node.output if name]


def _given_values(nodes: Sequence[onnx.NodeProto], values: Arrays) -> Arrays:
    """Choose the values that nodes are given: numbers, not shapes and indices.

    What DequantizeLinear makes is not given: it belongs to the node that reads it, which is
    computed in integers only where the engine sees both.
    """
    made = {name: node.op_type for node in nodes for name in node.output}
    return {
        name: array
        for name, array in values.items()
        if (array.dtype.kind == "f" and made.get(name) != "DequantizeLinear")
        or made.get(name) == "QuantizeLinear"
    }


def _take_apart(
    graph: onnx.ModelProto, wanted: Sequence[onnx.NodeProto], given: Arrays, inputs: Arrays
) -> tuple[onnx.ModelProto, Arrays]:
    """Make a graph in which each wanted node reads given values in place of computed ones.

    Returns
    -------
        The graph, whose outputs are those of the wanted nodes, and what it must be fed.
    """
    import onnx
    from onnx import helper

    made_by = {name: node for node in graph.graph.node for name in node.output}
    kept = {node.output[0]: node for node in wanted}
    pending = list(wanted)
    while pending:
        for name in pending.pop().input:
            source = made_by.get(name)
            if source is not None and name not in given and source.output[0] not in kept:
                kept[source.output[0]] = source
                pending.append(source)
    apart = onnx.ModelProto()
    apart.CopyFrom(graph)
    del apart.graph.node[:], apart.graph.input[:], apart.graph.output[:], apart.graph.value_info[:]
    fed: dict[str, NDArray[Any]] = {}
    for node in graph.graph.node:
        if node.output[0] not in kept:
            continue
        copy = apart.graph.node.add()
        copy.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in given:
                copy.input[place] = name + _GIVEN
                fed[name + _GIVEN] = given[name]
    used = {name for node in apart.graph.node for name in node.input}
    for name, array in fed.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        apart.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    for entry in graph.graph.input:
        if entry.name in used:  # indices, which are not given
            apart.graph.input.append(entry)
            fed[entry.name] = inputs[entry.name]
    apart.graph.output.extend(onnx.ValueInfoProto(name=name) for name in _outputs(wanted))
    weights = [tensor for tensor in graph.graph.initializer if tensor.name in used]
    del apart.graph.initializer[:]
    apart.graph.initializer.extend(weights)
    return apart, fed


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return the largest difference over the largest number, infinite where that means nothing."""
    if ours.shape != theirs.shape:
        return np.inf
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    # Infinity minus itself is no number, but no difference either.
    parted = (a != b) & ~(np.isnan(a) & np.isnan(b))
    largest = float(np.abs(a[parted] - b[parted]).max(initial=0.0))
    if ours.dtype.itemsize == 1 and largest <= 1:
        return 0.0  # the next level: what lies between two may be rounded to either
    size = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    if largest == 0:
        return 0.0
    return largest / size if size and np.isfinite(largest) else np.inf
