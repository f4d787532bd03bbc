"""fastMRI files read as the published ones are laid out; bad ones are refused by name."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ldmpir_edge.errors import ScanDataError, ScanFormatError, UsageError
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import KspaceScan


@pytest.fixture
def kspace(rng):
    shape = (3, 4, 32, 20)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def test_slices_reference_and_geometry(fastmri_file, mrd_xml, kspace, rng):
    reference = rng.random((3, 16, 16)).astype(np.float32)
    header = mrd_xml((32, 20, 1), (16, 16), 10, 19)
    path = fastmri_file(kspace=kspace, reconstruction_rss=reference, ismrmrd_header=header)
    with open_scan(path) as scan:
        assert isinstance(scan, KspaceScan)
        assert (scan.n_slices, scan.n_coils, scan.recon_matrix) == (3, 4, (16, 16))
        assert scan.image_shape == (16, 16)
        assert not scan.rows_are_phase
        for index in range(3):
            np.testing.assert_array_equal(scan.kspace(index), kspace[index])
            np.testing.assert_array_equal(scan.reference(index), reference[index])
        assert scan.info.pixel_spacing_mm == (1.0, 1.0)
        assert scan.info.slice_thickness_mm == 4.0
        assert (scan.info.echo_time_ms, scan.info.field_strength_t) == (12.5, 1.5)
        assert scan.info.protocol_name == "head"


def test_a_zero_filled_image_has_smaller_pixels(fastmri_file, mrd_xml, kspace, rng):
    reference = rng.random((3, 64, 25)).astype(np.float32)
    header = mrd_xml((32, 20, 1), (64, 25), 10, 19)
    path = fastmri_file(kspace=kspace, reconstruction_rss=reference, ismrmrd_header=header)
    with open_scan(path) as scan:
        # 64 and 25 pixels cover what 32 and 20 of 1 mm did.
        assert scan.info.pixel_spacing_mm == (0.5, 0.8)


def test_single_coil_gains_a_coil_axis(fastmri_file, kspace, rng):
    reference = rng.random((3, 16, 16)).astype(np.float32)
    path = fastmri_file(kspace=kspace[:, 0], reconstruction_esc=reference)
    with open_scan(path) as scan:
        assert scan.n_coils == 1
        np.testing.assert_array_equal(scan.kspace(2), kspace[2, :1])
        np.testing.assert_array_equal(scan.reference(1), reference[1])


def test_padding_columns_of_the_header_are_not_sampled(fastmri_file, mrd_xml, kspace):
    # 14 lines of 20, k = 0 at line 6: columns 4 to 17 (fastMRI: enc_y // 2 - center = 4).
    path = fastmri_file(kspace=kspace, ismrmrd_header=mrd_xml((32, 20, 1), (16, 20), 6, 13))
    with open_scan(path) as scan:
        np.testing.assert_array_equal(np.flatnonzero(scan.mask), np.arange(4, 18))


def test_mask_of_a_test_file(fastmri_file, mrd_xml, kspace):
    mask = np.zeros(20, bool)
    mask[::2] = True
    header = mrd_xml((32, 20, 1), (16, 20), 6, 13)
    with open_scan(fastmri_file(kspace=kspace, mask=mask, ismrmrd_header=header)) as scan:
        np.testing.assert_array_equal(np.flatnonzero(scan.mask), np.arange(4, 18, 2))
        assert scan.reference(0) is None


def test_a_narrow_scan_is_reconstructed_square(fastmri_file, mrd_xml, kspace):
    header = mrd_xml((32, 20, 1), (24, 24), 10, 19)
    with open_scan(fastmri_file(kspace=kspace, ismrmrd_header=header)) as scan:
        assert scan.recon_matrix == (20, 20)


def test_without_header_the_full_view_is_delivered_and_noted(fastmri_file, kspace):
    with open_scan(fastmri_file(kspace=kspace)) as scan:
        assert scan.recon_matrix == (32, 20)
        assert "full view" in scan.info.notes[0]


def test_digest_follows_content(fastmri_file, kspace):
    with open_scan(fastmri_file(kspace=kspace)) as scan:
        first = scan.content_sha256
    with open_scan(fastmri_file(kspace=2 * kspace)) as scan:
        assert scan.content_sha256 != first
        assert len(first) == 64


@pytest.mark.parametrize("index", [-1, 3])
def test_no_such_slice(fastmri_file, kspace, index):
    with open_scan(fastmri_file(kspace=kspace)) as scan, pytest.raises(UsageError, match="slice"):
        scan.kspace(index)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(fastmri_file, kspace, value):
    kspace[1, 2, 3, 4] = value
    with open_scan(fastmri_file(kspace=kspace)) as scan:
        scan.kspace(0)
        with pytest.raises(ScanDataError, match="k-space of slice 1 holds 1 NaN or infinite"):
            scan.kspace(1)


def test_an_empty_slice_is_refused_and_black_in_a_volume(fastmri_file, kspace):
    kspace[0] = 0
    path = fastmri_file(kspace=kspace)
    with open_scan(path) as scan:
        with pytest.raises(ScanDataError, match="only zeros"):
            scan.kspace(0)
        black = prepare_slice(scan, 0, "mri")
        assert black.blank
        assert black.to_scan(black.problem.x1).shape == scan.image_shape
        assert not black.to_scan(black.problem.x1).any()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kspace": np.zeros((1, 0, 8, 8), "c8")}, ScanDataError, "number of coils is 0"),
        ({"kspace": np.zeros((0, 2, 8, 8), "c8")}, ScanDataError, "number of slices is 0"),
        ({"kspace": np.zeros((2, 2, 8, 8), "f4")}, ScanFormatError, "dtype float32"),
        ({"kspace": np.zeros((8, 8), "c8")}, ScanFormatError, "2 axes"),
        ({"mask": np.zeros(20)}, ScanDataError, "samples no column"),
        ({"mask": np.ones(19)}, ScanDataError, "19 entries for 20"),
        ({"mask": np.ones((2, 20))}, ScanFormatError, "2 axes"),
        ({"reconstruction_rss": np.ones((2, 8, 8), "f4")}, ScanDataError, "2 slices"),
        ({"reconstruction_rss": np.ones((3, 8, 8), "c8")}, ScanFormatError, "dtype complex64"),
        ({"ismrmrd_header": "<a><b></a>"}, ScanFormatError, "not XML"),
        ({"ismrmrd_header": "<!DOCTYPE a []><a/>"}, ScanFormatError, "document type"),
        ({"ismrmrd_header": 3.0}, ScanFormatError, "not one text"),
    ],
)
def test_malformed_files_are_refused(fastmri_file, kspace, changes, error, message):
    path = fastmri_file(**{"kspace": kspace, **changes})
    with pytest.raises(error, match=message) as caught, open_scan(path):
        pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absurd_sizes_are_refused_before_reading(tmp_path):
    path = tmp_path / "bomb.h5"
    for shape, message in (
        ((1, 4, 2**20, 8), "readout length is 1048576"),
        ((1, 512, 8192, 8192), "more than"),
        ((2**20, 1, 8, 8), "number of slices"),
    ):
        with h5py.File(path, "w") as file:
            # A declared size costs nothing until it is read.
            file.create_dataset("kspace", shape, np.complex64, chunks=(1, 1, 8, 8))
        with pytest.raises(ScanDataError, match=message), open_scan(path):
            pass


def test_a_chunk_larger_than_a_slice_may_be_is_refused(tmp_path):
    path = tmp_path / "chunk.h5"
    with h5py.File(path, "w") as file:
        chunks = (64, 16, 512, 512)
        file.create_dataset("kspace", (64, 16, 512, 512), np.complex64, chunks=chunks)
    with pytest.raises(ScanDataError, match="chunks"), open_scan(path):
        pass


def test_samples_in_another_file_are_refused(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(8 * 2 * 64))
    external, linked = tmp_path / "external.h5", tmp_path / "linked.h5"
    with h5py.File(external, "w") as file:
        space = h5py.h5s.create_simple((1, 2, 8, 8))
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_external(bytes(secret), 0, 8 * 2 * 64)
        kind = h5py.h5t.py_create(np.dtype(np.complex64), logical=True)
        h5py.h5d.create(file.id, b"kspace", kind, space, creation)
    with pytest.raises(ScanFormatError, match="another file"), open_scan(external):
        pass
    with h5py.File(linked, "w") as file:
        file["kspace"] = h5py.ExternalLink("external.h5", "/kspace")
    with pytest.raises(ScanFormatError, match="without a scan"), open_scan(linked):
        pass
