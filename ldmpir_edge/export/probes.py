"""Make the conformance probes: tiny graphs of the operators that our graphs rely on, with answers.

An appliance has no `onnx`, so what each operator must give is computed here, by ONNX's reference
evaluator, and stored in the package; `ldmpir_edge.runtimes.probes` runs them there.

`python -m ldmpir_edge.export.probes` collects the operators from the packaged bundles and writes
the package's file again.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.bundle import Precision, packaged_bundles
from ldmpir_edge.export.int8 import ACTIVATION_TOP, quantize_rows
from ldmpir_edge.export.operator_uses import ARITHMETIC, TO_END, Use, graphs, numpy_dtype, uses
from ldmpir_edge.runtimes.probes import ASSET, Probe, pack_probes

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]

IR_VERSION = 8
OPSET = 17

_AXES = (2, 3, 4, 3, 5)
"""Extents of a probe's tensors; one of fewer axes has the last of them, so that they broadcast."""

_FEATURES = (1, 16, 6, 10)
"""What a convolution reads: whole blocks of 8 and 16 channels have kernels of their own."""

_STEM_CHANNELS = 6
_STEM_KERNEL = [6, 6]

_LEAST_EXTENT = 3
"""Indices stay below it."""

_FLOAT = np.dtype(np.float32)

_TOP = 2.1
"""Range that quantizes the values drawn, up to 2, none of which lies between two steps then."""


_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def make_probes(bundles: Sequence[Path]) -> list[Probe]:
    """Make the probes: of each use in some bundles, of int8 convolutions, and two for show.

    Those for show are not relied on: the DFT of opset 20, which OpenVINO 2026.4 miscomputes, and
    a kernel with all its 8 bits in use, which AVX2's 16-bit sums overflow.
    """
    found = {use for bundle in bundles for graph in graphs(bundle) for use in uses(graph)}
    probes = [_probe_use(use) for use in sorted(found, key=repr)]
    probes += [_probe_int8(use) for use in sorted(found, key=repr) if _is_quantized(use)]
    probes += [_probe_wide_kernel(), _probe_dft()]
    return sorted(probes, key=lambda probe: (_PRECISIONS.index(probe.precision), probe.head))


def _is_quantized(use: Use) -> bool:
    """Answer whether it is a convolution that the int8 pass would take, before it did."""
    import onnx

    return (
        use.op == "Conv"
        and use.inputs[0] == (onnx.TensorProto.FLOAT, 4)
        and use.values()["kernel_shape"] != _STEM_KERNEL
    )


class _Draw:
    """Numbers of a bit generator, which NumPy never changes (NEP 19)."""

    def __init__(self, name: str) -> None:
        self._bits = np.random.PCG64(zlib.crc32(name.encode()))

    def below(self, top: int, shape: tuple[int, ...]) -> Array:
        """Integers from 0 to `top` - 1."""
        raw = self._bits.random_raw(int(np.prod(shape, dtype=int)))
        return (raw % top).astype(np.int64).reshape(shape)

    def values(
        self, shape: tuple[int, ...], dtype: np.dtype[Any] = _FLOAT, positive: bool = False
    ) -> Array:
        """From -2 to 2, or 1/4 to 2, in steps that half precision holds exactly."""
        low, high = (16, 128) if positive else (-128, 128)
        return ((low + self.below(high - low + 1, shape)) / 64).astype(dtype)


def _probe_use(use: Use) -> Probe:
    name = use.describe()
    key = _key(name)
    arguments = _arguments(use, _Draw(name))
    names = ["" if array is None else f"{key}_{i}" for i, array in enumerate(arguments)]
    node = _node(use.op, names, [f"{key}_y"])
    node.attribute.extend(use.protos())
    given = {n: array for n, array in zip(names, arguments, strict=True) if array is not None}
    # As in our graphs: scalars, weights and what says what to do with the rest.
    constants = {
        n: array
        for i, (n, array) in enumerate(given.items())
        if array.ndim == 0 or array.dtype == np.int64 or (use.op in ("Conv", "Gemm") and i > 0)
    }
    half = any(array.dtype == np.float16 for array in given.values()) or use.op == "Cast"
    inputs = {n: array for n, array in given.items() if n not in constants}
    return _build(name, "fp16" if half else "fp32", [node], inputs, constants)


def _arguments(use: Use, draw: _Draw) -> list[Array | None]:
    """Choose the inputs of an operator."""
    fixed = _fixed_values(use)
    arrays: list[Array | None] = []
    for position, (form, shape) in enumerate(zip(use.inputs, _shapes(use), strict=True)):
        if form is None:
            arrays.append(None)
            continue
        dtype = numpy_dtype(form[0])
        if position in fixed:
            arrays.append(np.array(fixed[position], dtype))
        elif dtype.kind == "f":
            positive = use.op in ("Log", "Reciprocal", "Sqrt") or (use.op, position) == ("Div", 1)
            arrays.append(draw.values(shape, dtype, positive or not shape))
        else:  # indices, or sizes
            arrays.append(draw.below(_LEAST_EXTENT, shape).astype(dtype))
    return arrays


def _shapes(use: Use) -> list[tuple[int, ...]]:
    if use.op == "Conv":
        return _convolution_shapes(use.values()["kernel_shape"])
    if use.op == "Gemm":
        return [(3, 5), (7, 5), (7,)]
    shapes = [_AXES[len(_AXES) - form[1] :] if form else () for form in use.inputs]
    if use.op == "MatMul" and len(shapes[1]) == 2:
        shapes[1] = (_AXES[-1], 7)
    elif use.op == "MatMul":
        shapes[0] = (7, _AXES[-2])
    elif use.op in ARITHMETIC:
        return [
            tuple(1 if i - len(shape) in axes else extent for i, extent in enumerate(shape))
            for shape, axes in zip(shapes, use.stretched, strict=True)
        ]
    elif use.op == "Concat":
        axis = use.values()["axis"] % use.output_rank
        return [(*s[:axis], s[axis] + i, *s[axis + 1 :]) for i, s in enumerate(shapes)]
    return shapes


def _convolution_shapes(kernel: list[int]) -> list[tuple[int, ...]]:
    batch, channels, height, width = _FEATURES
    if kernel == _STEM_KERNEL:
        channels = _STEM_CHANNELS
    return [(batch, channels, height, width), (16, channels, *kernel), (16,)]


def _fixed_values(use: Use) -> dict[int, object]:
    """Give the inputs, by position, that must suit the others."""
    if use.op == "Slice":
        axis, step, to_end = use.axes
        start, end = (1, TO_END if to_end else 3) if step > 0 else (-1, -TO_END)
        return {1: [start], 2: [end], 3: [axis], 4: [step]}
    if use.op in ("ReduceSum", "Unsqueeze"):
        return {1: use.axes}
    if use.op == "ConstantOfShape":
        return {0: _AXES[-use.output_rank :]}
    if use.op == "Reshape" and use.inputs[0]:
        shape = _AXES[len(_AXES) - use.inputs[0][1] :]
        added = use.output_rank - len(shape)
        return {1: (*shape[::-1], *[1] * added) if added >= 0 else (-1, *shape[1 - added :])}
    if use.op == "Clip":
        return {1: -0.5, 2: 0.75}
    if use.op == "Pow":
        return {1: 2.0}
    return {}


def _probe_int8(use: Use) -> Probe:
    """Probe a convolution as the int8 pass leaves it, its result quantized for another.

    An engine keeps int8 from one to the other, which is what it gains by.
    """
    name = f"int8 {use.describe()}, Relu, int8 Conv"
    key, draw = _key(name), _Draw(name)
    features, *parameters = _convolution_shapes(use.values()["kernel_shape"])
    x, kernel, bias = (draw.values(shape) for shape in (features, *parameters))
    nodes, constants = _int8_convolution(f"{key}_1", f"{key}_x", _TOP, *quantize_rows(kernel), bias)
    nodes[-1].attribute.extend(use.protos())
    nodes.append(_node("Relu", [f"{key}_1y"], [f"{key}_r"]))
    # Four standard deviations of the sum, where a product's is 4/3.
    top = 4 * 4 / 3 * float(np.sqrt(kernel[0].size))
    kernel, bias = draw.values((16, 16, 1, 1)), draw.values((16,))
    more, others = _int8_convolution(f"{key}_2", f"{key}_r", top, *quantize_rows(kernel), bias)
    return _build(name, "int8", [*nodes, *more], {f"{key}_x": x}, constants | others)


def _probe_wide_kernel() -> Probe:
    name = "int8 Conv with all 8 bits of its kernel"
    key, draw = _key(name), _Draw(name)
    x = draw.values(_FEATURES, positive=True)
    # Pairs of products with values quantized to 127 (or 255, as bytes from 0 on) pass 2¹⁵.
    kernel = (127 - draw.below(8, (16, 16, 1, 1))).astype(np.int8)
    scales, bias = np.full(16, 1 / 64, np.float32), draw.values((16,))
    nodes, constants = _int8_convolution(key, f"{key}_x", _TOP, kernel, scales, bias)
    return _build(name, "int8", nodes, {f"{key}_x": x}, constants, relied_on=False)


def _probe_dft() -> Probe:
    name = "DFT(float32 4-D; axis=2) of opset 20"
    key = _key(name)
    x = _Draw(name).values((2, 3, 5, 2))
    node = _node("DFT", [f"{key}_x", "", f"{key}_axis"], [f"{key}_y"])
    axis = {f"{key}_axis": np.array(2, np.int64)}
    return _build(name, "fp32", [node], {f"{key}_x": x}, axis, opset=20, relied_on=False)


def _int8_convolution(
    key: str, source: str, top: float, kernel: Array, kernel_scales: Array, bias: Array
) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Make a convolution from `source` to `{key}y` as `to_int8` does; its node is the last."""
    scale, zero = f"{key}s", f"{key}z"
    nodes = [
        _node("QuantizeLinear", [source, scale, zero], [f"{key}q"]),
        _node("DequantizeLinear", [f"{key}q", scale, zero], [f"{key}d"]),
        _node("DequantizeLinear", [f"{key}k", f"{key}ks"], [f"{key}kd"], axis=0),
        _node("Conv", [f"{key}d", f"{key}kd", f"{key}b"], [f"{key}y"]),
    ]
    constants: dict[str, Array] = {
        scale: np.array(top / ACTIVATION_TOP, np.float32),
        zero: np.zeros((), np.int8),
        f"{key}k": kernel,
        f"{key}ks": kernel_scales,
        f"{key}b": bias,
    }
    return nodes, constants


def _build(
    name: str,
    precision: Precision,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array],
    *,
    opset: int = OPSET,
    relied_on: bool = True,
) -> Probe:
    """Ask the reference evaluator what the last node's output must be."""
    import onnx
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    (output,) = nodes[-1].output
    graph = helper.make_graph(
        nodes,
        "probes",
        [_tensor_info(tensor, array) for tensor, array in inputs.items()],
        [helper.make_empty_tensor_value_info(output)],
        [numpy_helper.from_array(array, tensor) for tensor, array in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION
    )
    asked = onnx.ModelProto.FromString(model.SerializeToString())
    if precision == "int8":
        # The evaluator knows quantizers from opset 19 on, which only took in more data types.
        asked.opset_import[0].version = 19
    expected = np.asarray(ReferenceEvaluator(asked).run([output], dict(inputs))[0])
    model.graph.output[0].CopyFrom(_tensor_info(output, expected))
    onnx.checker.check_model(model, full_check=True)
    body = onnx.ModelProto(graph=model.graph)
    model.ClearField("graph")
    return Probe(
        name=name,
        precision=precision,
        relied_on=relied_on,
        head=model.SerializeToString(deterministic=True),
        graph=body.SerializeToString(deterministic=True),
        inputs=dict(inputs),
        outputs={output: expected},
    )


def _node(op: str, inputs: list[str], outputs: list[str], **attributes: int) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(op, inputs, outputs, **attributes)


def _tensor_info(name: str, array: Array) -> onnx.ValueInfoProto:
    from onnx import helper

    element_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, element_type, array.shape)


def _key(name: str) -> str:
    """Make the start of a probe's tensor names, which no other probe's have."""
    return f"p{zlib.crc32(name.encode()):08x}"


def main() -> None:
    """Write the package's probes, from those of its bundles."""
    data = pack_probes(make_probes(sorted(packaged_bundles().values())))
    with atomic_file(ASSET) as temporary:
        temporary.write_bytes(data)


if __name__ == "__main__":
    main()
