"""An ONNX graph with the dtype and shape of every value, as far as ONNX can infer them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

DTYPES = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "FLOAT8E4M3FN": "FP8",
    "FLOAT4E2M1": "FP4",
}
"""ONNX's names of dtypes where NVIDIA's lists have others."""


class TypedGraph:
    """The nodes of a graph, and what is known of its values before it runs.

    Parameters
    ----------
    path
        ONNX file; weights in other files are read only where a value is asked for.

    Attributes
    ----------
    opset : int
    nodes : list of NodeProto
    """

    def __init__(self, path: Path) -> None:
        import onnx

        self._onnx, self._folder = onnx, str(path.parent)
        model = onnx.load(path, load_external_data=False)
        self.opset = max(entry.version for entry in model.opset_import if entry.domain == "")
        self.nodes = list(model.graph.node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self._dtypes = {name: t.data_type for name, t in self._constants.items()}
        self._shapes: dict[str, list[int | None]] = {
            name: list(tensor.dims) for name, tensor in self._constants.items()
        }
        for value in (*inferred.value_info, *inferred.input, *inferred.output):
            kind = value.type.tensor_type
            self._dtypes[value.name] = kind.elem_type
            if kind.HasField("shape"):
                self._shapes[value.name] = [
                    dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim
                ]

    def dtype(self, name: str) -> str | None:
        """Answer a value's dtype in NVIDIA's words, or None where nobody knows it."""
        number = self._dtypes.get(name, 0)
        if not number:
            return None
        word: str = self._onnx.TensorProto.DataType.Name(number)
        return DTYPES.get(word, word)

    def shape(self, name: str) -> list[int | None] | None:
        """Answer a value's shape, None for an axis without a fixed length."""
        return self._shapes.get(name)

    def is_constant(self, name: str) -> bool:
        """Answer whether a value is known before the graph runs."""
        return name in self._constants

    def constant(self, name: str) -> Any:
        """Answer a constant's array, from its file where it has one, or None."""
        tensor = self._constants.get(name)
        if tensor is None:
            return None
        return self._onnx.numpy_helper.to_array(tensor, self._folder)

    def attribute(self, node: onnx.NodeProto, name: str, default: Any = None) -> Any:
        """Answer an attribute's value, bytes as text."""
        for attribute in node.attribute:
            if attribute.name == name:
                value = self._onnx.helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default
