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
from ldmpir_edge.scans.reconstruction import Reconstruction
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


def build_image(recon: Reconstruction, index: int, scale: StoredScale) -> Dataset:
    """Build the data set of slice `index`, with pixel data and file meta information.

    Parameters
    ----------
    recon, index
        The volume and the slice of it.
    scale
        Turns values into stored integers.

    Returns
    -------
        A data set that `pydicom.dcmwrite` accepts with `enforce_file_format=True`.
    """
    info = recon.info
    geometry = recon.geometry
    source: Dataset | None = info.source_datasets[index] if info.source_datasets else None
    ds = Dataset() if source is None else inherit(source)
    _add_identity(ds, recon, index)
    if source is None:
        _add_origin(ds, recon, index)
        add_window(ds, recon.image, scale, info.modality)
    else:
        _add_derivation(ds, recon, source)
    if not _on_grid_of(source, recon) or any(not ds.get(keyword) for keyword in _PLANE):
        _add_plane(ds, geometry, index)
    n_clipped = add_pixels(ds, recon.image[index], scale)
    _add_contribution(ds, recon)
    ds.ImageComments = _comments(ds, recon, index, scale, n_clipped)
    _complete(ds, info)
    ds.file_meta = _file_meta(ds)
    return ds


def _add_identity(ds: Dataset, recon: Reconstruction, index: int) -> None:
    created = recon.provenance.created
    date, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    ds.SOPClassUID = MRImageStorage if recon.info.modality == "mr" else CTImageStorage
    ds.SOPInstanceUID = uids.instance_uid(recon, index)
    ds.SeriesInstanceUID = uids.series_uid(recon)
    ds.Modality = recon.info.modality.upper()
    ds.InstanceCreationDate, ds.InstanceCreationTime = date, time
    ds.SeriesDate, ds.SeriesTime = date, time
    ds.ContentDate, ds.ContentTime = date, time
    if not ds.get("StudyInstanceUID"):
        ds.StudyInstanceUID = uids.study_uid(recon)
    if not ds.get("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = uids.frame_of_reference_uid(recon)


def _add_origin(ds: Dataset, recon: Reconstruction, index: int) -> None:
    info = recon.info
    created = recon.provenance.created
    ds.ImageType = ["ORIGINAL", "PRIMARY", _IMAGE_KIND[info.modality]]
    ds.StudyDate, ds.StudyTime = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    ds.SeriesNumber = 1
    ds.InstanceNumber = index + 1
    ds.AcquisitionNumber = 1
    ds.SeriesDescription = _series_description(ascii_text(info.protocol_name or "", 64), recon)
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    describe_acquisition(ds, info)


def _add_derivation(ds: Dataset, recon: Reconstruction, source: Dataset) -> None:
    kind = list(ds.get("ImageType") or [])[2:] or [_IMAGE_KIND[recon.info.modality]]
    ds.ImageType = ["DERIVED", "PRIMARY", *kind]
    ds.SeriesNumber = (ds.get("SeriesNumber") or 0) + DERIVED_SERIES_OFFSET
    ds.SeriesDescription = _series_description(ds.get("SeriesDescription"), recon)
    ds.DerivationDescription = ascii_text(f"{_recipe(recon)} applied to the source image", 1024)
    reference = _reference(source)
    reference.SpatialLocationsPreserved = "YES" if _on_grid_of(source, recon) else "NO"
    reference.PurposeOfReferenceCodeSequence = [
        code("121322", "Source image for image processing operation")
    ]
    ds.SourceImageSequence = [reference]
    series = Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    series.ReferencedInstanceSequence = [_reference(source)]
    ds.ReferencedSeriesSequence = [series]
    if recon.info.modality == "mr":
        _add_missing_sequence(ds)


def _on_grid_of(source: Dataset | None, recon: Reconstruction) -> bool:
    # An enlarged image has smaller pixels, and its first voxel lies elsewhere.
    return source is not None and recon.image.shape[1:] == (source.Rows, source.Columns)


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


def _add_contribution(ds: Dataset, recon: Reconstruction) -> None:
    made = recon.provenance
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code("109102", "Processing Equipment")]
    item.Manufacturer = MAKER
    item.ManufacturerModelName = ascii_text(made.bundle_name, 64)
    item.SoftwareVersions = ascii_text(made.software_version, 64)
    item.ContributionDateTime = made.created.strftime("%Y%m%d%H%M%S")
    item.ContributionDescription = ascii_text(
        f"{_recipe(recon)}; bundle sha256 {made.bundle_sha256}; seed {made.seed}", 1024
    )
    ds.ContributingEquipmentSequence = [*ds.get("ContributingEquipmentSequence", []), item]


def _comments(
    ds: Dataset, recon: Reconstruction, index: int, scale: StoredScale, n_clipped: int
) -> str:
    remarks = [DISCLAIMER]
    reason = recon.fallback_reason(index)
    if reason is not None:
        remarks.append(f"CLASSICAL IMAGE DELIVERED IN PLACE OF THE MODEL'S: {reason}.")
    if n_clipped:
        low, high = scale.limits
        remarks.append(f"{n_clipped} pixels clipped to the stored range [{low}, {high}].")
    remarks.append(f"Value = stored x {scale.slope:.10g} + {scale.intercept:g}.")
    remarks += [f"Note: {note}." for note in recon.all_notes]
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


def _recipe(recon: Reconstruction) -> str:
    made = recon.provenance
    return (
        f"LDM-PIR {made.task} by {MAKER} {made.software_version}, model {made.bundle_name}, "
        f"{made.precision}, {made.n_steps} steps, engine {made.backend}"
    )


def _series_description(original: str | None, recon: Reconstruction) -> str:
    suffix = f"LDM-PIR {recon.provenance.task}"
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
