"""Dispatch, names and the array formats, re-read with the libraries that own them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from ldmpir_edge.errors import OutputError, ShapeError, UsageError
from ldmpir_edge.scans.model import ScanInfo, SlicePlane
from ldmpir_edge.scans.write import FORMATS, write_outputs


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_format_is_named_after_the_stem(mr, tmp_path):
    out = tmp_path / "new" / "out"
    paths = write_outputs(mr, out, FORMATS)
    assert [p.name for p in paths] == [
        "brain",
        "brain.h5",
        "brain.nii.gz",
        "brain.npy",
        "brain.png",
        "brain-viewer.html",
    ]
    assert _names(out) == sorted(p.name for p in paths)


def test_a_rerun_gives_the_same_arrays(mr, tmp_path):
    first = write_outputs(mr, tmp_path, ["npy", "nii", "png"])
    before = [p.read_bytes() for p in first]
    assert [p.read_bytes() for p in write_outputs(mr, tmp_path, ["npy", "nii", "png"])] == before


@pytest.mark.parametrize("formats", [["npy", "tiff"], []])
def test_an_unknown_format_writes_nothing(mr, tmp_path, formats):
    with pytest.raises(UsageError, match="dicom, h5, nii, npy, png"):
        write_outputs(mr, tmp_path / "out", formats)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "file"), [("h5", "brain.h5"), ("npy", "brain.npy")])
def test_the_scan_itself_is_never_replaced(mr, tmp_path, name, file):
    scan = tmp_path / file
    scan.write_bytes(b"raw data")
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    for folder in (tmp_path, link):
        with pytest.raises(OutputError, match="would replace the scan"):
            write_outputs(replace(mr, input_files=(scan,)), folder, [name])
    assert scan.read_bytes() == b"raw data"


def test_npy_holds_the_image_and_nothing_else(mr, tmp_path):
    (path,) = write_outputs(mr, tmp_path, ["npy"])
    loaded = np.load(path, allow_pickle=False)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, mr.image)


def test_npy_of_a_transposed_view(mr, tmp_path):
    turned = replace(mr, image=mr.image.transpose(0, 2, 1))
    (path,) = write_outputs(turned, tmp_path, ["npy"])
    np.testing.assert_array_equal(np.load(path), mr.image.transpose(0, 2, 1))


def test_h5_holds_the_image_its_geometry_and_history(mr, ct, tmp_path):
    paths = [write_outputs(recon, tmp_path, ["h5"])[0] for recon in (mr, ct)]
    with h5py.File(paths[0]) as file:
        assert file["reconstruction"].dtype == np.float32
        np.testing.assert_array_equal(file["reconstruction"], mr.image)
        np.testing.assert_array_equal(file["position_mm"], [p.position_mm for p in mr.info.planes])
        assert list(file.attrs["pixel_spacing_mm"]) == [0.6875, 0.75]
        assert file.attrs["slice_thickness_mm"] == 5.0
        made = json.loads(file.attrs["provenance"])
    assert made["bundle_sha256"] == "cd" * 32
    assert made["created"] == "2026-11-22T14:30:05"
    with h5py.File(paths[1]) as file:
        assert file.attrs["unit"] == "HU"
        assert json.loads(file["checks"][()])[1]["fallback"] == "residual 9.0 above 3.0"
        assert "photons unknown" in json.loads(file["notes"][()])


def test_h5_takes_more_checks_than_an_attribute_holds(ct, tmp_path):
    checks = [{"fallback": "x" * 70_000}, {}, {}]
    (path,) = write_outputs(replace(ct, checks=checks), tmp_path, ["h5"])
    with h5py.File(path) as file:
        assert json.loads(file["checks"][()]) == checks


def test_nifti_puts_every_voxel_where_dicom_does(mr, tmp_path):
    (path,) = write_outputs(mr, tmp_path, ["nii"])
    image = nibabel.load(path)
    data = np.asarray(image.dataobj)
    assert data.dtype == np.float32
    assert image.header.get_xyzt_units()[0] == "mm"
    for s, r, c in [(0, 0, 0), (1, 0, 0), (0, 19, 0), (0, 0, 23), (1, 7, 11)]:
        assert data[c, r, s] == mr.image[s, r, c]
        # PS3.3 C.7.6.2.1.1: position + column index x row direction x column spacing + ...
        plane = mr.info.planes[s]
        lps = (
            np.array(plane.position_mm)
            + c * 0.75 * np.array(plane.row_direction)
            + r * 0.6875 * np.array(plane.column_direction)
        )
        for affine in (image.get_sform(), image.get_qform()):
            np.testing.assert_allclose(
                nibabel.affines.apply_affine(affine, [c, r, s]), lps * [-1, -1, 1], atol=1e-3
            )


def test_nifti_says_that_a_position_was_assumed(mr, ct, tmp_path):
    codes = [
        int(nibabel.load(write_outputs(recon, tmp_path, ["nii"])[0]).header["sform_code"])
        for recon in (mr, ct)
    ]
    assert codes == [1, 2]


def test_nifti_refuses_uneven_slices(ct, tmp_path):
    planes = tuple(SlicePlane((0.0, 0.0, z), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)) for z in (0, 1, 3))
    uneven = replace(ct, info=replace(ct.info, planes=planes))
    with pytest.raises(OutputError, match=r"evenly spaced.*--format dicom"):
        write_outputs(uneven, tmp_path, ["nii"])
    assert _names(tmp_path) == []


def test_png_of_one_ct_slice_uses_the_soft_tissue_window(ct, tmp_path):
    image = np.full((1, 32, 30), 40.0, np.float32)
    image[0, 0, :4] = [-160, -1000, 240, 3000]
    (path,) = write_outputs(replace(ct, image=image, checks=[]), tmp_path, ["png"])
    with Image.open(path) as png:
        grey = np.asarray(png)
    assert grey.shape == (32, 30)
    assert list(grey[0, :4]) == [0, 0, 255, 255]
    assert grey[5, 5] == 128


def test_png_shows_the_slices_row_by_row_with_square_pixels(mr, tmp_path):
    image = np.zeros((3, 10, 20), np.float32)
    image[1] = 1.0
    image[2] = 0.5
    info = ScanInfo("mr", pixel_spacing_mm=(2.0, 1.0))
    (path,) = write_outputs(replace(mr, image=image, info=info), tmp_path, ["png"])
    with Image.open(path) as png:
        grey = np.asarray(png)
    assert grey.shape == (40, 40)
    assert [grey[10, 10], grey[10, 30], grey[30, 10], grey[30, 30]] == [0, 255, 128, 0]


def test_png_of_a_mistaken_spacing_stays_small(mr, tmp_path):
    info = ScanInfo("mr", pixel_spacing_mm=(1e-6, 1.0))
    image = np.ones((1, 10, 20), np.float32)
    (path,) = write_outputs(replace(mr, image=image, info=info), tmp_path, ["png"])
    with Image.open(path) as png:
        assert png.size == (20, 10)


def test_png_of_many_slices_stays_small(mr, tmp_path):
    image = np.ones((200, 8, 8), np.float32)
    info = ScanInfo("mr")
    (path,) = write_outputs(replace(mr, image=image, info=info), tmp_path, ["png"])
    with Image.open(path) as png:
        assert png.size == (32, 32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(mr, value):
    image = mr.image.copy()
    image[1, 3, 4] = value
    with pytest.raises(OutputError, match=r"slice 1 .*--precision fp32"):
        replace(mr, image=image)


def test_a_reconstruction_of_the_wrong_kind_is_refused(mr):
    with pytest.raises(ShapeError, match=r"\(20, 24\)"):
        replace(mr, image=mr.image[0])
    with pytest.raises(OutputError, match="float64"):
        replace(mr, image=mr.image.astype(np.float64))
    with pytest.raises(ShapeError, match="3 checks for 2 slices"):
        replace(mr, checks=[{}, {}, {}])
    with pytest.raises(ShapeError, match="2 planes for 1 slices"):
        replace(mr, image=mr.image[:1])


@pytest.mark.parametrize("stem", ["../up", "a/b", "", ".."])
def test_a_stem_cannot_leave_the_folder(mr, stem):
    with pytest.raises(OutputError, match="plain name"):
        replace(mr, stem=stem)
