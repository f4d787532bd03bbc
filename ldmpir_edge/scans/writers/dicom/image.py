"""One reconstructed slice as a DICOM MR or CT image, complete in its Type 1 and 2 attributes.

Source: DICOM PS3.3, A.3 (CT Image IOD), A.4 (MR Image IOD) and the modules that they list. An
image reconstructed from raw data is ORIGINAL; one made from DICOM images is DERIVED, keeps its
source's patient, study, frame of reference and grey scale, and refers to it.
"""

from __future__ import annotations

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from ldmpir_edge.scans.geometry import VolumeGeometry
from ldmpir_edge.scans.model import ScanInfo
from ldmpir_edge.scans.reconstruction import (
    Provenance,
    ReconstructedSlice,
    VolumeHeader,
)
from ldmpir_edge.scans.writers.dicom import uids
from ldmpir_edge.scans.writers.dicom.acquisition import describe_acquisition
from ldmpir_edge.scans.writers.dicom.codes import code
from ldmpir_edge.scans.writers.dicom.inherit import inherit
from ldmpir_edge.scans.writers.dicom.pixels import StoredScale, add_pixels, add_window
from ldmpir_edge.scans.writers.dicom.text import ascii_text

MAKER = "ldmpir-edge"
DISCLAIMER = "RESEARCH RECONSTRUCTION BY A LEARNED MODEL. NOT FOR DIAGNOSTIC USE."
DERIVED_SERIES_OFFSET = 1000
"""Added to the source's series number: sorts the derived series behind all acquired ones."""

CLASSICAL = "CLASSICAL"
"""Value 4 or later of Image Type, of an image that is not the model's."""

LARGEST_IS = 2**31 - 1
"""The largest integer string (PS3.5 6.2)."""

_IMAGE_KIND = {"mr": "OTHER", "ct": "AXIAL"}
"""Value 3 of Image Type (PS3.3 C.8.3.1.1.1, C.8.2.1.1.1)."""

_PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")

_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "Manufacturer",
    "PatientPosition",
    "PositionReferenceIndicator",
    "SliceThickness",
    "AcquisitionNumber",
    "InstanceNumber",
    "SeriesNumber",
)
_TYPE_2_OF = {
    "mr": ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"),
    "ct": ("KVP",),
}


def build_image(
    header: VolumeHeader,
    piece: ReconstructedSlice,
    scale: StoredScale,
    window: tuple[float, float] | None = None,
) -> Dataset:
    """Build the data set of one slice, with pixel data and file meta information.

    Parameters
    ----------
    header, piece
        The volume and the slice of it.
    scale
        Turns values into stored integers.
    window
        (Black, white) values to show it in; None keeps the source's.

    Returns
    -------
        A data set that `pydicom.dcmwrite` accepts with `enforce_file_format=True`.
    """
    info = header.info
    source: Dataset | None = info.source_datasets[piece.index] if info.source_datasets else None
    ds = Dataset() if source is None else inherit(source)
    _add_identity(ds, info, piece)
    if source is None:
        _add_origin(ds, info, piece)
    else:
        _add_derivation(ds, info, piece, source)
    if piece.fallback is not None:
        # To be told and filtered by, beside a later image of the model's in the same series.
        ds.ImageType = [*ds.ImageType, CLASSICAL]
    if window is not None:
        add_window(ds, window, scale)
    if not _on_grid_of(source, piece) or any(not ds.get(keyword) for keyword in _PLANE):
        _add_plane(ds, header.geometry, piece.index)
    n_clipped = add_pixels(ds, piece.image, scale)
    if source is not None and source.get("PhotometricInterpretation") == "MONOCHROME1":
        # The stored scale and the window are the source's: so is what they are shown as.
        ds.PhotometricInterpretation = "MONOCHROME1"
    _add_contribution(ds, piece.provenance)
    ds.ImageComments = _comments(ds, header, piece, scale, n_clipped)
    _complete(ds, info)
    ds.file_meta = _file_meta(ds)
    return ds


def _add_identity(ds: Dataset, info: ScanInfo, piece: ReconstructedSlice) -> None:
    made = piece.provenance
    date, time = made.created.strftime("%Y%m%d"), made.created.strftime("%H%M%S")
    ds.SOPClassUID = MRImageStorage if info.modality == "mr" else CTImageStorage
    classical = piece.fallback is not None
    ds.SOPInstanceUID = uids.instance_uid(made, piece.index, classical=classical)
    ds.SeriesInstanceUID = uids.series_uid(made)
    ds.Modality = info.modality.upper()
    ds.InstanceCreationDate, ds.InstanceCreationTime = date, time
    ds.SeriesDate, ds.SeriesTime = date, time
    ds.ContentDate, ds.ContentTime = date, time
    if not ds.get("StudyInstanceUID"):
        ds.StudyInstanceUID = uids.study_uid(made)
    if not ds.get("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = uids.frame_of_reference_uid(made)


def _add_origin(ds: Dataset, info: ScanInfo, piece: ReconstructedSlice) -> None:
    made = piece.provenance
    ds.ImageType = ["ORIGINAL", "PRIMARY", _IMAGE_KIND[info.modality]]
    ds.StudyDate, ds.StudyTime = made.created.strftime("%Y%m%d"), made.created.strftime("%H%M%S")
    ds.SeriesNumber = 1
    ds.InstanceNumber = piece.index + 1
    ds.AcquisitionNumber = 1
    ds.SeriesDescription = _series_description(ascii_text(info.protocol_name or "", 64), made)
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    describe_acquisition(ds, info, piece.index)


def _add_derivation(
    ds: Dataset, info: ScanInfo, piece: ReconstructedSlice, source: Dataset
) -> None:
    made = piece.provenance
    stated = ds.get("ImageType") or []
    # pydicom gives a single value as a string.
    kind = [] if isinstance(stated, str) else list(stated)[2:]
    kind = kind or [_IMAGE_KIND[info.modality]]
    ds.ImageType = ["DERIVED", "PRIMARY", *kind]
    ds.SeriesNumber = min((ds.get("SeriesNumber") or 0) + DERIVED_SERIES_OFFSET, LARGEST_IS)
    ds.SeriesDescription = _series_description(ds.get("SeriesDescription"), made)
    ds.DerivationDescription = ascii_text(f"{_recipe(made)} applied to the source image", 1024)
    _refer_to(source, ds, same_grid=_on_grid_of(source, piece))
    if info.modality == "mr":
        _add_missing_sequence(ds)


def _refer_to(source: Dataset, ds: Dataset, *, same_grid: bool) -> None:
    if not (source.get("SOPClassUID") and source.get("SOPInstanceUID")):
        # A file that lost its name cannot be referred to.
        return
    reference = _reference(source)
    reference.SpatialLocationsPreserved = "YES" if same_grid else "NO"
    reference.PurposeOfReferenceCodeSequence = [
        code("121322", "Source image for image processing operation")
    ]
    ds.SourceImageSequence = [reference]
    if not source.get("SeriesInstanceUID"):
        return
    series = Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    series.ReferencedInstanceSequence = [_reference(source)]
    ds.ReferencedSeriesSequence = [series]


def _on_grid_of(source: Dataset | None, piece: ReconstructedSlice) -> bool:
    # An enlarged image has smaller pixels, and its first voxel lies elsewhere.
    return source is not None and piece.image.shape == (source.Rows, source.Columns)


def _add_missing_sequence(ds: Dataset) -> None:
    # Type 1 attributes that an anonymiser or converter may have dropped: RM and NONE claim
    # nothing about the sequence.
    if not ds.get("ScanningSequence"):
        ds.ScanningSequence = "RM"
    if not ds.get("SequenceVariant"):
        ds.SequenceVariant = "NONE"


def _add_plane(ds: Dataset, geometry: VolumeGeometry, index: int) -> None:
    plane = geometry.planes[index]
    ds.ImagePositionPatient = _decimals(plane.position_mm)
    ds.ImageOrientationPatient = _decimals((*plane.row_direction, *plane.column_direction))
    ds.PixelSpacing = _decimals(geometry.pixel_spacing_mm)
    if geometry.slice_thickness_mm is not None:
        ds.SliceThickness = format_number_as_ds(float(geometry.slice_thickness_mm))


def _add_contribution(ds: Dataset, made: Provenance) -> None:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code("109102", "Processing Equipment")]
    item.Manufacturer = MAKER
    item.ManufacturerModelName = ascii_text(made.bundle_name, 64)
    item.SoftwareVersions = ascii_text(made.software_version, 64)
    item.ContributionDateTime = made.created.strftime("%Y%m%d%H%M%S")
    item.ContributionDescription = ascii_text(
        f"{_recipe(made)}; bundle sha256 {made.bundle_sha256}; seed {made.seed}", 1024
    )
    ds.ContributingEquipmentSequence = [*ds.get("ContributingEquipmentSequence", []), item]


def _comments(
    ds: Dataset,
    header: VolumeHeader,
    piece: ReconstructedSlice,
    scale: StoredScale,
    n_clipped: int,
) -> str:
    remarks = [DISCLAIMER]
    if piece.fallback is not None:
        remarks.append(f"CLASSICAL IMAGE DELIVERED IN PLACE OF THE MODEL'S: {piece.fallback}.")
    if n_clipped:
        low, high = scale.limits
        remarks.append(f"{n_clipped} pixels clipped to the stored range [{low}, {high}].")
    remarks.append(f"Value = stored x {scale.slope:.10g} + {scale.intercept:g}.")
    remarks += [f"Note: {note}." for note in (*header.notes, *piece.notes)]
    ours = ascii_text(" ".join(remarks), 8192)
    inherited = ds.get("ImageComments")
    return f"{ours} Source: {inherited}"[:10240] if inherited else ours


def _complete(ds: Dataset, info: ScanInfo) -> None:
    for keyword in (*_TYPE_2, *_TYPE_2_OF[info.modality]):
        if keyword not in ds:
            setattr(ds, keyword, None)
    # Type 2C of the General Series: asked for unless the body part is known to be unpaired.
    if not {"Laterality", "ImageLaterality", "BodyPartExamined"} & set(ds.dir()):
        ds.Laterality = None


def _file_meta(ds: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uids.IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = uids.IMPLEMENTATION_VERSION_NAME
    return meta


def _recipe(made: Provenance) -> str:
    return (
        f"LDM-PIR {made.purpose} by {MAKER} {made.software_version}, model {made.bundle_name}, "
        f"{made.precision}, {made.n_steps} steps, engine {made.backend}"
    )


def _series_description(original: str | None, made: Provenance) -> str:
    suffix = f"LDM-PIR {made.purpose}"
    if not original:
        return suffix
    return f"{original[: 64 - len(suffix) - 1]} {suffix}"


def _reference(source: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    return reference


def _decimals(values: tuple[float, ...]) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]
