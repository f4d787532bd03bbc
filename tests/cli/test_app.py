"""The program around the commands: help, errors, exit codes, and what a missing extra says."""

from __future__ import annotations

import json

import pytest
from command_line import BLOCK, ldmpir_edge, ldmpir_edge_process

from ldmpir_edge.bundle import open_bundle, packaged_bundles
from ldmpir_edge.cli import app as app_module
from ldmpir_edge.cli.output import print_error, print_result
from ldmpir_edge.runtimes import BACKENDS


def test_without_arguments_the_program_explains_itself():
    finished = ldmpir_edge()
    assert finished.code == 0
    assert finished.err == ""
    for command in (
        "run",
        "report",
        "sample",
        "models",
        "inspect",
        "doctor",
        "verify",
        "compare",
        "bench",
        "train",
        "export",
        "compile",
    ):
        assert command in finished.out


def test_an_unknown_command_is_one_line():
    ldmpir_edge("reconstruct").assert_refused(2, "reconstruct")
    ldmpir_edge("run").assert_refused(2, "SCAN")
    ldmpir_edge("sample", "pet").assert_refused(2, "pet", "ismrmrd")


@pytest.mark.parametrize(
    ("command", "extra", "blocked"),
    [
        (("export",), "export", {"torch"}),
        (("export",), "export", {"onnx"}),
        (("export",), "export", {"safetensors"}),
        (("train", "x", "--recipe", "y", "-o", "z"), "train", {"torch"}),
    ],
)
def test_a_missing_extra_names_the_command_that_brings_it(command, extra, blocked):
    finished = ldmpir_edge_process(*command, before=BLOCK.format(blocked=blocked))
    finished.assert_refused(41, f"pip install 'ldmpir-edge[{extra}]'")


def test_an_absent_engine_names_its_extra(scans, tmp_path):
    path, _ = scans["dicom"]
    finished = ldmpir_edge_process(
        "run", path, "-o", tmp_path, "--backend", "openvino",
        before=BLOCK.format(blocked={"openvino"}),
    )  # fmt: skip
    finished.assert_refused(41, "pip install 'ldmpir-edge[openvino]'")


def test_run_needs_no_torch(scans, tmp_path):
    path, _ = scans["dicom"]
    heavy = {"torch", "onnx", "openvino", "safetensors"}
    finished = ldmpir_edge_process(
        "run", path, "-o", tmp_path, "--json", before=BLOCK.format(blocked=heavy)
    )
    assert finished.report["backend"] == "onnxruntime"


def test_an_interruption_has_its_code(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("ldmpir_edge.runtimes.examine", interrupted)
    ldmpir_edge("doctor").assert_refused(app_module.INTERRUPTED, "interrupted")


def test_messages_are_printed_as_they_are(capsys):
    print_error("no [bold]such[/bold] file:\n /data/:smile:/scan.h5")
    print_result("[red]/data/:smile:/scan.h5")
    out, err = capsys.readouterr()
    assert err == "error: no [bold]such[/bold] file: /data/:smile:/scan.h5\n"
    assert out == "[red]/data/:smile:/scan.h5\n"


def test_models_lists_what_is_installed():
    (row,) = [
        m for m in ldmpir_edge("models", "--json").report["models"] if m["name"] == "ldmpir-2m"
    ]
    assert set(row) == {"name", "version", "parameters", "tasks", "precisions", "steps", "path"}
    assert row["path"] == str(packaged_bundles()["ldmpir-2m"])
    assert row["tasks"] == sorted(["mri", "ct", "denoise", "inpaint", "super-resolve"])
    assert 2.0e6 < row["parameters"] < 2.2e6
    text = ldmpir_edge("models")
    assert text.code == 0
    assert "ldmpir-2m" in text.out


def test_inspect_shows_the_manifest():
    opened = open_bundle("ldmpir-2m")
    report = ldmpir_edge("inspect", "ldmpir-2m", "--json").report
    assert set(report) == {"path", "size", "sha256", "signature", "manifest"}
    assert report["sha256"] == opened.digest
    assert report["size"] == opened.path.stat().st_size
    assert report["manifest"] == json.loads(opened.manifest.to_bytes())
    text = ldmpir_edge("inspect", opened.path)
    assert text.code == 0
    for word in (opened.manifest.model.id, "Apache-2.0", "ΔPSNR", "up to 32, 4000"):
        assert word in text.out


def test_doctor_shows_every_backend_and_the_choice():
    report = ldmpir_edge("doctor", "--json").report
    assert {b["name"] for b in report["backends"]} == {backend.name for backend in BACKENDS}
    assert report["choice"]["backend"] in {backend.name for backend in BACKENDS}
    assert report["choice"]["reason"]
    text = ldmpir_edge("doctor")
    assert text.code == 0
    assert f"run would choose {report['choice']['backend']}: " in text.out
