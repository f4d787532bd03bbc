"""What a precision does to one graph, and which of its layers may be left out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ldmpir_edge.bundle import Precision
from ldmpir_edge.errors import GateError
from ldmpir_edge.export.int8 import activation_ranges, int8_layers, to_int8
from ldmpir_edge.export.overflow import overflowing_layers
from ldmpir_edge.export.precision import network_layers, to_half
from ldmpir_edge.physics.problem import Problem

if TYPE_CHECKING:
    import onnx

Rewrite = Callable[[frozenset[str]], "onnx.ModelProto"]


@dataclass(frozen=True)
class Lowering:
    """One graph and a way to rewrite it.

    Parameters
    ----------
    precision
        What the result is called.
    layers
        Those that `rewrite` can change; none for fp32.
    barred
        Those of them that must stay as they are, whatever a gate measures.
    rewrite
        Gives the graph with the layers named left in fp32.
    """

    precision: Precision
    layers: tuple[str, ...]
    barred: frozenset[str]
    rewrite: Rewrite = field(repr=False)

    def is_pointless(self, keep: frozenset[str]) -> bool:
        """Tell whether so many layers are kept that the precision would be one in name only."""
        return 2 * len(keep) > len(self.layers)


def lower(
    graph: onnx.ModelProto,
    precision: Precision,
    n_steps: int,
    *,
    calibration: Sequence[Problem],
    judged_on: Sequence[Problem],
) -> Lowering:
    """Prepare a traced fp32 graph for a precision.

    Parameters
    ----------
    graph, n_steps
        From `trace`.
    precision
        Wanted.
    calibration
        Slices that int8 takes its ranges from.
    judged_on
        Slices of the gate, on which fp16 must not come near its largest value; empty without one.

    Raises
    ------
    GateError
        More than half of the layers would overflow float16.
    """
    if precision == "int8":
        ranges = activation_ranges(graph, calibration, n_steps)
        return Lowering(
            precision,
            tuple(int8_layers(graph)),
            frozenset(),
            lambda keep: to_int8(graph, ranges, keep),
        )
    if precision == "fp16":
        layers = tuple(network_layers(graph))
        barred = overflowing_layers(graph, judged_on, n_steps) if judged_on else frozenset()
        lowering = Lowering(precision, layers, barred, lambda keep: to_half(graph, keep))
        if lowering.is_pointless(barred):
            raise GateError(
                f"{n_steps} steps of {judged_on[0].family} do not fit fp16: {len(barred)} of "
                f"{len(layers)} layers come near its largest value, "
                f"{', '.join(sorted(barred)[:3])} among them; export fp32"
            )
        return lowering
    return Lowering("fp32", (), frozenset(), lambda keep: graph)
