"""TensorRT and TensorRT-RTX: compile a bundle's graphs for a GPU, and run what was compiled."""

from ldmpir_edge.runtimes.tensorrt.backend import (
    TensorRtBackend,
    TensorRtFamily,
    TensorRtRtxBackend,
)

__all__ = ["TensorRtBackend", "TensorRtFamily", "TensorRtRtxBackend"]
