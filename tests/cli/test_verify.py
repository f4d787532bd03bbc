"""`verify` prints everything, and its exit code says whether the engines are to be trusted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import BLOCK, ldmpir_edge, ldmpir_edge_process
from replayable_bundle import write_replayable
from toy_bundle import MIX

from ldmpir_edge.runtimes.openvino_backend import OpenVinoEngine

WRONG = MIX + np.float32(0.5)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Paths of a bundle that is right, and of one whose int8 variant is not."""
    folder = tmp_path_factory.mktemp("toys")
    right = write_replayable(folder / "right.ldmpir", fp32=MIX, fp16=MIX)
    wrong = write_replayable(folder / "wrong.ldmpir", fp32=MIX, int8=WRONG)
    return right, wrong


def test_a_bundle_that_keeps_its_promise_passes(toys):
    report = ldmpir_edge("verify", toys[0], "--backend", "onnxruntime,openvino", "--json").report
    assert set(report) == {"golden"}
    rows = report["golden"]
    assert [(row["backend"], row["precision"], row["passed"]) for row in rows] == [
        ("onnxruntime", "fp32", True),
        ("openvino", "fp32", True),
        ("onnxruntime", "fp16", True),
        ("openvino", "fp16", True),
    ]
    assert set(rows[0]) == {"family", "backend", "precision", "difference", "passed", "reason"}
    assert set(rows[0]["difference"]) == {"max_abs", "p999_abs", "psnr_db"}
    text = ldmpir_edge("verify", toys[0], "--backend", "onnxruntime", "--backend", "openvino")
    assert text.code == 0
    assert text.out.count("passed") == 4


def test_a_wrong_image_is_an_error_after_everything_is_printed(toys):
    text = ldmpir_edge("verify", toys[1], "--backend", "onnxruntime")
    assert text.code == 50
    assert text.out.count("passed") == text.out.count("FAILED") == 1
    remark, error = text.err.splitlines()
    assert remark == "pointwise on onnxruntime in int8: PSNR below 39.1 dB"
    for word in ("error: 1 of 2", "pointwise on onnxruntime in int8", "below 39.1 dB"):
        assert word in error
    as_json = ldmpir_edge("verify", toys[1], "--backend", "onnxruntime", "--json")
    assert as_json.code == 50
    assert [row["passed"] for row in json.loads(as_json.out)["golden"]] == [True, False]
    assert ldmpir_edge("verify", toys[1], "--precision", "fp32").code == 0


def test_an_engine_that_cannot_take_the_bundle_is_an_error_only_where_it_was_named(toys):
    # PyTorch has no weights of the toy model.
    text = ldmpir_edge("verify", toys[0], "--precision", "fp32")
    assert text.code == 0
    assert "not run" in text.out
    assert "pointwise on torch in fp32: torch needs the trained weights" in text.err
    named = ldmpir_edge("verify", toys[0], "--precision", "fp32", "--backend", "torch,openvino")
    assert named.code == 40
    assert named.out.count("passed") == 1


def test_engines_are_compared_on_a_scan(scans):
    path, _ = scans["mri"]
    arguments = ("verify", "ldmpir-2m", "--backend", "onnxruntime", "--scan", path)
    report = ldmpir_edge(*arguments, "--json").report
    assert set(report) == {"golden", "scan"}
    scan = report["scan"]
    assert (scan["scan"], scan["task"], scan["slices"]) == (str(path), "mri", [0, 1])
    first, *others = scan["results"]
    assert [row["precision"] for row in scan["results"]] == ["fp32", "fp16", "int8"]
    assert first["psnr_db"] is None
    of_first = 10 ** (-first["reference_psnr_db"] / 20)
    for row, least_db in zip(others, (90, 50), strict=True):
        assert row["psnr_db"] > least_db
        # An image that differs by so much has an error that differs by no more.
        difference = 10 ** (-row["psnr_db"] / 20)
        assert 10 ** (-row["reference_psnr_db"] / 20) == pytest.approx(of_first, abs=difference)
    of_fp16 = others[0]["reference_psnr_db"]
    assert of_fp16 == pytest.approx(first["reference_psnr_db"], abs=0.05)
    text = ldmpir_edge(*arguments)
    assert text.code == 0
    assert "mri, slices 0, 1 of brain.h5: beside the first that ran" in text.out
    assert f"{first['reference_psnr_db']:.2f}" in text.out
    assert f"{first['residual']:.4f}" in text.out


def test_layers_name_the_node(toys, monkeypatch):
    arguments = ("verify", toys[1], "--backend", "onnxruntime,openvino", "--layers")
    agreed = ldmpir_edge(*arguments)
    # Both engines run the same wrong graph: they agree, though the image is not the golden one.
    assert agreed.code == 50
    assert "pointwise in int8, openvino beside onnxruntime: every node agrees" in agreed.out
    report = json.loads(ldmpir_edge(*arguments, "--json").out)["layers"]
    assert report == {
        "family": "pointwise",
        "precision": "int8",
        "backends": ["onnxruntime", "openvino"],
        "tolerance": 0.1,
        "divergences": [],
    }
    honest = OpenVinoEngine._run

    def miscomputing(self, inputs):
        outputs = honest(self, inputs)
        return {name: values + 5 * (name in wrong) for name, values in outputs.items()}

    monkeypatch.setattr(OpenVinoEngine, "_run", miscomputing)
    wrong = {"mixed", "image"}
    found = ldmpir_edge("verify", toys[0], *arguments[2:])
    assert found.code == 50
    assert "the first node that diverges is Conv" in found.out
    # What a marked graph computes rightly, a fused kernel may not.
    wrong = {"image"}
    monkeypatch.setattr("ldmpir_edge.export.divergence._difference", lambda *_: 0.0)
    assert (
        "so a kernel that one of them fuses" in ldmpir_edge("verify", toys[0], *arguments[2:]).out
    )


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--backend", "tensorflow"), 2, ("tensorflow", "openvino")),
        (("--backend", "torch", "--precision", "fp16"), 2, ("torch", "fp16")),
        (("--backend", "openvino,torch", "--layers"), 2, ("--layers", "openvino")),
        (("--precision", "int8"), 20, ("int8", "fp32, fp16")),
        (("--scan", "none.h5", "--backend", "onnxruntime"), 10, ("none.h5",)),
    ],
)
def test_what_cannot_be_verified_is_one_line(toys, options, code, words):
    finished = ldmpir_edge("verify", toys[0], *options, "--json")
    finished.assert_refused(code, *words)


@pytest.mark.parametrize("blocked", ["onnx", "polygraphy"])
def test_layers_need_an_extra_and_the_rest_does_not(toys, blocked):
    arguments = ("verify", toys[0], "--backend", "onnxruntime,openvino")
    before = BLOCK.format(blocked={blocked, "torch"})
    refused = ldmpir_edge_process(*arguments, "--layers", before=before)
    refused.assert_refused(41, "verify --layers", "pip install 'ldmpir-edge[export]'")
    assert ldmpir_edge_process(*arguments, before=before).code == 0
