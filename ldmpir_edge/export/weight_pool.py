"""Weights stored once: the external data that all graphs of one precision share."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

MIN_BYTES = 512
"""Smaller constants stay in the graph, where shape computations are folded from them."""

ALIGNMENT = 64


class WeightPool:
    """Collects the large initialisers of graphs in one blob, each content once.

    Parameters
    ----------
    location
        File name of the blob, beside the graphs.
    base
        Another pool: what it holds already is not stored again. Layers that int8 leaves in fp32 are
        megabytes.
    """

    def __init__(self, location: str, base: WeightPool | None = None) -> None:
        self.location, self._base = location, base
        self._blob = bytearray()
        self._offsets: dict[bytes, int] = {}

    def externalise(self, graph: onnx.ModelProto) -> bytes:
        """Serialise a graph whose large initialisers point into the pool.

        The graph given is left as it was.
        """
        import onnx
        from onnx import TensorProto, numpy_helper

        model = onnx.ModelProto()
        model.CopyFrom(graph)
        for tensor in model.graph.initializer:
            # One raw layout, so that equal values have equal bytes.
            raw = numpy_helper.to_array(tensor).tobytes()
            if len(raw) < MIN_BYTES:
                continue
            location, offset = self._place(raw)
            for field in ("raw_data", "float_data", "int32_data", "int64_data"):
                tensor.ClearField(field)
            tensor.data_location = TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in (
                ("location", location),
                ("offset", str(offset)),
                ("length", str(len(raw))),
            ):
                tensor.external_data.add(key=key, value=value)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def mark(self) -> int:
        """Return a mark to `rewind` to."""
        return len(self._blob)

    def rewind(self, mark: int) -> None:
        """Drop what was placed since `mark`; graphs made since then are void."""
        del self._blob[mark:]
        self._offsets = {key: offset for key, offset in self._offsets.items() if offset < mark}

    def to_bytes(self) -> bytes:
        """Return the blob."""
        return bytes(self._blob)

    def _place(self, raw: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(raw).digest()
        if self._base is not None and digest in self._base._offsets:
            return self._base.location, self._base._offsets[digest]
        if digest not in self._offsets:
            self._blob.extend(bytes(-len(self._blob) % ALIGNMENT))
            self._offsets[digest] = len(self._blob)
            self._blob.extend(raw)
        return self.location, self._offsets[digest]


def locations(data: bytes) -> list[str]:
    """Name the blobs that a serialised graph points into, sorted."""
    import onnx

    return sorted(
        {
            entry.value
            for tensor in onnx.ModelProto.FromString(data).graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
    )
