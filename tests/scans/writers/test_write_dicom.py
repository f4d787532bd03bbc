"""DICOM series judged by dciodvfy and by re-reading with pydicom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.pixels import apply_rescale

from ldmpir_edge.errors import OutputError
from ldmpir_edge.scans.model import SlicePlane
from ldmpir_edge.scans.reconstruction import Reconstruction
from ldmpir_edge.scans.write import write_outputs
from ldmpir_edge.scans.writers.dicom import write_dicom


def _write(recon: Reconstruction, folder: Path) -> list[pydicom.Dataset]:
    (series,) = write_outputs(recon, folder, ["dicom"])
    assert series == folder / recon.stem
    files = sorted(series.iterdir())
    assert [f.name for f in files] == [f"{i + 1:04d}.dcm" for i in range(len(recon.image))]
    return [pydicom.dcmread(f) for f in files]


def _values(ds: pydicom.Dataset) -> np.ndarray:
    return apply_rescale(ds.pixel_array, ds)


@pytest.mark.parametrize("origin", ["mr", "ct"])
def test_dciodvfy_finds_no_error_in_original_images(request, origin, tmp_path, dciodvfy):
    for ds in _write(request.getfixturevalue(origin), tmp_path):
        assert dciodvfy(Path(ds.filename)) == []


def test_dciodvfy_finds_no_error_in_derived_images(denoised, tmp_path, dciodvfy):
    for ds in _write(denoised, tmp_path):
        assert dciodvfy(Path(ds.filename)) == []


def test_mr_values_return_within_half_a_grey_level(mr, tmp_path):
    for image, ds in zip(mr.image, _write(mr, tmp_path), strict=True):
        (mapping,) = ds.RealWorldValueMappingSequence
        values = ds.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
        assert np.abs(values - image).max() <= 0.5 * mr.image.max() / 32767 * (1 + 1e-6)
        # Viewers round the Modality LUT's output: there must be none, and a window of width >= 1.
        assert "RescaleSlope" not in ds
        assert ds.WindowWidth >= 1
        shown = (ds.pixel_array < float(ds.WindowCenter) + float(ds.WindowWidth) / 2).mean()
        assert 0.98 < shown <= 1


def test_ct_values_return_in_hu_within_half_a_grey_level(ct, tmp_path):
    for image, ds in zip(ct.image, _write(ct, tmp_path), strict=True):
        assert ds.RescaleType == "HU"
        assert np.abs(_values(ds) - image).max() <= 0.5


def test_denoised_values_stay_on_the_source_scale(denoised, tmp_path):
    # The fixture adds 0.4 of a grey level: rounding must give the source's integers again.
    for path, ds in zip(denoised.input_files, _write(denoised, tmp_path), strict=True):
        source = pydicom.dcmread(path)
        np.testing.assert_array_equal(ds.pixel_array, source.pixel_array)
        assert ds.RescaleSlope == source.RescaleSlope
        assert ds.RescaleIntercept == source.RescaleIntercept


def test_geometry_of_raw_data(mr, tmp_path):
    for plane, ds in zip(mr.info.planes, _write(mr, tmp_path), strict=True):
        assert ds.PixelSpacing == [0.6875, 0.75]
        assert (ds.Rows, ds.Columns) == mr.image.shape[1:]
        np.testing.assert_allclose(ds.ImagePositionPatient, plane.position_mm, atol=1e-9)
        np.testing.assert_allclose(
            ds.ImageOrientationPatient, [0.8, 0.6, 0, -0.36, 0.48, 0.8], atol=1e-9
        )
        assert ds.SliceThickness == 5.0


def test_unknown_position_is_centred_and_said(ct, tmp_path):
    images = _write(ct, tmp_path)
    centres = []
    for ds in images:
        x, y, z = map(float, ds.ImagePositionPatient)
        centres.append((x + 0.8 * (ds.Columns - 1) / 2, y + 0.8 * (ds.Rows - 1) / 2, z))
        assert "position unknown" in ds.ImageComments
    np.testing.assert_allclose(centres, [(0, 0, -1), (0, 0, 0), (0, 0, 1)], atol=1e-9)


def test_raw_data_gives_an_original_image(mr, tmp_path):
    ds = _write(mr, tmp_path)[0]
    assert list(ds.ImageType[:2]) == ["ORIGINAL", "PRIMARY"]
    assert "SourceImageSequence" not in ds
    assert (ds.ScanningSequence, ds.EchoTime, ds.RepetitionTime) == ("SE", 107.0, 5660.0)
    assert ds.Manufacturer == "SIEMENS"
    assert ds.ProtocolName == "AXT2 Kopfe"


def test_dicom_input_gives_a_derived_image_of_the_same_patient(denoised, tmp_path):
    for path, ds in zip(denoised.input_files, _write(denoised, tmp_path), strict=True):
        source = pydicom.dcmread(path)
        assert list(ds.ImageType[:2]) == ["DERIVED", "PRIMARY"]
        assert "LDM-PIR" in ds.DerivationDescription
        assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert ds.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
        for keyword in (
            "StudyInstanceUID",
            "FrameOfReferenceUID",
            "PatientID",
            "PatientName",
            "StudyDate",
            "InstanceNumber",
            "Manufacturer",
        ):
            assert ds[keyword].value == source[keyword].value, keyword
        assert ds.SOPInstanceUID != source.SOPInstanceUID
        assert ds.SeriesInstanceUID != source.SeriesInstanceUID
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            np.testing.assert_allclose(
                np.array(ds[keyword].value, float),
                np.array(source[keyword].value, float),
                atol=1e-9,
            )
        assert not [e for e in ds if e.tag.is_private]


def test_a_source_without_its_own_name_is_not_referred_to(denoised, tmp_path, dciodvfy):
    for ds in denoised.info.source_datasets:
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
            del ds[keyword]
        ds.ImageType = "ORIGINAL"
    kind = "OTHER" if denoised.info.modality == "mr" else "AXIAL"
    for ds in _write(denoised, tmp_path):
        assert "SourceImageSequence" not in ds
        assert "ReferencedSeriesSequence" not in ds
        assert list(ds.ImageType) == ["DERIVED", "PRIMARY", kind]
    for path in sorted((tmp_path / denoised.stem).iterdir()):
        assert dciodvfy(path) == []


def test_negative_values_of_an_image_that_is_no_magnitude_are_kept(mr, tmp_path, dciodvfy):
    centred = replace(mr, image=mr.image - mr.image.mean())
    for ds, image in zip(_write(centred, tmp_path), centred.image, strict=True):
        mapping = ds.RealWorldValueMappingSequence[0]
        assert ds.PixelRepresentation == 1
        assert mapping.RealWorldValueFirstValueMapped < 0
        shown = ds.pixel_array * mapping.RealWorldValueSlope
        np.testing.assert_allclose(shown, image, atol=mapping.RealWorldValueSlope / 2)
        assert "clipped" not in ds.ImageComments
    for path in sorted((tmp_path / mr.stem).iterdir()):
        assert dciodvfy(path) == []


@pytest.mark.parametrize("denoised", ["mr-datalad"], indirect=True)
def test_invalid_source_values_are_repaired(denoised, tmp_path):
    assert denoised.info.source_datasets[0].PatientAge == "42"
    assert _write(denoised, tmp_path)[0].PatientAge == "042Y"


def test_hostile_source_values_are_dropped_or_repaired(denoised, tmp_path, dciodvfy):
    with pydicom.config.disable_value_validation():
        for ds in denoised.info.source_datasets:
            ds.PatientSex = "male?"
            ds.PatientBirthDate = "yesterday"
            ds.StudyID = "an identifier beyond sixteen characters"
            ds.BodyPartExamined = "brain"
            weight = pydicom.tag.Tag("PatientWeight")
            ds[weight] = RawDataElement(weight, "DS", 8, b"about 70", 0, False, True)
            ds.add_new(0x00091001, "LO", "private")
    ds = _write(denoised, tmp_path)[0]
    assert dciodvfy(Path(ds.filename)) == []
    assert ds.BodyPartExamined == "BRAIN"
    assert "PatientWeight" not in ds
    assert not ds.PatientBirthDate


@pytest.mark.parametrize("denoised", ["ct-lidc0003"], indirect=True)
def test_an_enlarged_image_takes_its_own_grid(denoised, tmp_path, dciodvfy):
    spacing = 0.820312 / 2
    planes = tuple(
        SlicePlane((-229.005078, -210.205078, z), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
        for z in (-204.0, -201.5)
    )
    info = replace(denoised.info, pixel_spacing_mm=(spacing, spacing), planes=planes)
    image = np.repeat(np.repeat(denoised.image, 2, axis=1), 2, axis=2)
    ds = _write(replace(denoised, image=image, info=info), tmp_path)[0]
    assert dciodvfy(Path(ds.filename)) == []
    assert ds.PixelSpacing == [spacing, spacing]
    assert ds.ImagePositionPatient == [-229.005078, -210.205078, -204]
    assert ds.SourceImageSequence[0].SpatialLocationsPreserved == "NO"


def test_lossy_compression_is_inherited(denoised, tmp_path):
    for source in denoised.info.source_datasets:
        source.LossyImageCompression = "01"
        source.LossyImageCompressionRatio = "12.5"
        source.LossyImageCompressionMethod = "ISO_10918_1"
    ds = _write(denoised, tmp_path)[0]
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 12.5)


def test_contributing_equipment_names_the_model(mr, tmp_path):
    (item,) = _write(mr, tmp_path)[0].ContributingEquipmentSequence
    purpose = item.PurposeOfReferenceCodeSequence[0]
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109102", "DCM")
    assert item.ManufacturerModelName == "ldmpir-2m"
    assert item.SoftwareVersions == "0.1.0"
    for word in ("cd" * 32, "fp16", "4 steps", "onnxruntime"):
        assert word in item.ContributionDescription


def test_comments_warn_and_give_the_fallback_reason(ct, tmp_path):
    images = _write(ct, tmp_path)
    assert all("NOT FOR DIAGNOSTIC USE" in ds.ImageComments for ds in images)
    assert all("photons unknown" in ds.ImageComments for ds in images)
    assert ["residual 9.0 above 3.0" in ds.ImageComments for ds in images] == [False, True, False]
    assert ["CLASSICAL" in ds.ImageType for ds in images] == [False, True, False]


def test_uids_repeat_and_follow_the_settings(mr, tmp_path):
    def uids(recon: Reconstruction, folder: str) -> tuple[str, ...]:
        images = _write(recon, tmp_path / folder)
        return (images[0].SeriesInstanceUID, *(ds.SOPInstanceUID for ds in images))

    def changed(**fields: object) -> Reconstruction:
        return replace(mr, provenance=replace(mr.provenance, **fields))

    first = uids(mr, "a")
    later = mr.provenance.created.replace(year=2030)
    assert uids(changed(created=later, backend="openvino"), "b") == first
    seen = [*first]
    for fields in (
        {"bundle_sha256": "ce" * 32},
        {"software_version": "0.2.0"},
        {"precision": "fp32"},
        {"n_steps": 8},
        {"seed": 0},
        {"input_sha256": "ac" * 32},
        {"task": "denoise"},
        {"task": "super-resolve", "factor": 2},
        {"task": "super-resolve", "factor": 4},
    ):
        seen += uids(changed(**fields), f"{len(seen)}")
    # The same slices, for once the classical ones: other images of the same series.
    series, *slices = uids(replace(mr, checks=[{"fallback": "late"}] * 2), "classical")
    assert series == first[0]
    seen += slices
    assert len(set(seen)) == len(seen)
    assert all(uid.startswith("1.2.826.0.1.3680043.8.498.") and len(uid) <= 64 for uid in seen)


def test_reconstructions_of_one_scan_share_study_and_frame(mr, tmp_path):
    other = replace(mr, provenance=replace(mr.provenance, bundle_sha256="ce" * 32))
    a, b = _write(mr, tmp_path / "a")[0], _write(other, tmp_path / "b")[0]
    assert a.StudyInstanceUID == b.StudyInstanceUID
    assert a.FrameOfReferenceUID == b.FrameOfReferenceUID


def test_every_echo_says_its_number_and_time(mr, tmp_path, dciodvfy):
    info = replace(mr.info, echo_time_ms=None, echoes=((1, 4.9), (2, None)))
    first, second = _write(replace(mr, info=info), tmp_path)
    assert (first.EchoNumbers, first.EchoTime) == (1, 4.9)
    assert (second.EchoNumbers, second.EchoTime) == (2, None)  # of Type 2: may be empty
    assert dciodvfy(tmp_path / "brain" / "0001.dcm") == []


def test_an_image_that_is_shown_inverted_stays_so(denoised, tmp_path, dciodvfy):
    for source in denoised.info.source_datasets:
        source.PhotometricInterpretation = "MONOCHROME1"
    images = _write(denoised, tmp_path)
    assert {ds.PhotometricInterpretation for ds in images} == {"MONOCHROME1"}
    np.testing.assert_allclose(_values(images[0]), denoised.image[0], atol=0.5)
    (first, *_) = sorted((tmp_path / denoised.stem).iterdir())
    assert dciodvfy(first) == []


def test_the_largest_series_number_is_kept(denoised, tmp_path):
    for source in denoised.info.source_datasets:
        source.SeriesNumber = 2**31 - 5
    assert _write(denoised, tmp_path)[0].SeriesNumber == 2**31 - 1


def test_values_beyond_the_range_are_clipped_and_counted(ct, tmp_path):
    image = ct.image.copy()
    image[0, 0, :3] = [1e9, -1e9, 40000]
    ds = _write(replace(ct, image=image), tmp_path)[0]
    assert list(ds.pixel_array[0, :3]) == [32767, -32768, 32767]
    assert "3 pixels clipped" in ds.ImageComments


def test_an_empty_image_is_written(mr, tmp_path, dciodvfy):
    ds = _write(replace(mr, image=np.zeros_like(mr.image)), tmp_path)[0]
    assert not ds.pixel_array.any()
    assert dciodvfy(Path(ds.filename)) == []


def test_a_rerun_replaces_our_series(ct, tmp_path):
    _write(ct, tmp_path)
    shorter = replace(ct, image=ct.image[:1] * 0, checks=[])
    (ds,) = _write(shorter, tmp_path)
    assert not ds.pixel_array.any()
    assert [p.name for p in tmp_path.iterdir()] == ["chest"]


def test_a_folder_of_others_is_refused(ct, tmp_path):
    foreign = tmp_path / "chest" / "thesis.txt"
    foreign.parent.mkdir()
    foreign.write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.txt.*-o"):
        next(write_dicom(ct.header, tmp_path / "chest"))
    assert foreign.read_text() == "years of work"


def test_the_source_series_is_never_replaced(denoised, tmp_path):
    import shutil

    folder = tmp_path / denoised.stem
    folder.mkdir()
    copies = tuple(Path(shutil.copy(path, folder)) for path in denoised.input_files)
    before = [path.read_bytes() for path in copies]
    with pytest.raises(OutputError, match="would replace the scan"):
        write_outputs(replace(denoised, input_files=copies), tmp_path, ["dicom"])
    assert [path.read_bytes() for path in copies] == before
