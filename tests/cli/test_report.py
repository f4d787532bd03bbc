"""`report` and `run --report`: a page of what `run` delivers, made once."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from command_line import BLOCK, ldmpir_edge, ldmpir_edge_process
from html_page import HtmlPage

from ldmpir_edge.cli.report import parse_slices
from ldmpir_edge.errors import UsageError
from ldmpir_edge.reconstruct import reconstructor

ONNXRUNTIME = ("--backend", "onnxruntime")


def test_the_page_shows_what_run_delivers(scans, tmp_path):
    path, _ = scans["mri"]
    target = tmp_path / "new folder" / "a.html"
    arguments = ("report", path, "-o", target, *ONNXRUNTIME, "--samples", 2, "--json")
    report = ldmpir_edge(*arguments).report
    assert set(report) == {
        *("outputs", "backend", "precision", "steps", "samples", "seconds", "checks"),
    }
    assert report["outputs"] == [str(target)]
    assert report["backend"] == "onnxruntime"
    assert set(report["seconds"]) == {
        *("prepare", "load", "engine", "samples", "check", "report", "wall"),
    }
    page = HtmlPage(target)
    assert page.rows("Provenance")["Input"] == "brain.h5, 2 slices"
    assert page.rows("Provenance")["Engine"].startswith("onnxruntime ")
    residuals = [f"{check['residual']:.4f}" for check in report["checks"]]
    assert page.columns("Checks")["residual"] == residuals
    assert {row[0] for row in page.tables["Time"][1:]} == set(report["seconds"])
    run = ldmpir_edge("run", path, "-o", tmp_path, "--format", "npy", *ONNXRUNTIME, "--json")
    image = np.load(run.report["outputs"][0])
    assert np.abs(page.image(1, "ours") - image[1]).max() < 1e-5 * image[1].max()
    assert "deviation" in page.data["slices"][0]["images"]


def test_run_writes_a_page_beside_its_outputs_without_another_reconstruction(
    scans, tmp_path, monkeypatch
):
    path, truth = scans["mri"]
    calls = []
    engine_arrays = reconstructor.engine_arrays

    def count(*arguments):
        calls.append(1)
        return engine_arrays(*arguments)

    monkeypatch.setattr(reconstructor, "engine_arrays", count)
    report = ldmpir_edge(
        "run", path, scans["dicom"][0], "-o", tmp_path, "--format", "npy,png", "--report",
        "--json", *ONNXRUNTIME,
    ).report  # fmt: skip
    assert len(calls) == len(truth) + 1
    assert [str(tmp_path / f"{stem}-report.html") for stem in ("slice", "brain")] == [
        output for output in report["outputs"] if output.endswith(".html")
    ]
    assert report["seconds"]["report"] > 0
    image = np.load(tmp_path / "brain.npy")
    page = HtmlPage(tmp_path / "brain-report.html")
    for index in range(2):
        shown = page.image(index, "ours")
        assert np.abs(shown - image[index]).max() < 1e-5 * image[index].max()
    assert {row[0] for row in page.tables["Time"][1:]} >= {"write", "wall"}
    assert HtmlPage(tmp_path / "slice-report.html").rows("Provenance")["Task"] == "denoise"


def test_the_page_lies_here_where_it_is_not_said(scans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished = ldmpir_edge("report", scans["ct"][0], *ONNXRUNTIME)
    assert (finished.code, finished.out) == (0, "head-report.html\n")
    assert HtmlPage(tmp_path / "head-report.html").data["unit"] == "HU"


def test_slices_can_be_chosen(scans, tmp_path):
    target = tmp_path / "a.html"
    path, _ = scans["mri"]
    report = ldmpir_edge(
        "report", path, "-o", target, *ONNXRUNTIME, "--slices", "1", "--json"
    ).report
    assert [check["slice"] for check in report["checks"]] == [1]
    assert [piece["index"] for piece in HtmlPage(target).data["slices"]] == [1]
    ldmpir_edge("report", path, "-o", target, "--slices", "2").assert_refused(2, "no slice 2")


def test_lists_of_slices():
    assert parse_slices("3,7,10-12", 20) == (3, 7, 10, 11, 12)
    assert parse_slices(" 5-5 , 0", 6) == (0, 5)
    for text in ("", "a", "-1", "1-", "1,,2", "1.5"):
        with pytest.raises(UsageError, match="is not a list like"):
            parse_slices(text, 20)
    with pytest.raises(UsageError, match="names no slice"):
        parse_slices("5-3", 20)
    with pytest.raises(UsageError, match="no slice 99999999999; choose of 0 to 19"):
        parse_slices("0-99999999999", 20)


def test_a_hostile_name_is_only_a_name(scans, tmp_path):
    name = "<img src=x onerror=alert(1)> & $x$ 'quoted'.dcm"
    shutil.copy(scans["dicom"][0], tmp_path / name)
    finished = ldmpir_edge("run", tmp_path / name, "-o", tmp_path, "--format", "png", "--report")
    assert finished.code == 0, finished.err
    page = HtmlPage(tmp_path / f"{name.removesuffix('.dcm')}-report.html")
    assert "img" not in dict(page.tags)
    assert page.rows("Provenance")["Input"] == f"{name}, 1 slices"
    assert str(tmp_path) not in page.source


def test_a_scan_is_never_replaced(scans, tmp_path):
    path = shutil.copy(scans["mri"][0], tmp_path / "a.h5")
    before = path.read_bytes()
    ldmpir_edge("report", path, "-o", path).assert_refused(30, "would replace the scan")
    assert path.read_bytes() == before


def test_one_report_is_of_one_scan(scans, tmp_path):
    finished = ldmpir_edge("report", scans["mri"][0], scans["ct"][0], "-o", tmp_path / "a.html")
    finished.assert_refused(2, "run --report")
    finished = ldmpir_edge("report", scans["mri"][0], "--steps", 1, "--samples", 4)
    finished.assert_refused(2, "no spread")


def test_a_missing_extra_is_named_before_anything_is_done(scans, tmp_path):
    before = BLOCK.format(blocked={"jinja2"})
    for command in ("report", "run"):
        extra = ("--report",) if command == "run" else ()
        finished = ldmpir_edge_process(
            command, scans["dicom"][0], "-o", tmp_path / "out", *extra, before=before
        )
        finished.assert_refused(41, "pip install 'ldmpir-edge[report]'")
    assert list(tmp_path.iterdir()) == []
