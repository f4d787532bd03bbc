"""Conformance probes: whether a backend computes our operators as ONNX defines them, here.

A backend may load a graph and silently give wrong numbers for one operator, on one kind of
processor only, or from one version on. `ldmpir_edge.export.probes` stored a tiny graph for each
operator of our graphs, in the form in which it occurs there, with the answer of ONNX's reference
evaluator. A probe is small: what depends on the size of a tensor, it does not see.

Graphs are stored as parts of a `ModelProto`. The concatenation of serialised messages is the
serialised message of both (protobuf's encoding, "Last One Wins"), so that all probes of a kind
run as one model without a library that knows ONNX, and each by itself where that model fails.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.bundle import LoadedVariant, ModelInfo, Precision, TensorSpec
from ldmpir_edge.errors import LdmpirError
from ldmpir_edge.runtimes.base import Arrays, Backend

ASSET = Path(str(files("ldmpir_edge"))) / "assets" / "probes.npz"

TOLERANCES: dict[Precision, float] = {
    # float32 in another order of summation; 8 roundings to half; a tie rounded the other way.
    "fp32": 1e-5,
    "fp16": 8 * 2.0**-11,
    "int8": 1e-2,
}
"""Largest error relative to the largest expected value; a miscomputed operator is off by about 1.
Integers must be equal."""

_MODEL = ModelInfo(id="probes", version="1", n_parameters=1, licence="Apache-2.0")


@dataclass(frozen=True)
class Probe:
    """One operator, the inputs it is given and the one output it must give.

    Attributes
    ----------
    name
        The operator with its inputs and attributes, for people.
    precision
        Of the variants that hold it; `fp32` those of the others too.
    relied_on
        Whether a graph of ours holds it. Others are shown and have no consequence.
    head, graph
        Parts of a serialised ModelProto: versions, and the graph with nothing else.
    """

    name: str
    precision: Precision
    relied_on: bool
    head: bytes = field(repr=False)
    graph: bytes = field(repr=False)
    inputs: Arrays = field(repr=False)
    outputs: Arrays = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """What a backend made of a probe.

    `reason` is empty where it conforms; `error` is the largest, relative to the largest expected
    value, or None where there is nothing to compare.
    """

    name: str
    precision: Precision
    relied_on: bool
    reason: str
    error: float | None

    def __str__(self) -> str:
        verb = "cannot run" if self.error is None else "miscomputes"
        return f"{verb} {self.name} ({self.reason})"


def run_probes(backend: Backend, probes: Sequence[Probe] | None = None) -> tuple[Verdict, ...]:
    """Run probes on a backend that can run here; those of the package where none are given."""
    chosen = packaged_probes() if probes is None else probes
    groups = groupby(chosen, key=lambda probe: (probe.head, probe.precision))
    return tuple(verdict for _, group in groups for verdict in _run_group(backend, list(group)))


@cache
def packaged_probes() -> tuple[Probe, ...]:
    """Read the package's probes."""
    return unpack_probes(ASSET.read_bytes())


def pack_probes(probes: Iterable[Probe]) -> bytes:
    """Serialise as an npz of two arrays of bytes: an index in JSON, and all that it counts off."""
    index: list[dict[str, Any]] = []
    data = bytearray()
    for probe in probes:
        entry: dict[str, Any] = {
            "name": probe.name,
            "precision": probe.precision,
            "relied_on": probe.relied_on,
            "head": len(probe.head),
            "graph": len(probe.graph),
        }
        data += probe.head + probe.graph
        for part, arrays in (("inputs", probe.inputs), ("outputs", probe.outputs)):
            entry[part] = {name: [a.dtype.str, a.shape] for name, a in arrays.items()}
            data += b"".join(array.tobytes() for array in arrays.values())
        index.append(entry)
    buffer = io.BytesIO()
    text = json.dumps(index).encode()
    # The same bytes for the same probes: NumPy dates every entry 1980.
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        index=np.frombuffer(text, np.uint8),
        data=np.frombuffer(data, np.uint8),
    )
    return buffer.getvalue()


def unpack_probes(packed: bytes) -> tuple[Probe, ...]:
    """Read what `pack_probes` wrote; nothing is unpickled."""
    with np.load(io.BytesIO(packed), allow_pickle=False) as npz:
        index, data = json.loads(npz["index"].tobytes()), io.BytesIO(npz["data"].tobytes())

    def read(specs: dict[str, tuple[str, list[int]]]) -> Arrays:
        arrays: Arrays = {}
        for name, (dtype, shape) in specs.items():
            size = np.dtype(dtype).itemsize * math.prod(shape)
            arrays[name] = np.frombuffer(data.read(size), dtype).reshape(shape)
        return arrays

    return tuple(
        # In the order in which they were written.
        Probe(
            name=entry["name"],
            precision=entry["precision"],
            relied_on=entry["relied_on"],
            head=data.read(entry["head"]),
            graph=data.read(entry["graph"]),
            inputs=read(entry["inputs"]),
            outputs=read(entry["outputs"]),
        )
        for entry in index
    )


def _run_group(backend: Backend, probes: list[Probe]) -> list[Verdict]:
    try:
        outputs = _compute(backend, probes)
    except LdmpirError as err:
        if len(probes) == 1:
            return [_verdict(probes[0], str(err), None)]
        # Which one it is, each by itself will say.
        return [verdict for probe in probes for verdict in _run_group(backend, [probe])]
    return [_judge(probe, outputs) for probe in probes]


def _compute(backend: Backend, probes: list[Probe]) -> Arrays:
    inputs = {name: array for probe in probes for name, array in probe.inputs.items()}
    expected = {name: array for probe in probes for name, array in probe.outputs.items()}
    with tempfile.TemporaryDirectory(prefix="ldmpir-probes-") as folder:
        path = Path(folder) / "probes.onnx"
        path.write_bytes(probes[0].head + b"".join(probe.graph for probe in probes))
        variant = LoadedVariant(
            graph=path,
            family="pointwise",
            n_steps=1,
            precision=probes[0].precision,
            inputs=_specs(inputs),
            outputs=_specs(expected),
            model=_MODEL,
            source_hashes={},
        )
        with backend.load(variant, threads=1) as engine:
            return engine.run(inputs)


def _specs(arrays: Arrays) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec.model_validate({"name": name, "dtype": str(array.dtype), "shape": array.shape})
        for name, array in arrays.items()
    )


def _judge(probe: Probe, outputs: Arrays) -> Verdict:
    error = max(_error(outputs[name], array) for name, array in probe.outputs.items())
    allowed = TOLERANCES[probe.precision]
    reason = "" if error <= allowed else f"the largest error is {error:.1e} ({allowed:.0e} allowed)"
    return _verdict(probe, reason, error)


def _error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0 if np.array_equal(actual, expected) else 1.0
    wide = expected.astype(np.float64)
    return float(np.abs(actual - wide).max() / (np.abs(wide).max() or 1.0))


def _verdict(probe: Probe, reason: str, error: float | None) -> Verdict:
    return Verdict(probe.name, probe.precision, probe.relied_on, reason, error)
