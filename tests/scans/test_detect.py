"""Content decides what a file is; whatever is not a scan gets one clear line."""

from __future__ import annotations

import os

import h5py
import nibabel as nib
import numpy as np
import pytest

from ldmpir_edge.errors import ScanDataError, ScanError, ScanFormatError
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.sample import SAMPLE_KINDS


def refused(path, error, message):
    with pytest.raises(error, match=message) as caught, open_scan(path):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", SAMPLE_KINDS)
def test_names_do_not_matter(samples, kind, tmp_path):
    disguised = tmp_path / "scan.txt"
    disguised.symlink_to(samples[kind])
    with open_scan(disguised) as scan:
        expected = {"mri": "mri", "ismrmrd": "mri", "dicom": "image"}.get(kind, "ct")
        assert scan.kind == expected


@pytest.mark.parametrize("kind", SAMPLE_KINDS)
def test_truncated_files_are_refused(samples, kind, tmp_path):
    whole = samples[kind].read_bytes()
    for share in (0.1, 0.6, 0.99):
        cut = tmp_path / f"cut-{share}.h5"
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises((ScanFormatError, ScanDataError)), open_scan(cut) as scan:
            scan.image(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, I am text", "not a scan that is known"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "damaged or not HDF5"),
        (b"\x93NUMPY" + bytes(20), "damaged or truncated NPY"),
        (b"\x1f\x8b" + bytes(20), "damaged gzip"),
        (bytes(128) + b"DICM" + bytes(20), "DICOM"),
        ((348).to_bytes(4, "little") + bytes(400), "damaged NIfTI"),
    ],
)
def test_what_is_not_a_scan(tmp_path, content, message):
    path = tmp_path / "scan.h5"
    path.write_bytes(content)
    refused(path, ScanFormatError, message)


def test_missing_file_and_empty_folder(tmp_path):
    refused(tmp_path / "nowhere.h5", ScanError, "no such file")
    refused(tmp_path, ScanFormatError, "folder is empty")
    refused([], ScanError, "no scan was given")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "scan.h5"
    path.write_bytes(b"x")
    path.chmod(0)
    refused(path, ScanError, "check permissions")


def test_hdf5_without_a_scan(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["temperature"] = 3.0
    refused(path, ScanFormatError, "holds temperature")


def test_several_files_must_be_dicom(samples):
    refused([samples["mri"], samples["ct"]], ScanFormatError, "one scan at a time")
    refused([samples["dicom"], samples["ct"]], ScanFormatError, "not a DICOM file")


def test_npy_volume(tmp_path, rng):
    volume = rng.standard_normal((3, 8, 6)).astype(np.float64)
    np.save(tmp_path / "v.npy", volume)
    with open_scan(tmp_path / "v.npy") as scan:
        assert (scan.n_slices, scan.image_shape, scan.info.modality) == (3, (8, 6), "mr")
        np.testing.assert_allclose(scan.image(2), volume[2], rtol=1e-6)
    np.save(tmp_path / "ct.npy", volume[0] - 1000)
    with open_scan(tmp_path / "ct.npy") as scan:
        assert (scan.n_slices, scan.info.modality) == (1, "ct")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((8, 8), np.complex64), "pack k-space"),
        (np.zeros(8), "real numbers"),
        (np.zeros((2, 2, 8, 8)), "real numbers"),
        (np.zeros((0, 8, 8)), "number of slices is 0"),
        (np.zeros((8, 8), [("a", "f4")]), "real numbers"),
    ],
)
def test_arrays_that_are_not_images(tmp_path, array, message):
    np.save(tmp_path / "v.npy", array)
    refused(tmp_path / "v.npy", ScanDataError, message)


def test_missing_pixels_are_for_inpainting_alone(tmp_path):
    np.save(tmp_path / "v.npy", np.full((8, 8), np.nan))
    with open_scan(tmp_path / "v.npy") as scan:
        assert np.isnan(scan.image(0, missing=True)).all()
        with pytest.raises(ScanDataError, match="64 NaN"):
            scan.image(0)


def test_pickles_are_never_opened(tmp_path):
    np.save(tmp_path / "v.npy", np.array([{"a": 1}], object), allow_pickle=True)
    refused(tmp_path / "v.npy", ScanFormatError, "NPY")


def test_an_npy_that_declares_more_than_it_holds(tmp_path):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (9000, 8000, 8000), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "v.npy").write_bytes(content)
    refused(tmp_path / "v.npy", ScanFormatError, "truncated")


@pytest.mark.parametrize("header", ["{'descr': '<f8', 'fortran", "(", "{'a': [", "{1: ()}"])
def test_an_npy_whose_header_is_no_header(tmp_path, header):
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "v.npy").write_bytes(content)
    refused(tmp_path / "v.npy", ScanFormatError, "damaged or truncated NPY")


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_nifti_volume_keeps_its_geometry(tmp_path, rng, name):
    volume = rng.random((6, 8, 4)).astype(np.float32)  # x, y, z
    affine = np.array([[2.0, 0, 0, -5], [0, 3, 0, 7], [0, 0, 4, 1], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / name)
    with open_scan(tmp_path / name) as scan:
        assert (scan.n_slices, scan.image_shape) == (4, (8, 6))
        np.testing.assert_allclose(scan.image(2), volume[:, :, 2].T)
        assert scan.info.pixel_spacing_mm == (3.0, 2.0)
        plane = scan.info.planes[2]
        # Pixel (row 3, column 5) must land where the affine says, x and y negated (LPS).
        where = (
            np.array(plane.position_mm)
            + 5 * 2.0 * np.array(plane.row_direction)
            + 3 * 3.0 * np.array(plane.column_direction)
        )
        ras = affine @ [5, 3, 2, 1]
        np.testing.assert_allclose(where, [-ras[0], -ras[1], ras[2]])


@pytest.mark.parametrize(("unit", "mm"), [("micron", 1e-3), ("mm", 1.0), ("meter", 1e3)])
def test_nifti_lengths_have_units(tmp_path, rng, unit, mm):
    affine = np.array([[2.0, 0, 0, -5], [0, 3, 0, 7], [0, 0, 4, 1], [0, 0, 0, 1]])
    image = nib.Nifti1Image(rng.random((6, 8, 4)), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "v.nii")
    with open_scan(tmp_path / "v.nii") as scan:
        assert scan.info.pixel_spacing_mm == pytest.approx((3 * mm, 2 * mm))
        first, second = (np.array(plane.position_mm) for plane in scan.info.planes[:2])
        np.testing.assert_allclose(first, [5 * mm, -7 * mm, mm])
        np.testing.assert_allclose(second - first, [0, 0, 4 * mm])


def test_a_nifti_without_a_code_states_no_position(tmp_path, rng):
    image = nib.Nifti1Image(rng.random((16, 16, 3)), None)
    image.header.set_zooms((0.5, 0.75, 2.0))
    nib.save(image, tmp_path / "v.nii")
    with open_scan(tmp_path / "v.nii") as scan:
        assert scan.info.planes == ()
        assert scan.info.pixel_spacing_mm == (0.75, 0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nifti_length_that_is_no_number_is_not_known(tmp_path, rng, value):
    image = nib.Nifti1Image(rng.random((16, 16, 3)), None)
    image.header["pixdim"][1:4] = (0.5, value, value)
    nib.save(image, tmp_path / "v.nii")
    with open_scan(tmp_path / "v.nii") as scan:
        assert scan.info.pixel_spacing_mm is None
        assert scan.info.slice_thickness_mm is None


def test_nifti_scaling_and_fourth_axis(tmp_path, rng):
    volume = rng.integers(0, 100, (5, 4, 3, 2)).astype(np.int16)
    image = nib.Nifti2Image(volume, np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    nib.save(image, tmp_path / "v.nii")
    stored = nib.load(tmp_path / "v.nii").get_fdata()
    with open_scan(tmp_path / "v.nii") as scan:
        assert scan.n_slices == 6
        np.testing.assert_allclose(scan.image(4), stored[:, :, 1, 1].T)


def test_a_truncated_nifti(tmp_path, rng):
    nib.save(nib.Nifti1Image(rng.random((16, 16, 8)), np.eye(4)), tmp_path / "v.nii")
    content = (tmp_path / "v.nii").read_bytes()
    (tmp_path / "v.nii").write_bytes(content[: len(content) // 2])
    with pytest.raises(ScanFormatError), open_scan(tmp_path / "v.nii") as scan:
        scan.image(7)
