"""Look inside a graph: the values that chosen tensors take on a problem."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx


class Tap:
    """An fp32 graph whose inner values can be read, in ONNX Runtime.

    Parameters
    ----------
    graph
        From `trace`; left as it is.
    names
        Float tensors made in the graph or given to it.
    """

    def __init__(self, graph: onnx.ModelProto, names: Collection[str]) -> None:
        import onnx
        import onnxruntime as ort

        model = onnx.ModelProto()
        model.CopyFrom(graph)
        already = {output.name for output in model.graph.output}
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in sorted(set(names) - already)
        )
        self._session = ort.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        self._names = sorted(names)

    def read(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run the graph and return the values by name."""
        values = self._session.run(self._names, dict(inputs))
        return dict(zip(self._names, values, strict=True))
