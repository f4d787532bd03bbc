"""Check a bundle's graphs against what a target's TensorRT takes, without TensorRT or a GPU.

What a rule cannot know (the value of a computed axis, a dtype that ONNX cannot infer) it lets
pass: a finding is a reason, silence is none. The parsers themselves judge at `compile`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ldmpir_edge.bundle import Bundle
from ldmpir_edge.errors import UsageError
from ldmpir_edge.export.lint_rules import RULES
from ldmpir_edge.export.parsers import MAX_RANK, MIN_OPSET, PARSERS, Parser
from ldmpir_edge.export.targets import Target
from ldmpir_edge.export.typed_graph import TypedGraph

if TYPE_CHECKING:
    import onnx

_MAIN_OUTPUT = frozenset(
    {
        *("Cast", "CastLike", "Constant", "ConstantOfShape", "EyeLike"),
        *("RandomNormal", "RandomUniform", "Range"),
    }
)
"""Operators whose dtype in the parsers' lists is that of their output."""

_MAIN_INPUT = {"Where": 1, "OneHot": 2}
_UNCHECKED = frozenset(
    {
        *("Attention", "GRU", "If", "LSTM", "Loop"),
        *("RNN", "RotaryEmbedding", "Scan", "TensorScatter"),
    }
)


@dataclass(frozen=True)
class Finding:
    """Nodes of one graph that share a reason.

    `node` is the first of `n_nodes`. Where `fails` is true no engine can be built of the graph,
    or it would compute something else; other findings are for the reader to judge.
    """

    graph: str
    node: str
    operator: str
    reason: str
    fails: bool
    n_nodes: int


@dataclass(frozen=True)
class LintReport:
    """Everything that `inspect --lint` prints."""

    parser: str
    n_graphs: int
    n_nodes: int
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that keep an engine from being built."""
        return tuple(finding for finding in self.findings if finding.fails)


def lint_bundle(
    bundle: Bundle,
    target: Target,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LintReport:
    """Check every node of every graph.

    Parameters
    ----------
    bundle
        An opened bundle.
    target
        Names the parser, and the devices where engines are compiled ahead of time.
    on_progress
        Called with (graphs done, graphs in all).

    Raises
    ------
    UsageError
        The target has no TensorRT.
    """
    if target.engine is None:
        raise UsageError(
            f"target {target.name} does not use TensorRT, so there is nothing to check; choose "
            "rtx, workstation-gpu or jetson-orin"
        )
    parser = PARSERS[target.engine.parser]
    findings: list[Finding] = []
    n_nodes = 0
    variants = bundle.manifest.variants
    for number, variant in enumerate(variants):
        on_progress(number, len(variants))
        graph = bundle.extract(*variant.key).graph
        count, found = lint_graph(graph, parser, target.engine.compute_capabilities)
        n_nodes += count
        findings += found
    on_progress(len(variants), len(variants))
    return LintReport(parser.title, len(variants), n_nodes, tuple(findings))


def lint_graph(
    path: Path, parser: Parser, compute_capabilities: tuple[str, ...] = ()
) -> tuple[int, list[Finding]]:
    """Check one graph.

    Parameters
    ----------
    path
        ONNX file; weights in other files are read only where a value matters.
    parser
        From `PARSERS`.
    compute_capabilities
        Devices that engines are compiled for, where that is known.

    Returns
    -------
        The number of nodes, and the findings in the order of the graph.
    """
    graph = TypedGraph(path)
    reasons: dict[tuple[str, str, bool], str] = {}
    counts: Counter[tuple[str, str, bool]] = Counter()
    for node in graph.nodes:
        for reason, fails in _judge(graph, node, parser, compute_capabilities):
            key = (node.op_type, reason, fails)
            reasons.setdefault(key, node.name or node.output[0])
            counts[key] += 1
    found = [
        Finding(path.name, name, operator, reason, fails, counts[operator, reason, fails])
        for (operator, reason, fails), name in reasons.items()
    ]
    if reason := _judge_opset(graph.opset, parser):
        found.insert(0, Finding(path.name, "the graph", "", reason, fails=True, n_nodes=1))
    return len(graph.nodes), found


def _judge_opset(opset: int, parser: Parser) -> str:
    if MIN_OPSET <= opset <= parser.max_opset:
        return ""
    return f"opset {opset}; {parser.title} reads {MIN_OPSET} to {parser.max_opset}"


def _judge(
    graph: TypedGraph, node: onnx.NodeProto, parser: Parser, compute_capabilities: tuple[str, ...]
) -> Iterator[tuple[str, bool]]:
    """Yield (reason, whether the parser refuses it)."""
    operator = node.op_type
    if node.domain:
        yield f"operator of the domain {node.domain}, which needs a plugin", True
        return
    if operator not in parser.dtypes:
        yield f"{parser.title} has no {operator}", True
        return
    for name in (*node.input, *node.output):
        shape = graph.shape(name) if name else None
        if shape is not None and len(shape) > MAX_RANK:
            yield f"a tensor of {len(shape)} axes; at most {MAX_RANK}", True
            break
    dtype = graph.dtype(_main_value(node))
    if dtype == "DOUBLE":
        yield "double precision, which is cast to FP32", False
    elif dtype is not None and dtype not in parser.dtypes[operator]:
        yield f"{dtype}; {parser.title} takes {' '.join(sorted(parser.dtypes[operator]))}", True
    if operator in _UNCHECKED:
        yield "supported with restrictions that are not checked here", False
    for name in sorted(parser.rules):
        rule = RULES[name]
        if operator in rule.operators and (reason := rule.judge(graph, node)):
            yield reason, rule.fails
    for capability in compute_capabilities if dtype == "FP32" else ():
        if operator in parser.without_fp32.get(capability, ()):
            yield f"FP32, which is not compiled for compute capability {capability}", True


def _main_value(node: onnx.NodeProto) -> str:
    """Name the value whose dtype the parsers' lists state."""
    if node.op_type in _MAIN_OUTPUT:
        return str(node.output[0])
    place = _MAIN_INPUT.get(node.op_type, 0)
    return node.input[place] if place < len(node.input) else ""
