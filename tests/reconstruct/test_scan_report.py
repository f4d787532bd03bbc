"""The report of a scan: its figures and images are those of the reconstruction."""

from __future__ import annotations

from contextlib import closing

import h5py
import numpy as np
import pytest
from html_page import HtmlPage
from small_scans import SIZE, column_mask, write_dicom, write_fastmri, write_sinogram

from ldmpir_edge.errors import UsageError
from ldmpir_edge.physics.normal import NORMAL_OPERATORS, batch_of_one
from ldmpir_edge.reconstruct import scan_report
from ldmpir_edge.reconstruct.scan_report import ScanReport, check_fits, spread_slices
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.report.html import write_page
from ldmpir_edge.report.metrics import psnr, ssim
from ldmpir_edge.scans.detect import open_scan


def almost_classical(inputs):
    return 0.99 * inputs["x1"][0]


def report(reconstructor, path, *, shown=None, n_samples=0, task=None, **options):
    """Reconstruct into a page; gives the page as it is read back, and the slices."""
    with open_scan(path) as scan:
        header = reconstructor.header(scan, task=task)
        seen = ScanReport(scan, header, shown or spread_slices(header.shape), n_samples)
        stream = reconstructor.stream(
            scan, task=task, n_samples=n_samples, observe=seen.observe, **options
        )
        with closing(stream):
            pieces = list(stream)
        target = path.with_name("page.html")
        write_page(target, seen.page(reconstructor, {"prepare": 2.0, "wall": 8.0}))
    return HtmlPage(target), pieces


def assert_shows(page, place, key, image):
    """The page holds the image, as well as 16 bits do."""
    shown = page.image(place, key)
    assert np.abs(shown - image).max() <= 0.51 * np.ptp(np.float64(image)) / 65535


def test_an_mri_report_holds_what_was_reconstructed(tmp_path, real):
    rss = write_fastmri(tmp_path / "a.h5", n_slices=3, acceleration=3)
    page, pieces = report(real, tmp_path / "a.h5", n_samples=2)
    with open_scan(tmp_path / "a.h5") as scan:
        prepared = prepare_slice(scan, 1, "mri")
        digest = scan.content_sha256
    assert [panel["heading"] for panel in page.data["panels"]] == [
        *("Zero-filled", "CG-SENSE", "LDM-PIR", "Reference", "Sampled k-space"),
        *("Error, Zero-filled", "Error, CG-SENSE", "Error, LDM-PIR", "Uncertainty"),
        "Data residual",
    ]
    problem = prepared.problem
    delivered = real(tmp_path / "a.h5").image[1]
    assert_shows(page, 1, "unreconstructed", prepared.to_scan(problem.b))
    assert_shows(page, 1, "classical", prepared.to_scan(problem.x1))
    assert_shows(page, 1, "ours", delivered)
    assert_shows(page, 1, "reference", rss[1])
    assert_shows(page, 1, "measured", np.tile(column_mask(acceleration=3), (SIZE, 1)))
    seen = []
    with (
        open_scan(tmp_path / "a.h5") as scan,
        closing(real.stream(scan, slices=(1,), n_samples=2, observe=seen.append)) as stream,
    ):
        list(stream)
    assert_shows(page, 1, "deviation", seen[0].deviation)

    captions = page.data["slices"][1]["captions"]
    assert captions["ours"] == (
        f"{psnr(delivered, rss[1], 'mr'):.2f} dB, SSIM {ssim(delivered, rss[1], 'mr'):.3f}"
    )
    checks = page.columns("Checks")
    assert checks["slice"] == ["0", "1", "2"]
    assert checks["residual"] == [f"{piece.checks['residual']:.4f}" for piece in pieces]
    assert checks["delivered"] == ["model"] * 3
    assert checks["PSNR, dB"][1] == f"{psnr(delivered, rss[1], 'mr'):.2f}"
    assert page.tables["Time"][1:] == [["prepare", "2.00", "0.667"], ["wall", "8.00", "2.667"]]
    made = page.rows("Provenance")
    assert made["SHA-256 of the input"] == digest
    assert made["SHA-256 of the bundle"] == real.bundle.digest
    assert made["Bundle"].startswith("ldmpir-2m ")
    assert made["Engine"] == real.reason
    assert made["Precision"] == "fp32"
    assert made["Sampler"].startswith("4 steps, the deterministic mean; uncertainty")
    assert page.data["window"] == pytest.approx([0, np.percentile(rss, 99.5)], rel=1e-6)


@pytest.mark.parametrize("kind", ["mri", "ct", "dicom"])
def test_the_residual_map_has_the_size_that_the_checks_state(tmp_path, faked, rng, kind):
    path = tmp_path / ("a.dcm" if kind == "dicom" else "a.h5")
    task = {"mri": "mri", "ct": "ct", "dicom": "denoise"}[kind]
    if kind == "mri":
        write_fastmri(path, acceleration=2)
    elif kind == "ct":
        write_sinogram(path)
    else:
        write_dicom(path, rng)
    page, _ = report(faked(almost_classical), path)
    with open_scan(path) as scan:
        problem = prepare_slice(scan, 0, task).problem
    left = (
        problem.b
        - NORMAL_OPERATORS[problem.family](
            np.float32(0.99) * problem.x1[None], batch_of_one(problem.tables)
        )[0]
    )
    top, start, height, width = problem.crop
    inside = left[:, top : top + height, start : start + width]
    # Real images have nothing in the second plane.
    size = np.hypot(*inside) if kind == "mri" else np.abs(inside[0])
    expected = size * problem.scale
    # For CT the way to HU and back rounds at 1000 HU.
    assert np.abs(page.image(0, "residual") - expected).max() < 1e-4 * expected.max()
    residual = np.linalg.norm(left) / np.linalg.norm(problem.b)
    assert page.data["slices"][0]["captions"]["residual"] == f"{residual:.4f} of the data"


def test_a_ct_report_shows_the_sinogram_and_hounsfield_units(tmp_path, faked):
    hu = write_sinogram(tmp_path / "a.h5")
    page, pieces = report(faked(almost_classical), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert_shows(page, 0, "measured", file["sinogram"][0])
    assert_shows(page, 0, "ours", pieces[0].image)
    assert_shows(page, 0, "reference", hu[0])
    headings = [panel["heading"] for panel in page.data["panels"]]
    assert headings[:3] == ["Filtered back-projection", "Total variation", "LDM-PIR"]
    assert headings[3:5] == ["Reference", "Sinogram"]
    assert page.data["unit"] == "HU"
    assert page.data["window"] == [-160, 240]
    assert page.data["slices"][0]["captions"]["measured"] == "60 views, 56 detectors"


def test_a_slice_that_fell_back_says_so_everywhere(tmp_path, faked):
    write_fastmri(tmp_path / "a.h5", n_slices=3, acceleration=2)
    reconstructor = faked(almost_classical)
    page, _ = report(
        reconstructor,
        tmp_path / "a.h5",
        withhold=lambda index: "<blink>late</blink>" if index else None,
    )
    assert "2 of 3 slices are the classical image: 1, 2." in page.text
    assert page.columns("Checks")["delivered"] == ["model", *["classical: <blink>late</blink>"] * 2]
    assert "blink" not in {tag for tag, _ in page.tags}
    slices = page.data["slices"]
    assert [piece["warning"] for piece in slices] == [
        "",
        *["The classical image is delivered, since <blink>late</blink>."] * 2,
    ]
    assert slices[1]["captions"]["ours"] == "the classical image"
    np.testing.assert_array_equal(page.image(1, "ours"), page.image(1, "classical"))


def test_an_image_that_nothing_is_known_of_is_shown_with_its_residual(tmp_path, faked, rng):
    noisy = write_dicom(tmp_path / "a.dcm", rng)
    page, _ = report(faked(almost_classical), tmp_path / "a.dcm")
    headings = [panel["heading"] for panel in page.data["panels"]]
    assert headings == ["Input", "Non-local means", "LDM-PIR", "Data residual"]
    assert_shows(page, 0, "unreconstructed", noisy[0])
    assert page.data["flicker"] == ["ours", "classical"]
    assert page.columns("Checks")["PSNR, dB"] == [""]


def test_no_patient_is_named(tmp_path, faked, rng):
    import pydicom

    write_dicom(tmp_path / "a.dcm", rng)
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    secrets = {
        "PatientName": "Doe^Jane",
        "PatientID": "ID-4711",
        "PatientBirthDate": "19700102",
        "AccessionNumber": "ACC-0815",
        "InstitutionName": "Saint Elsewhere",
        "ReferringPhysicianName": "House^G",
        "StudyDescription": "SECRET-STUDY",
        "SeriesDescription": "SECRET-SERIES",
        "ProtocolName": "SECRET-PROTOCOL",
    }
    for keyword, value in secrets.items():
        setattr(ds, keyword, value)
    ds.save_as(tmp_path / "a.dcm")
    page, _ = report(faked(almost_classical), tmp_path / "a.dcm")
    for value in secrets.values():
        assert value not in page.source


def test_a_large_volume_is_shown_in_part_and_checked_as_a_whole(tmp_path, faked, monkeypatch):
    monkeypatch.setattr(scan_report, "MAX_PIXELS", 2 * SIZE * SIZE)
    write_fastmri(tmp_path / "a.h5", n_slices=7, acceleration=2)
    page, _ = report(faked(almost_classical), tmp_path / "a.h5")
    assert [piece["index"] for piece in page.data["slices"]] == [1, 5]
    assert page.columns("Checks")["slice"] == [str(index) for index in range(7)]
    assert "Images are shown of 2 of 7 slices" in page.text


def test_slices_are_spread_evenly_and_all_are_shown_where_they_fit():
    assert spread_slices((3, 256, 256)) == (0, 1, 2)
    assert spread_slices((32, 256, 256)) == tuple(range(32))
    many = spread_slices((200, 256, 256))
    assert len(many) == 32
    assert set(np.diff(many)) == {6, 7}
    assert many[0] + many[-1] == pytest.approx(199, abs=1)
    assert spread_slices((9, 4096, 4096)) == (4,)
    check_fits(range(8), (100, 512, 512))
    with pytest.raises(UsageError, match="holds 8 slices of 512 × 512 pixels, not 9"):
        check_fits(range(9), (100, 512, 512))
