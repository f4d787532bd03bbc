"""`compare`: two of anything on one scan, with the figures that `verify --scan` gives."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from command_line import ldmpir_edge
from html_page import HtmlPage
from PIL import Image
from replayable_bundle import write_replayable
from toy_bundle import MIX

from ldmpir_edge.bundle import find_bundle

FULL, HALF = "ldmpir-2m@onnxruntime", "ldmpir-2m@onnxruntime@fp16"


def test_two_precisions_on_a_scan(scans, tmp_path):
    path, _ = scans["mri"]
    page, figure = tmp_path / "new" / "a.html", tmp_path / "a.png"
    report = ldmpir_edge(
        "compare", FULL, HALF, path, "--report", page, "--figure", figure, "--json"
    ).report
    assert set(report) == {"scan", "task", "slices", "results", "outputs"}
    assert (report["task"], report["slices"]) == ("mri", [0, 1])
    assert report["outputs"] == [str(figure), str(page)]
    verified = ldmpir_edge(
        "verify", "ldmpir-2m", "--backend", "onnxruntime", "--precision", "fp32,fp16",
        "--scan", path, "--json",
    ).report["scan"]["results"]  # fmt: skip
    for ours, theirs, name in zip(report["results"], verified, (FULL, HALF), strict=True):
        assert ours["name"] == name
        assert ours["steps"] == 4
        same = set(theirs) - {"seconds"}
        assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    with Image.open(figure) as drawn:
        assert drawn.width > 3 * 375

    seen = HtmlPage(page)
    headings = [panel["heading"] for panel in seen.data["panels"]]
    assert headings == [
        *(FULL, HALF, "Reference", "Sampled k-space", "Difference"),
        *(f"Error, {FULL}", f"Error, {HALF}"),
    ]
    assert seen.data["flicker"] == ["first", "second"]
    images = {}
    for key, precision in (("first", "fp32"), ("second", "fp16")):
        options = ("--backend", "onnxruntime", "--precision", precision)
        run = ldmpir_edge("run", path, "-o", tmp_path, "--format", "npy", *options, "--json")
        images[key] = np.load(run.report["outputs"][0])[1]
        assert np.abs(seen.image(1, key) - images[key]).max() < 1e-5 * images[key].max()
    # Much smaller than a step of either image, and shown all the same.
    apart = np.abs(images["second"] - images["first"])
    np.testing.assert_allclose(seen.image(1, "difference"), apart, atol=1e-4 * apart.max())
    assert seen.columns("Comparison")["engine"] == ["onnxruntime"] * 2
    assert seen.columns("Comparison")["precision"] == ["fp32", "fp16"]
    psnr_db = report["results"][1]["psnr_db"]
    assert f"has PSNR {psnr_db:.2f} dB" in seen.text
    assert seen.rows("Provenance")[HALF].endswith("4 steps, onnxruntime fp16")


def test_the_table_says_what_is_compared(scans):
    finished = ldmpir_edge("compare", FULL, "ldmpir-2m@fp32@onnxruntime", scans["ct"][0])
    assert finished.code == 0
    assert "equal, bit for bit" in finished.out
    assert finished.out.count("onnxruntime") >= 4


def test_two_bundles_of_which_one_is_a_file(scans, tmp_path):
    copy = shutil.copy(find_bundle("ldmpir-2m"), tmp_path / "odd@name@fp32.ldmpir")
    report = ldmpir_edge("compare", f"{copy}@onnxruntime", FULL, scans["dicom"][0], "--json").report
    first, second = report["results"]
    assert first["name"] == "odd@name@fp32.ldmpir@onnxruntime"
    assert first["bundle_sha256"] == second["bundle_sha256"]
    assert (first["backend"], first["precision"]) == ("onnxruntime", "fp32")
    assert second["difference"]["max_abs"] == 0
    assert second["psnr_db"] is None
    assert first["reference_psnr_db"] is None


@pytest.mark.parametrize(
    ("side", "code", "words"),
    [
        ("ldmpir-2m@fp8", 2, "'fp8' in 'ldmpir-2m@fp8' is no engine or precision"),
        ("ldmpir-2m@fp16@fp32", 2, "'fp16' in 'ldmpir-2m@fp16@fp32'"),
        ("nothing@fp32", 20, "nothing"),
    ],
)
def test_what_is_no_side_is_refused(scans, side, code, words):
    ldmpir_edge("compare", side, FULL, scans["dicom"][0]).assert_refused(code, words)


def test_a_precision_that_the_bundle_lacks_is_refused(scans, tmp_path):
    toy = write_replayable(tmp_path / "toy.ldmpir", fp32=MIX)
    finished = ldmpir_edge("compare", f"{toy}@int8", FULL, scans["dicom"][0])
    finished.assert_refused(20, "holds no int8")


def test_a_scan_that_either_bundle_does_not_take_is_refused(scans, tmp_path):
    # The toy bundle takes 8 coils and 48 columns, and has no family for k-space.
    toy = write_replayable(tmp_path / "toy.ldmpir", fp32=MIX)
    small = np.ones((1, 20, 60), np.float32) + np.eye(20, 60, dtype=np.float32)
    np.save(tmp_path / "wide.npy", small)
    for sides in ((f"{toy}@onnxruntime", FULL), (FULL, f"{toy}@onnxruntime")):
        finished = ldmpir_edge("compare", *sides, tmp_path / "wide.npy")
        finished.assert_refused(14, "64")


def test_a_scan_is_never_replaced(scans, tmp_path):
    path = shutil.copy(scans["dicom"][0], tmp_path / "a.dcm")
    for option in ("--report", "--figure"):
        finished = ldmpir_edge("compare", FULL, FULL, path, option, path)
        finished.assert_refused(30, "would replace the scan")
