"""`run`: every kind of scan, every format, and the contracts that scripts rely on."""

from __future__ import annotations

import re
import shutil

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from command_line import ldmpir_edge
from PIL import Image

from ldmpir_edge.reconstruct import reconstructor
from ldmpir_edge.scans import sample

KINDS = ("mri", "ismrmrd", "ct", "ct-fan", "dicom")
REPORT_KEYS = {"outputs", "backend", "precision", "steps", "seconds", "checks", "notes"}
CHECK_KEYS = {
    "scan",
    "slice",
    "finite",
    "max_value",
    "residual",
    "residual_classical",
    "noise_level",
    "fallback",
}
ONNXRUNTIME = ("--backend", "onnxruntime")


def run_npy(path, out, *options):
    """Run to NPY; gives the report and the image."""
    report = ldmpir_edge("run", path, "-o", out, "--format", "npy", "--json", *options).report
    return report, np.load(report["outputs"][0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_of_every_kind(scans, tmp_path, kind):
    path, truth = scans[kind]
    finished = ldmpir_edge(
        "run", path, "-o", tmp_path, "--format", "dicom,h5,nii,npy,png", "--json", *ONNXRUNTIME
    )
    report = finished.report
    stem = path.stem
    names = [stem, f"{stem}.h5", f"{stem}.nii.gz", f"{stem}.npy", f"{stem}.png"]
    assert report["outputs"] == [str(tmp_path / n) for n in [*names, f"{stem}-comparison.png"]]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, f"{stem}-comparison.png"])
    image = np.load(tmp_path / f"{stem}.npy")
    assert (image.dtype, image.shape) == (np.float32, truth.shape)
    with h5py.File(tmp_path / f"{stem}.h5") as file:
        np.testing.assert_array_equal(file["reconstruction"][()], image)
    volume = nibabel.load(tmp_path / f"{stem}.nii.gz").get_fdata()
    assert volume.size == image.size
    assert volume.max() == pytest.approx(image.max())
    slices = [pydicom.dcmread(p) for p in sorted((tmp_path / stem).glob("*.dcm"))]
    assert len(slices) == len(image)
    assert {(ds.Rows, ds.Columns) for ds in slices} == {image.shape[1:]}
    for name in (f"{stem}.png", f"{stem}-comparison.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) >= min(image.shape[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_has_the_keys_that_scripts_rely_on(scans, tmp_path, kind):
    path, truth = scans[kind]
    report, _ = run_npy(path, tmp_path, *ONNXRUNTIME)
    assert set(report) == REPORT_KEYS
    assert (report["backend"], report["precision"], report["steps"]) == ("onnxruntime", "fp32", 4)
    assert set(report["seconds"]) == {"prepare", "load", "engine", "check", "write", "wall"}
    assert all(seconds >= 0 for seconds in report["seconds"].values())
    assert [check["slice"] for check in report["checks"]] == list(range(len(truth)))
    for check in report["checks"]:
        assert set(check) == CHECK_KEYS
        assert check["scan"] == str(path)
        assert check["finite"] is True
        assert check["fallback"] is None


@pytest.mark.parametrize("kind", ["mri", "ismrmrd"])
def test_mri_is_on_the_scale_of_the_root_sum_of_squares(scans, tmp_path, kind):
    path, rss = scans[kind]
    _, image = run_npy(path, tmp_path, *ONNXRUNTIME)
    # The slope of a fit through the origin: what PSNR without fitting is sensitive to.
    slope = np.vdot(image, rss) / np.vdot(rss, rss)
    assert slope == pytest.approx(1, abs=0.04)
    assert np.linalg.norm(image - rss) < 0.12 * np.linalg.norm(rss)


@pytest.mark.parametrize("kind", ["ct", "ct-fan"])
def test_ct_is_in_hounsfield_units(scans, tmp_path, kind):
    path, hu = scans[kind]
    _, image = run_npy(path, tmp_path, *ONNXRUNTIME)
    assert np.median(image[hu < -999]) == pytest.approx(-1000, abs=60)
    assert np.median(image[np.abs(hu) < 1]) == pytest.approx(0, abs=40)
    assert np.median(image[np.abs(hu - 500) < 1]) == pytest.approx(500, abs=80)


def test_images_keep_their_scale(scans, tmp_path):
    path, noisy = scans["dicom"]
    _, image = run_npy(path, tmp_path, *ONNXRUNTIME)
    assert np.vdot(image, noisy) / np.vdot(noisy, noisy) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", ["mri", "ct", "dicom"])
def test_engines_give_the_same_image(scans, tmp_path, kind):
    path, _ = scans[kind]
    images = {}
    for name in ("onnxruntime", "openvino", "torch"):
        report, images[name] = run_npy(path, tmp_path, "--backend", name)
        assert report["backend"] == name
    span = np.ptp(images["onnxruntime"])
    for name in ("openvino", "torch"):
        np.testing.assert_allclose(images[name], images["onnxruntime"], atol=1e-3 * span)


def test_half_precision_is_a_choice(scans, tmp_path):
    path, _ = scans["mri"]
    _, exact = run_npy(path, tmp_path, *ONNXRUNTIME)
    report, half = run_npy(path, tmp_path, "--precision", "fp16", *ONNXRUNTIME)
    assert report["precision"] == "fp16"
    assert 0 < np.abs(half - exact).max() < 0.02 * exact.max()


def test_fewer_steps_are_another_variant(scans, tmp_path):
    path, rss = scans["mri"]
    _, four = run_npy(path, tmp_path, *ONNXRUNTIME)
    report, one = run_npy(path, tmp_path, "--steps", "1", *ONNXRUNTIME)
    assert report["steps"] == 1
    assert not np.array_equal(one, four)
    assert np.linalg.norm(one - rss) < 0.2 * np.linalg.norm(rss)


def test_a_seed_is_repeatable(scans, tmp_path):
    path, _ = scans["dicom"]
    mean, first, again = (
        run_npy(path, tmp_path, *ONNXRUNTIME, *seed)[1]
        for seed in ((), ("--seed", 5), ("--seed", 5))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, mean)


def test_tasks_of_images(scans, tmp_path):
    path, noisy = scans["dicom"]
    _, double = run_npy(path, tmp_path, "--task", "super-resolve", *ONNXRUNTIME)
    assert double.shape == (1, 2 * noisy.shape[1], 2 * noisy.shape[2])
    by_four = ("--task", "super-resolve", "--factor", 4)
    _, fourfold = run_npy(path, tmp_path / "x4", *by_four, *ONNXRUNTIME)
    assert fourfold.shape == (1, 4 * noisy.shape[1], 4 * noisy.shape[2])
    holes = noisy.astype(np.float32).copy()
    holes[0, 10:14, 20:24] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    _, filled = run_npy(tmp_path / "holes.npy", tmp_path / "o", "--task", "inpaint", *ONNXRUNTIME)
    assert np.isfinite(filled).all()


def test_scans_whose_outputs_would_have_the_same_names(scans, tmp_path):
    path, _ = scans["mri"]
    both = [tmp_path / name / "scan.h5" for name in ("a", "b")]
    for copied in both:
        copied.parent.mkdir()
        shutil.copy(path, copied)
    finished = ldmpir_edge("run", *both, "-o", tmp_path / "out", *ONNXRUNTIME)
    finished.assert_refused(2, "would have the same names", "folders of their own")
    assert not (tmp_path / "out").exists()


def test_an_output_that_would_replace_another_scan(scans, tmp_path):
    path, _ = scans["mri"]
    first, second = tmp_path / "exam.h5", tmp_path / "exam" / "brain.h5"
    second.parent.mkdir()
    for copied in (first, second):
        shutil.copy(path, copied)
    finished = ldmpir_edge("run", first, second, "-o", tmp_path, "--format", "dicom", *ONNXRUNTIME)
    finished.assert_refused(30, "would replace the scan", "brain.h5")
    assert second.exists()


def test_several_scans_in_one_run(scans, tmp_path):
    first, _ = scans["mri"]
    second, _ = scans["dicom"]
    finished = ldmpir_edge(
        "run", first, second, "-o", tmp_path, "--format", "npy", "--json", *ONNXRUNTIME
    )
    assert {check["scan"] for check in finished.report["checks"]} == {str(first), str(second)}
    assert {p.name for p in tmp_path.iterdir()} == {"brain.npy", "slice.npy"}


def test_the_text_says_which_engine_and_why(scans, tmp_path):
    path, _ = scans["dicom"]
    finished = ldmpir_edge("run", path, "-o", tmp_path, *ONNXRUNTIME)
    assert finished.code == 0
    summary, *outputs = finished.out.splitlines()
    assert re.fullmatch(
        r"1 slices in \d+\.\d s on onnxruntime, fp32, 4 steps "
        r"\(onnxruntime [\d.]+, as requested\)",
        summary,
    )
    assert outputs == [str(tmp_path / "slice")]


def test_the_automatic_choice_gives_its_reason(scans, tmp_path):
    path, _ = scans["dicom"]
    finished = ldmpir_edge("run", path, "-o", tmp_path)
    assert "the preferred engine installed" in finished.out.splitlines()[0]


def test_a_fallback_is_said_and_is_no_failure(scans, tmp_path, monkeypatch):
    class Broken:
        backend, reason = "broken", "for the test"

        def run(self, inputs):
            return {"image": np.full_like(inputs["x1"], np.nan)}

        def close(self):
            pass

    monkeypatch.setattr(reconstructor, "load_engine", lambda *_: Broken())
    path, _ = scans["mri"]
    report, image = run_npy(path, tmp_path)
    assert all("NaN" in check["fallback"] for check in report["checks"])
    assert np.isfinite(image).all()
    finished = ldmpir_edge("run", path, "-o", tmp_path)
    assert finished.code == 0
    assert finished.err.count("the classical image is delivered, since") == 2
    ds = pydicom.dcmread(next((tmp_path / "brain").glob("*.dcm")))
    texts = [element.value for element in ds.iterall() if isinstance(element.value, str)]
    assert any("NaN" in text for text in texts)


def test_a_bad_slice_late_in_the_volume_leaves_nothing(tmp_path, rng):
    images = (1 + rng.random((5, 48, 48))).astype(np.float32)
    images[3, 20, 20] = np.nan
    np.save(tmp_path / "a.npy", images)
    out = tmp_path / "new" / "out"
    finished = ldmpir_edge(
        "run", tmp_path / "a.npy", "-o", out, "--format", "dicom,h5,nii,npy,png", *ONNXRUNTIME
    )
    finished.assert_refused(12, "image 3 holds 1 NaN")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_the_seconds_of_stages_overlap_within_the_wall_clock_s(tmp_path, rng):
    images = (1 + rng.random((6, 64, 64))).astype(np.float32)
    np.save(tmp_path / "a.npy", images)
    report, _ = run_npy(tmp_path / "a.npy", tmp_path / "out", *ONNXRUNTIME)
    seconds = report["seconds"]
    assert seconds["wall"] >= seconds["engine"]
    assert all(seconds["wall"] >= seconds[stage] for stage in ("prepare", "check", "write"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "tiff"), ("unknown output format tiff", "dicom, h5, nii, npy, png")),
        (("--format", "npy,bmp"), ("unknown output format bmp",)),
        (("--format", ","), ("unknown output format nothing",)),
        (("--backend", "tensorflow"), ("tensorflow", "onnxruntime")),
        (("--task", "colorize"), ("colorize", "super-resolve")),
        (("--precision", "fp8"), ("fp8", "fp16")),
        (("--steps", "0"), ("--steps",)),
        (("--steps", "many"), ("--steps", "integer")),
        (("--seed", "-1"), ("--seed",)),
        (("--frobnicate",), ("--frobnicate",)),
        (("--task", "denoise"), ("holds raw MRI data", "--task denoise takes images")),
        (("--factor", "4"), ("--factor 4 goes with --task super-resolve",)),
    ],
)
def test_a_wrong_option_is_one_line(scans, tmp_path, options, words):
    path, _ = scans["mri"]
    finished = ldmpir_edge("run", path, "-o", tmp_path / "out", *options)
    finished.assert_refused(2, *words)
    assert not (tmp_path / "out").exists()


def test_a_variant_that_the_bundle_lacks(scans, tmp_path):
    path, _ = scans["mri"]
    refused = ldmpir_edge("run", path, "-o", tmp_path, "--steps", "3", "--precision", "int8")
    refused.assert_refused(20, "it holds", "4 steps int8")
    ldmpir_edge("run", path, "--bundle", "resnet").assert_refused(20, "resnet")


@pytest.mark.parametrize(
    "kind", [k if k != "ct-fan" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]
)
def test_a_sample_of_every_kind_can_be_run(tmp_path, monkeypatch, kind):
    # A quarter of the matrix: the real ones are run by `make demo` and the README's test.
    monkeypatch.setattr(sample, "_MATRIX", 64)
    made = ldmpir_edge("sample", kind, "-o", tmp_path, "--json").report
    (path,) = made["outputs"]
    assert path == str(tmp_path / f"sample-{kind}.{'dcm' if kind == 'dicom' else 'h5'}")
    report, image = run_npy(path, tmp_path / "out", "--steps", "1", *ONNXRUNTIME)
    assert image.shape == ((1 if kind == "dicom" else 3), 64, 64)
    assert not any(check["fallback"] for check in report["checks"])
