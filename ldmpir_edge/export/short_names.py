"""Give the values inside a graph short names: a third of an unrolled graph's bytes are names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def shorten_values(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose inner values and constants are numbered: `v0`, `v1`.

    Inputs and outputs keep their names, and so do the nodes, by which messages speak of layers.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}
    short: dict[str, str] = {}

    def name(long: str) -> str:
        return long if long in fixed else short.setdefault(long, f"v{len(short)}")

    for tensor in model.graph.initializer:
        tensor.name = name(tensor.name)
    for node in model.graph.node:
        for position, value in enumerate(node.input):
            node.input[position] = name(value)
        for position, value in enumerate(node.output):
            node.output[position] = name(value)
    del model.graph.value_info[:]
    return model
