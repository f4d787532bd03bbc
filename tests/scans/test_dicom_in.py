"""DICOM series: pydicom writes them, geometry sorts them, hostile ones are refused."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, RLELossless

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import ImageScan


@pytest.fixture
def save(tmp_path):
    """Write one image into the folder; keyword arguments set or (None) delete elements."""
    folder = tmp_path / "series"
    folder.mkdir()

    def write(name, pixels, **elements):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{len(list(folder.iterdir())) + 1}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality = "1.2.4", "1.2.5", "MR"
        ds.PixelSpacing, ds.SliceThickness, ds.EchoTime = [0.5, 0.75], 3, 12.5
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [1, 2, 3]
        ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 1
        ds.PixelData = pixels.astype("<i2").tobytes()
        for keyword, value in elements.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)
        ds.save_as(folder / name, enforce_file_format=True)
        return folder / name

    write.folder = folder
    return write


@pytest.fixture
def pixels(rng):
    return rng.integers(-1000, 2000, (8, 6))


def test_slices_are_sorted_along_the_normal_not_by_name(save, pixels):
    for name, height in (("a.dcm", 7), ("b.dcm", -2), ("c", 1)):
        save(name, pixels + height, ImagePositionPatient=[0, 0, height], InstanceNumber=height + 9)
    with open_scan(save.folder) as scan:
        assert isinstance(scan, ImageScan)
        assert [file.name for file in scan.files] == ["b.dcm", "c", "a.dcm"]
        np.testing.assert_array_equal(scan.image(0), pixels - 2)
        np.testing.assert_array_equal(scan.image(2), pixels + 7)
        assert [plane.position_mm[2] for plane in scan.info.planes] == [-2, 1, 7]
        assert scan.info.pixel_spacing_mm == (0.5, 0.75)
        assert scan.info.echo_time_ms == 12.5
        assert scan.info.modality == "mr"
        assert scan.image_shape == (8, 6)
        assert [float(ds.ImagePositionPatient[2]) for ds in scan.info.source_datasets] == [-2, 1, 7]
        assert not any("PixelData" in ds for ds in scan.info.source_datasets)


def test_a_name_that_stands_in_the_files_own_header_alone(save, pixels):
    path = save("a.dcm", pixels, SOPClassUID=None, SOPInstanceUID=None)
    with open_scan(path) as scan:
        (source,) = scan.info.source_datasets
    assert (source.SOPClassUID, source.SOPInstanceUID) == (MRImageStorage, "1.2.3.1")


def test_several_files_make_one_series(save, pixels):
    files = [save(f"{z}.dcm", pixels, ImagePositionPatient=[0, 0, z]) for z in (4, 2)]
    with open_scan(files) as scan:
        assert scan.n_slices == 2
        assert scan.info.slice_spacing_mm == 2.0


def test_rescale_gives_hounsfield_units(save, pixels):
    path = save(
        "ct.dcm",
        pixels,
        Modality="CT",
        SOPClassUID=CTImageStorage,
        RescaleSlope=2,
        RescaleIntercept=-1024,
    )
    with open_scan(path) as scan:
        np.testing.assert_allclose(scan.image(0), 2.0 * pixels - 1024)
        assert scan.info.modality == "ct"


def test_a_compressed_image_is_decoded(save, pixels):
    path = save("rle.dcm", pixels)
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(path)
    with open_scan(path) as scan:
        np.testing.assert_array_equal(scan.image(0), pixels)


def test_real_series(shared_data):
    for name, modality, n_slices in (("mr-datalad", "mr", 12), ("ct-lidc0003", "ct", 11)):
        with open_scan(shared_data / "dicom" / name) as scan:
            assert (scan.info.modality, scan.n_slices) == (modality, n_slices)
            heights = [
                np.dot(p.position_mm, np.cross(p.row_direction, p.column_direction))
                for p in scan.info.planes
            ]
            assert (np.diff(heights) > 0).all()
            raw = pydicom.dcmread(scan.files[3])
            expected = raw.pixel_array * float(raw.RescaleSlope) + float(raw.RescaleIntercept)
            np.testing.assert_allclose(scan.image(3), expected)


def refused(path, error, message):
    with pytest.raises(error, match=message) as caught, open_scan(path) as scan:
        scan.image(0)
    assert "\n" not in str(caught.value)


def test_mixed_series(save, pixels):
    save("a", pixels)
    save("b", pixels, SeriesInstanceUID="1.2.9")
    refused(save.folder, ScanDataError, "images of 2 series are mixed")


def test_mixed_sizes(save, pixels):
    save("a", pixels)
    save("b", pixels[:4])
    refused(save.folder, ScanDataError, "mixes sizes")


def test_mixed_orientations(save, pixels):
    save("a", pixels)
    save("b", pixels, ImageOrientationPatient=[1, 0, 0, 0, 0, 1])
    refused(save.folder, ScanDataError, "several orientations")


def test_copies(save, pixels):
    shutil.copy(save("a", pixels), save.folder / "b")
    refused(save.folder, ScanDataError, "appear twice")


@pytest.mark.parametrize(
    ("elements", "error", "message"),
    [
        ({"NumberOfFrames": 5}, ScanDataError, "multi-frame"),
        ({"SharedFunctionalGroupsSequence": [Dataset()]}, ScanDataError, "multi-frame"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ScanDataError, "not grey values"),
        ({"BitsAllocated": 32}, ScanDataError, "pixels of 32 bits"),
        ({"Modality": ["MR", "CT"]}, ScanDataError, "only MR and CT"),
        ({"SamplesPerPixel": 3}, ScanDataError, "colour"),
        ({"Modality": "PT"}, ScanDataError, "only MR and CT"),
        ({"Rows": None}, ScanFormatError, "no image"),
        ({"Rows": 60000, "Columns": 60000}, ScanDataError, "Rows is 60000"),
        ({"PixelData": None}, ScanFormatError, "PixelData is missing"),
        ({"PixelData": b"\0\0"}, ScanFormatError, "cannot be decoded"),
        ({"BitsAllocated": 7}, ScanFormatError, "cannot be decoded"),
    ],
)
def test_unusable_images(save, pixels, elements, error, message):
    refused(save("bad.dcm", pixels, **elements), error, message)


def test_truncated_everywhere(save, pixels, tmp_path):
    whole = save("a.dcm", pixels).read_bytes()
    cut = tmp_path / "cut.dcm"
    for length in range(132, len(whole) - 1, 7):
        cut.write_bytes(whole[:length])
        with pytest.raises((ScanFormatError, ScanDataError)), open_scan(cut) as scan:
            scan.image(0)


def test_flipped_bytes_never_escape_the_error_tree(save, pixels, tmp_path, rng):
    whole = bytearray(save("a.dcm", pixels).read_bytes())
    cut = tmp_path / "flipped.dcm"
    for _ in range(150):
        damaged = whole.copy()
        for position in rng.integers(132, len(whole) - pixels.size * 2, 3):
            damaged[position] = int(rng.integers(256))
        cut.write_bytes(damaged)
        try:
            with open_scan(cut) as scan:
                scan.image(0)
        except (ScanFormatError, ScanDataError):
            pass


def test_an_empty_file_beside_a_series_is_passed_over_and_told(save, pixels):
    path = save("a.dcm", pixels)
    (save.folder / "lost.dcm").touch()
    with open_scan(save.folder) as scan:
        assert scan.n_slices == 1
        assert any("lost.dcm" in note for note in scan.info.notes)
    with (
        pytest.raises(ScanFormatError, match=r"lost\.dcm"),
        open_scan([path, save.folder / "lost.dcm"]),
    ):
        pass


def test_a_folder_without_images(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing here")
    refused(tmp_path, ScanFormatError, "not a DICOM file")
