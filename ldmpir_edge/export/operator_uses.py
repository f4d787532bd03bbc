"""In what forms the graphs of our bundles use each operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ldmpir_edge.bundle.archive import Archive

if TYPE_CHECKING:
    import onnx

ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})

TO_END = np.iinfo(np.int64).max
"""Where a slice stops that goes on to the end."""

_QUANTIZERS = frozenset({"DequantizeLinear", "QuantizeLinear"})

_IMPLIED: dict[str, object] = {
    **{"allowzero": 0, "alpha": 1.0, "auto_pad": "NOTSET", "beta": 1.0, "ceil_mode": 0},
    **{"count_include_pad": 0, "dilations": [1, 1], "group": 1, "noop_with_empty_axes": 0},
    **{"start": 0, "transA": 0},
}
"""Attributes that say nothing at these values, left out of a probe's name."""


class Use(NamedTuple):
    """One form in which graphs use an operator.

    Attributes
    ----------
    attributes
        Serialised AttributeProtos in the order of their names.
    inputs
        Element type and number of axes of each input; None for one left out.
    axes
        Values of the inputs that say which axes; for a slice its axis, its step and whether it
        goes to the end.
    stretched
        For each input of an arithmetic operator the axes, counted from the last, along which its
        one value serves several of the other.
    output_rank
        Number of axes of the result.
    """

    op: str
    attributes: tuple[bytes, ...]
    inputs: tuple[tuple[int, int] | None, ...]
    axes: tuple[int, ...]
    stretched: tuple[tuple[int, ...], ...]
    output_rank: int

    def protos(self) -> list[onnx.AttributeProto]:
        """Answer the attributes as a node takes them."""
        from onnx import AttributeProto

        return [AttributeProto.FromString(data) for data in self.attributes]

    def values(self) -> dict[str, Any]:
        """Answer the attributes by name: numbers, lists, strings or tensors."""
        from onnx import helper

        values = {proto.name: helper.get_attribute_value(proto) for proto in self.protos()}
        return {key: v.decode() if isinstance(v, bytes) else v for key, v in values.items()}

    def describe(self) -> str:
        """Name it for people: `Slice(float32 4-D; axis=3, step=1, to the end)`."""
        from onnx import numpy_helper

        inputs = [f"{numpy_dtype(form[0])} {form[1]}-D" for form in self.inputs if form]
        if self.op in ("Conv", "Gemm", "Slice") or self.axes:
            del inputs[1:]
        values = self.values()
        said = [f"{key}={value}" for key, value in values.items() if _IMPLIED.get(key) != value]
        if self.op == "Slice":
            axis, step, to_end = self.axes
            said += [f"axis={axis}", f"step={step}", *(["to the end"] if to_end else [])]
        elif self.axes:
            said.append(f"axes={list(self.axes)}")
        elif self.op == "Cast":
            said = [f"to {numpy_dtype(values['to'])}"]
        elif self.op == "Clip":
            bounds = zip(("min", "max"), self.inputs[1:], strict=True)
            said += [bound for bound, form in bounds if form]
        elif self.op == "ConstantOfShape":
            value = numpy_helper.to_array(values["value"]).item()
            said = [f"{value}", f"to {self.output_rank}-D"]
        elif self.op == "Reshape":
            said.append(f"to {self.output_rank}-D")
        for axes, place in zip(self.stretched, ("first", "second"), strict=False):
            if axes:
                said.append(f"{place} stretched along {list(axes)}")
        return f"{self.op}({'; '.join(filter(None, [', '.join(inputs), ', '.join(said)]))})"


def uses(graph: onnx.ModelProto) -> set[Use]:
    """List the forms in which a graph uses operators, but for quantizers.

    What counts of those is the kernel that an engine makes of them and the convolution between.
    """
    import onnx
    from onnx import numpy_helper

    extents = _extents(graph)
    integers = {
        t.name: tuple(numpy_helper.to_array(t).ravel().tolist())
        for t in graph.graph.initializer
        if t.data_type == onnx.TensorProto.INT64
    }

    def form(name: str) -> tuple[int, int]:
        element_type, sizes = extents[name]
        return element_type, len(sizes)

    return {
        Use(
            node.op_type,
            tuple(
                a.SerializeToString(deterministic=True)
                for a in sorted(node.attribute, key=lambda attribute: attribute.name)
            ),
            tuple(form(name) if name else None for name in node.input),
            _axes_of(node, integers),
            _stretched(*(extents[name][1] for name in node.input))
            if node.op_type in ARITHMETIC
            else (),
            form(node.output[0])[1],
        )
        for node in graph.graph.node
        if node.op_type not in _QUANTIZERS
    }


def graphs(bundle: Path) -> Iterator[onnx.ModelProto]:
    """Read the graphs of a bundle, without their weights."""
    import onnx

    archive = Archive(bundle)
    for name in sorted({variant.graph for variant in archive.manifest.variants}):
        yield onnx.load_from_string(archive.read(name))


def _axes_of(node: onnx.NodeProto, integers: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    if node.op_type == "Slice":
        (axis,), (step,) = integers[node.input[3]], integers[node.input[4]]
        (end,) = integers.get(node.input[2], (0,))
        return axis, step, int(abs(end) >= TO_END)
    if node.op_type in ("ReduceSum", "Unsqueeze"):
        return integers[node.input[1]]
    return ()


def _stretched(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    pairs = list(enumerate(zip(reversed(left), reversed(right), strict=False), 1))
    return (
        tuple(-axis for axis, (a, b) in pairs if a == 1 != b),
        tuple(-axis for axis, (a, b) in pairs if b == 1 != a),
    )


def _extents(graph: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Name the element type of each value and its extents, 0 where they are the scan's."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(graph).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    tensors = {v.name: v.type.tensor_type for v in values}
    found = {
        name: (t.elem_type, tuple(dim.dim_value for dim in t.shape.dim))
        for name, t in tensors.items()
    }
    return found | {t.name: (t.data_type, tuple(t.dims)) for t in inferred.initializer}


def numpy_dtype(element_type: int) -> np.dtype[Any]:
    """Answer NumPy's name of an ONNX element type."""
    from onnx import helper

    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(element_type)
    return dtype
