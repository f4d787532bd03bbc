"""`bench` measures what `run` does, and says on what it was measured."""

from __future__ import annotations

import sys

import pytest
from command_line import ldmpir_edge
from PIL import Image

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.cli import bench as bench_module
from ldmpir_edge.reconstruct.bench import BenchRow, Percentiles
from ldmpir_edge.reconstruct.bench_worker import STAGES

QUICK = ("--size", 48, "--coils", 2, "--steps", 1, "--repeats", 2, "--backends", "onnxruntime")


@pytest.fixture
def rows(monkeypatch):
    """Rows that are printed in place of measured ones."""

    def arrange(*made):
        monkeypatch.setattr("ldmpir_edge.reconstruct.bench.run_bench", lambda *_: iter(made))

    return arrange


def row(backend="onnxruntime", precision="fp32", psnr_db=31.25, first=4.25):
    seconds = {stage: Percentiles(0.1 * k, 0.2, 0.3) for k, stage in enumerate(STAGES, 1)}
    seconds["slice"] = Percentiles(1.501, 1.602, 1.703)
    return BenchRow(backend, precision, "1.2.3", first, 2.75, seconds, 345.6, psnr_db)


def test_a_combination_is_measured(tmp_path):
    report = ldmpir_edge(
        "bench", "ldmpir-2m", *QUICK, "--precisions", "fp16",
        "--plot", tmp_path / "new" / "a.png", "--json",
    ).report  # fmt: skip
    assert set(report) == {
        *("machine", "threads", "versions", "bundle", "scan", "steps", "repeats", "rows")
    }
    assert report["machine"]["n_cores"] >= 1
    assert report["bundle"]["sha256"] == open_bundle("ldmpir-2m").digest
    assert report["scan"] == "slice 0 of simulated-mri.h5, 48 × 48, 2 coils"
    assert (report["steps"], report["repeats"]) == (1, 2)
    assert {"ldmpir-edge", "numpy", "onnxruntime"} == set(report["versions"])
    (found,) = report["rows"]
    assert (found["backend"], found["precision"], found["reason"]) == ("onnxruntime", "fp16", "")
    assert found["cold_start_s"] > found["seconds"]["slice"]["p50"]
    whole, parts = found["seconds"].pop("slice"), found["seconds"]
    assert set(parts) == set(STAGES)
    assert sum(stage["p50"] for stage in parts.values()) <= 1.2 * whole["p50"]
    assert whole["p50"] <= whole["p90"] <= whole["p99"]
    assert 50 < found["peak_memory_mib"] < 1000
    assert 10 < found["psnr_db"] < 50
    with Image.open(tmp_path / "new" / "a.png") as figure:
        assert figure.size[0] > 1000


def test_the_tables_hold_the_figures(rows):
    rows(
        row(), BenchRow("openvino", "fp32", reason="it does not fit"), row(psnr_db=None, first=None)
    )
    text = ldmpir_edge("bench", "ldmpir-2m", *QUICK)
    assert text.code == 0
    for word in (
        *("each engine's own choice", "cores", "onnxruntime 1.2.3", "1 steps: slice 0 of"),
        *("1.501", "1.602", "1.703", "4.25", "2.75", "346", "31.25"),
        *STAGES,
        *("100.0", "200.0", "300.0", "400.0", "500.0"),
    ):
        assert word in text.out, word
    assert text.err == "openvino in fp32: it does not fit\n"


def test_a_scan_may_be_given(rows, scans):
    rows(row())
    arguments = ("bench", "ldmpir-2m", "--backends", "onnxruntime", "--scan", scans["mri"][0])
    report = ldmpir_edge(*arguments, "--json").report
    assert report["scan"] == "slice 1 of brain.h5, 48 × 48, 4 coils"
    assert report["steps"] == 4


def test_nothing_measured_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_module, "PROCESS", [sys.executable, "-c", "raise SystemExit('no')"])
    finished = ldmpir_edge("bench", "ldmpir-2m", *QUICK, "--plot", tmp_path / "a.png")
    assert finished.code == 40
    assert "nothing could be measured: the process ended with exit code 1: no" in finished.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--scan", "a.h5", "--coils", "4"), 2, ("--size and --coils",)),
        (("--backends", "tensorflow"), 2, ("tensorflow",)),
        (("--backends", "torch", "--precisions", "fp16"), 2, ("torch", "fp16")),
        (("--scan", "none.h5"), 10, ("none.h5",)),
        (("--size", "4096"), 14, ("4096",)),
        (("--coils", "100"), 14, ("100",)),
        (("--steps", "5"), 20, ("5 steps",)),
        (("--precisions", "int4"), 20, ("int4",)),
        (("--plot", "/proc/nowhere/a.png"), 30, ("/proc/nowhere",)),
    ],
)
def test_what_cannot_be_measured_is_one_line(options, code, words):
    ldmpir_edge("bench", "ldmpir-2m", *options, "--json").assert_refused(code, *words)
