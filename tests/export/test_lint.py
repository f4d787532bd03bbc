"""The linter against graphs that break one rule each, and against the parser that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from command_line import ldmpir_edge, ldmpir_edge_process
from onnx import TensorProto, helper
from toy_bundle import toy_files, toy_graph, toy_manifest

from ldmpir_edge.bundle import write_bundle
from ldmpir_edge.errors import BackendError
from ldmpir_edge.export.lint import Finding, lint_graph
from ldmpir_edge.export.lint_rules import RULES
from ldmpir_edge.export.parsers import MAX_RANK, PARSERS
from ldmpir_edge.runtimes.tensorrt.compile import build_engine

JETSON, WORKSTATION, RTX = "tensorrt-10.3", "tensorrt-11.4", "tensorrt-rtx-1.7"
FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE
INT32, INT64, INT8, UINT8 = (
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.INT8,
    TensorProto.UINT8,
)


def graph(
    *nodes: onnx.NodeProto,
    opset: int = 18,
    shape: tuple[int | str, ...] = (1, 2, 8, 8),
    dtype: int = FLOAT,
    gives: int | None = None,
    others: dict[str, tuple[int, list[Any]]] | None = None,
    constants: tuple[onnx.TensorProto, ...] = (),
) -> onnx.ModelProto:
    """Nodes from the input `x` (and `others`: dtype and shape) to the output `y` of `gives`."""
    info = helper.make_tensor_value_info
    inputs = [info("x", dtype, shape)]
    inputs += [info(name, kind, dims) for name, (kind, dims) in (others or {}).items()]
    outputs = [info("y", gives or dtype, None)]
    made = helper.make_graph(list(nodes), "g", inputs, outputs, list(constants))
    domains = {node.domain for node in nodes} | {""}
    opsets = [helper.make_opsetid(domain, opset if not domain else 1) for domain in sorted(domains)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def node(operator: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **options: Any) -> Any:
    return helper.make_node(
        operator, list(inputs or ("x",)), list(outputs), f"/{operator}_1", **options
    )


def number(name: str, dtype: int, *values: float) -> onnx.TensorProto:
    return helper.make_tensor(name, dtype, [len(values)] if len(values) > 1 else [], values)


def findings(folder: Path, model: onnx.ModelProto, parser: str, **options: Any) -> list[Finding]:
    onnx.save(model, folder / "g.onnx")
    return lint_graph(folder / "g.onnx", PARSERS[parser], **options)[1]


def quantized(dtype: int, zero_point: int) -> onnx.ModelProto:
    constants = (SCALE, number("z", dtype, zero_point))
    return graph(node("QuantizeLinear", "x", "s", "z"), gives=dtype, constants=constants)


SCALE = number("s", FLOAT, 0.1)
TWICE = number("f", FLOAT, 1, 1, 2, 2)
COMPLEX = TensorProto.COMPLEX64
EVERYWHERE = (JETSON, WORKSTATION, RTX)

BAD: list[Any] = [
    # What REFERENCE.md says of the engines.
    (graph(node("DFT", axis=2), shape=(1, 8, 8, 2)), (JETSON, RTX), "has no DFT"),
    (
        graph(node("GridSample", "x", "g"), opset=20, shape=(1, 1, 4, 4, 4),
              others={"g": (FLOAT, [1, 4, 4, 4, 3])}),
        (JETSON,),
        "5-D input; only 4-D",
    ),
    (
        graph(node("ScatterND", "x", "i", "u", reduction="add"), shape=(8,),
              others={"i": (INT64, [2, 1]), "u": (FLOAT, [2])}),
        EVERYWHERE,
        "reduction by add",
    ),
    (
        graph(node("ScatterElements", "x", "i", "u", reduction="add"), shape=(8,),
              others={"i": (INT64, [2]), "u": (FLOAT, [2])}),
        (RTX,),
        "reduction by add",
    ),
    # Operators, opsets, domains.
    (graph(node("BitwiseNot"), dtype=INT32), EVERYWHERE, "has no BitwiseNot"),
    (
        graph(node("STFT", "x", "n"), shape=(1, 64, 1), constants=(number("n", INT64, 8),)),
        (JETSON,),
        "has no STFT",
    ),
    (graph(node("Relu"), opset=21), (JETSON,), "opset 21; TensorRT 10.3 (JetPack 6) reads 9 to 20"),
    (graph(node("Relu"), opset=8), EVERYWHERE, "opset 8"),
    (graph(node("Magic", domain="my.own")), EVERYWHERE, "domain my.own"),
    # Dtypes and ranks.
    (graph(node("Relu"), shape=(1,) * (MAX_RANK + 1)), EVERYWHERE, "9 axes; at most 8"),
    (graph(node("Sqrt"), dtype=UINT8), EVERYWHERE, "UINT8; "),
    (graph(node("Clip"), dtype=INT64), (JETSON, WORKSTATION), "INT64; "),
    (graph(node("Cast", to=COMPLEX), gives=COMPLEX), EVERYWHERE, "COMPLEX64; "),
    (graph(node("Pow", "x", "x"), dtype=INT32), (JETSON,), "INT32; "),
    # Restrictions on single operators.
    (graph(node("ReduceSum", "x", "a"), others={"a": (INT64, [1])}), EVERYWHERE, "axes that are"),
    (graph(node("MaxPool", outputs=("y", "i"), kernel_shape=[2, 2])), EVERYWHERE, "first output"),
    (
        graph(node("MaxPool", kernel_shape=[2, 2], dilations=[2, 2])),
        EVERYWHERE,
        "dilations",
    ),
    (
        graph(node("AveragePool", kernel_shape=[2]), shape=(1, 2, 8)),
        (JETSON, WORKSTATION),
        "pooling over 1 axes",
    ),
    (
        graph(node("Resize", "x", "", "f", mode="cubic"), constants=(TWICE,)),
        (JETSON, WORKSTATION),
        "mode cubic",
    ),
    (
        graph(node("Resize", "x", "", "f", mode="linear", antialias=1), constants=(TWICE,)),
        EVERYWHERE,
        "antialiasing",
    ),
    (
        graph(node("TopK", "x", "k", outputs=("y", "i")), shape=(5000,),
              constants=(helper.make_tensor("k", INT64, [1], [4000]),)),
        EVERYWHERE,
        "K of 4000",
    ),
    # int8: only symmetric and signed.
    (quantized(INT8, 3), EVERYWHERE, "zero point other than 0"),
    (quantized(UINT8, 0), EVERYWHERE, "UINT8 output"),
    (
        graph(node("DequantizeLinear", "x", "s"), dtype=UINT8, gives=FLOAT, constants=(SCALE,)),
        EVERYWHERE,
        "UINT8; ",
    ),
]  # fmt: skip

GOOD: list[Any] = [
    graph(node("Relu")),
    graph(node("MatMul", "x", "x"), dtype=HALF),
    graph(node("ReduceSum", "x", "a"), constants=(helper.make_tensor("a", INT64, [1], [1]),)),
    graph(node("AveragePool", kernel_shape=[2, 2])),
    graph(node("Where", "c", "x", "x"), others={"c": (TensorProto.BOOL, [1])}),
    graph(node("Cast", to=INT64), dtype=INT32, gives=INT64),
    quantized(INT8, 0),
    graph(node("Relu"), shape=(1,) * MAX_RANK),
    graph(node("GridSample", "x", "g"), others={"g": (FLOAT, [1, 4, 4, 2])}, opset=20),
    graph(node("ScatterND", "x", "i", "u"), shape=(8,),
          others={"i": (INT64, [2, 1]), "u": (FLOAT, [2])}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "parsers", "reason"), BAD)
def test_a_node_that_would_fail_is_named_with_its_reason(
    tmp_path: Path, model: onnx.ModelProto, parsers: tuple[str, ...], reason: str
) -> None:
    for parser in PARSERS:
        failing = [f for f in findings(tmp_path, model, parser) if f.fails]
        matching = [f for f in failing if reason in f.reason]
        assert bool(matching) == (parser in parsers), (parser, failing)
        if matching and "opset" not in reason:
            name = model.graph.node[0].op_type
            assert (matching[0].node, matching[0].operator) == (f"/{name}_1", name)


@pytest.mark.parametrize("model", GOOD)
def test_what_is_supported_passes(tmp_path: Path, model: onnx.ModelProto) -> None:
    for parser in PARSERS:
        assert findings(tmp_path, model, parser) == []


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (graph(node("RandomNormalLike", seed=1.0)), "seed is ignored"),
        (graph(node("Relu"), dtype=DOUBLE), "cast to FP32"),
    ],
)
def test_what_is_only_done_in_another_way_is_a_remark(
    tmp_path: Path, model: onnx.ModelProto, reason: str
) -> None:
    (finding,) = findings(tmp_path, model, JETSON)
    assert reason in finding.reason
    assert not finding.fails


def test_turing_lacks_products_in_float32(tmp_path: Path) -> None:
    """As TensorRT-RTX says when it builds: see tests/runtimes/tensorrt/test_compile.py."""
    for dtype, fails in ((FLOAT, True), (HALF, False)):
        model = graph(node("MatMul", "x", "x"), dtype=dtype)
        found = findings(tmp_path, model, RTX, compute_capabilities=("7.5", "8.6"))
        assert [f.reason for f in found] == (
            ["FP32, which is not compiled for compute capability 7.5"] if fails else []
        )
        assert findings(tmp_path, model, RTX, compute_capabilities=("8.6",)) == []


def test_nodes_that_share_a_reason_are_one_finding(tmp_path: Path) -> None:
    model = graph(
        helper.make_node("BitwiseNot", ["x"], ["a"], "first"),
        helper.make_node("BitwiseNot", ["a"], ["b"], "second"),
        helper.make_node("Det", ["b"], ["y"], "third"),
        dtype=INT32,
    )
    found = findings(tmp_path, model, JETSON)
    assert [(f.node, f.n_nodes) for f in found] == [("first", 2), ("third", 1)]


def test_every_rule_is_in_force_somewhere() -> None:
    assert set(RULES) == set().union(*(parser.rules for parser in PARSERS.values()))
    for rule in RULES.values():
        assert rule.operators <= PARSERS[WORKSTATION].dtypes.keys()


@pytest.fixture
def library() -> Any:
    """TensorRT-RTX of the version that the table is of."""
    found: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    if not found.__version__.startswith("1.7."):
        pytest.skip(f"the table is of 1.7, not {found.__version__}")
    return found


def test_the_installed_parser_agrees_with_the_table(library: Any) -> None:
    log = library.Logger(library.Logger.INTERNAL_ERROR)
    builder = library.Builder(log)
    typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = library.OnnxParser(network, log)
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    supported = {name for name in standard if parser.supports_operator(name)}
    assert supported == standard & PARSERS[RTX].dtypes.keys()


def build(library: Any, folder: Path, model: onnx.ModelProto) -> None:
    onnx.save(model, folder / "g.onnx")
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in model.graph.input
    }
    profile = {name: (shape, shape, shape) for name, shape in shapes.items()}
    build_engine(library, folder / "g.onnx", profile, compute_capabilities=("8.6",))


TAKEN_NEVERTHELESS = (
    "opset 8",  # NVIDIA promises 9 and later
    "UINT8 output",  # and computes it as INT8
)


@pytest.mark.parametrize(
    "model",
    [m for m, parsers, reason in BAD if RTX in parsers and reason not in TAKEN_NEVERTHELESS],
)
def test_what_the_linter_refuses_the_installed_library_refuses(
    tmp_path: Path, library: Any, model: onnx.ModelProto
) -> None:
    with pytest.raises(BackendError, match=r"cannot (parse|build)"):
        build(library, tmp_path, model)


@pytest.mark.parametrize("model", GOOD)
def test_what_the_linter_passes_the_installed_library_builds(
    tmp_path: Path, library: Any, model: onnx.ModelProto
) -> None:
    build(library, tmp_path, model)


def toy(folder: Path, graph_bytes: bytes) -> Path:
    files = {
        **toy_files(),
        "graphs/pointwise-1-fp32.onnx": graph_bytes,
        "graphs/pointwise-4-fp32.onnx": toy_graph(),
    }
    write_bundle(folder / "toy.ldmpir", toy_manifest(files), files)
    return folder / "toy.ldmpir"


def test_inspect_lints_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    path = toy(tmp_path, toy_graph())
    finished = ldmpir_edge("inspect", path, "--lint", "jetson-orin")
    assert finished.code == 0
    assert (
        "6 nodes of 2 graphs on TensorRT 10.3 (JetPack 6): every node is supported" in finished.out
    )
    report = ldmpir_edge("inspect", path, "--lint", "rtx", "--json").report["lint"]
    assert report == {"parser": "TensorRT-RTX 1.7", "n_graphs": 2, "n_nodes": 6, "findings": []}


def test_a_bundle_that_would_fail_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    path = toy(tmp_path, graph(node("DFT", axis=2), shape=(1, 8, 8, 2)).SerializeToString())
    finished = ldmpir_edge("inspect", path, "--lint", "jetson-orin")
    assert finished.code == 40
    assert "DFT" in finished.out, "the table is printed before the error"
    (line,) = finished.err.splitlines()
    assert "1 nodes would fail on TensorRT 10.3 (JetPack 6), the first /DFT_1 (DFT) in" in line
    assert ldmpir_edge("inspect", path, "--lint", "workstation-gpu").code == 0
    with_json = ldmpir_edge("inspect", path, "--lint", "jetson-orin", "--json")
    assert with_json.code == 40
    assert '"fails": true' in with_json.out


def test_the_shipped_bundle_is_fit_for_every_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    for target in ("jetson-orin", "workstation-gpu", "rtx"):
        report = ldmpir_edge("inspect", "ldmpir-2m", "--lint", target, "--json").report["lint"]
        assert [f for f in report["findings"] if f["fails"]] == []
        assert report["n_nodes"] > 10_000


@pytest.mark.parametrize(
    ("target", "words"), [("cpu", ("cpu", "jetson-orin")), ("toaster", ("toaster", "rtx"))]
)
def test_a_target_without_tensorrt_is_refused(target: str, words: tuple[str, ...]) -> None:
    ldmpir_edge("inspect", "ldmpir-2m", "--lint", target).assert_refused(2, *words)


def test_without_onnx_the_extra_is_named() -> None:
    block = "import sys; sys.modules['onnx'] = None"
    finished = ldmpir_edge_process("inspect", "ldmpir-2m", "--lint", "rtx", before=block)
    finished.assert_refused(41, "pip install 'ldmpir-edge[export]'")
    assert ldmpir_edge_process("inspect", "ldmpir-2m", before=block).code == 0
