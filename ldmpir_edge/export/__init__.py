"""Export: trace to ONNX, simplify, change precision, gate, and write the bundle."""
