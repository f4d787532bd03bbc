"""What TensorRT's ONNX parsers take, version by version: operators, dtypes, opsets, restrictions.

Sources, read in November 2026:

- onnx/onnx-tensorrt, `docs/operators.md` of the releases 10.6 (commit 0137504e) and 10.15;
- its `docs/Changelog.md`, and the release notes of NVIDIA/TensorRT 11.0 to 11.5, for what came
  before, between and after: 10.3 lacks the windows (added in 10.4) and STFT (10.5) and reads
  opsets to 20; 10.14 and 10.15 added Attention, RMSNormalization, RotaryEmbedding and
  TensorScatter; 11.0 Swish; 11.2 DFT and 5-D GridSample; opset 25 came after 11.4, with 11.5;
- for TensorRT-RTX, which publishes no such list, the parser of `tensorrt-rtx` 1.7.1 itself:
  `OnnxParser.supports_operator` for every operator of ONNX 1.23, and small graphs for the
  restrictions. Dtypes are those of TensorRT's list, but for Clip. A test asks the installed
  library again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_RANK = 8
"""Axes of a tensor (`nvinfer1::Dims::MAX_DIMS`)."""

MIN_OPSET = 9

_HALVES = "FP32 FP16"
_FLOATS = f"{_HALVES} BF16"
_NUMBERS = f"{_FLOATS} INT32 INT64"
_VALUES = f"{_NUMBERS} BOOL"

_TENSORRT_10_6 = {
    _FLOATS: (
        "Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv "
        "ConvTranspose Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor GRU Gemm "
        "GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization HardSigmoid HardSwish "
        "Hardmax ImageScaler InstanceNormalization IsInf LRN LSTM LayerNormalization LeakyRelu "
        "Log LogSoftmax LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization PRelu "
        "ParametricSoftplus Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform "
        "RandomUniformLike Reciprocal Resize Round ScaledTanh Scan Selu Sigmoid Sin Sinh Softmax "
        "Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample"
    ),
    _HALVES: (
        "BlackmanWindow DeformConv GridSample HammingWindow HannWindow Mish NonMaxSuppression "
        "NonZero RoiAlign"
    ),
    "FP32": "STFT",
    _NUMBERS: (
        "Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less "
        "LessOrEqual Max Min Mod Mul Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum "
        "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare "
        "Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK"
    ),
    f"{_NUMBERS} FP8": "Mean",
    f"{_NUMBERS} INT8": "Gelu",
    _VALUES: (
        "Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND "
        "Identity If Loop OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile "
        "Transpose Trilu Unsqueeze Where"
    ),
    f"{_VALUES} UINT8": "Cast CastLike",
    "BOOL": "And Not Or Xor",
    "INT8 FP8 INT4": "DequantizeLinear",
}

_ADDED_TO_11_4 = {
    _FLOATS: "Attention DFT GridSample RMSNormalization RotaryEmbedding Swish",
    f"{_FLOATS} INT32": "TensorScatter",
    _NUMBERS: "Pow",
    "INT8 FP8 INT4 FP4": "DequantizeLinear",
}

_ADDED_TO_RTX = {_FLOATS: "CausalConvWithState LinearAttention", _NUMBERS: "Clip"}

_COMMON_RULES = frozenset(
    {
        *("constant-axes", "layer-normalization-outputs", "max-pool-indices", "ones-dilations"),
        *("quantized-types", "resize-extras", "scatter-nd-reduction", "seed", "top-k"),
        "zero-point",
    }
)

_PUBLISHED_RULES = _COMMON_RULES | {"pool-2d-or-3d", "resize-modes", "scatter-elements-plugin"}


@dataclass(frozen=True)
class Parser:
    """One version of a parser.

    Attributes
    ----------
    title
        For people.
    max_opset
        Newest opset that it reads.
    dtypes
        By operator, the dtypes of its main tensor, in NVIDIA's names.
    rules
        Restrictions that hold, by their name in `ldmpir_edge.export.lint_rules`.
    without_fp32
        By compute capability, operators that are not compiled for it in FP32.
    """

    title: str
    max_opset: int
    dtypes: Mapping[str, frozenset[str]] = field(repr=False)
    rules: frozenset[str] = field(repr=False)
    without_fp32: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)


def _table(*groups: Mapping[str, str], without: str = "") -> dict[str, frozenset[str]]:
    table = {
        operator: frozenset(dtypes.split())
        for group in groups
        for dtypes, operators in group.items()
        for operator in operators.split()
    }
    return {name: dtypes for name, dtypes in table.items() if name not in without.split()}


PARSERS: Mapping[str, Parser] = {
    "tensorrt-10.3": Parser(
        title="TensorRT 10.3 (JetPack 6)",
        max_opset=20,
        dtypes=_table(_TENSORRT_10_6, without="BlackmanWindow HammingWindow HannWindow STFT"),
        rules=_PUBLISHED_RULES | {"grid-sample-4d"},
    ),
    "tensorrt-11.4": Parser(
        title="TensorRT 11.4",
        max_opset=24,
        dtypes=_table(_TENSORRT_10_6, _ADDED_TO_11_4),
        rules=_PUBLISHED_RULES,
    ),
    "tensorrt-rtx-1.7": Parser(
        title="TensorRT-RTX 1.7",
        max_opset=24,
        dtypes=_table(
            _TENSORRT_10_6,
            _ADDED_TO_11_4,
            _ADDED_TO_RTX,
            without="DFT DeformConv ImageScaler ParametricSoftplus ScaledTanh",
        ),
        rules=_COMMON_RULES | {"scatter-elements-reduction"},
        without_fp32={"7.5": frozenset({"Gemm", "MatMul"})},
    ),
}
