"""What a derived DICOM image takes over from its source, with invalid values repaired.

Attributes are taken by list, not by copying the whole data set: private attributes, overlays,
retired attributes and those of other modules may describe pixels that no longer exist or
identify people whom the source's modules do not name. The lists follow DICOM PS3.3 (2024e).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from pydicom.config import RAISE, disable_value_validation
from pydicom.datadict import dictionary_has_tag, dictionary_is_retired, dictionary_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import format_number_as_ds, validate_value

GROUPS = (0x0010, 0x0012, 0x0018)
"""Patient and patient study; clinical trial and de-identification; acquisition and equipment."""

KEYWORDS = (
    # SOP common and general study (C.12.1, C.7.2.1)
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "ConsultingPhysicianName",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    "AdmittingDiagnosesDescription",
    "AdmissionID",
    # general series and equipment (C.7.3.1, C.7.5.1)
    "Laterality",
    "ImageLaterality",
    "SeriesDescription",
    "SeriesNumber",
    "OperatorsName",
    "PerformingPhysicianName",
    "ReferencedPerformedProcedureStepSequence",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepID",
    "PerformedProcedureStepDescription",
    "RequestAttributesSequence",
    "AnatomicRegionSequence",
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "ContributingEquipmentSequence",
    # frame of reference and image plane (C.7.4.1, C.7.6.2)
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceLocation",
    # general acquisition and image (C.7.10.1, C.7.6.1)
    "ImageType",
    "AcquisitionUID",
    "AcquisitionNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "InstanceNumber",
    "ImagesInAcquisition",
    "TemporalPositionIdentifier",
    "NumberOfTemporalPositions",
    "ImageComments",
    "QualityControlImage",
    "BurnedInAnnotation",
    "RecognizableVisualFeatures",
    "PatientIdentityRemoved",
    "LongitudinalTemporalInformationModified",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    # the grey scale and how to look at it (C.11.1, C.11.2)
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "WindowCenterWidthExplanation",
    "VOILUTFunction",
)


def inherit(source: Dataset) -> Dataset:
    """Copy the listed attributes of `source`, repairing or dropping values that break their VR.

    A number too long for its text is rounded to the 16 characters that DICOM allows, an age
    without unit is taken as years, a code string is put in capitals; what still breaks its VR
    is left out. Attributes of Type 2 that this removes are filled in later as empty.
    """
    inherited = Dataset()
    # Values are judged by `_repaired`; pydicom's own warnings about the source add nothing.
    with disable_value_validation():
        for tag in source.keys():  # noqa: SIM118  iterating a Dataset would parse every value
            kept = _taken(source, tag) if _wanted(tag) else None
            if kept is not None:
                inherited.add(kept)
    return inherited


def _wanted(tag: BaseTag) -> bool:
    if tag.is_private or not dictionary_has_tag(tag) or dictionary_is_retired(tag):
        return False
    return tag.group in GROUPS or dictionary_keyword(tag) in KEYWORDS


def _taken(source: Dataset, tag: BaseTag) -> DataElement | None:
    try:
        return _repaired(source[tag])
    except (ValueError, TypeError, OverflowError):  # bytes that are no value of their VR
        return None


def _repaired(element: DataElement) -> DataElement | None:
    if element.VR == "SQ":
        items = [_repaired_item(item) for item in element.value]
        return DataElement(element.tag, "SQ", items) if items else None
    if element.is_empty:
        return DataElement(element.tag, element.VR, None)
    values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
    repair = _REPAIRS.get(element.VR)
    kept = [value if repair is None else repair(value) for value in values]
    if not _valid(element.VR, kept):
        return None
    return DataElement(element.tag, element.VR, kept if len(kept) > 1 else kept[0])


def _repaired_item(item: Dataset) -> Dataset:
    repaired = Dataset()
    for tag in item.keys():  # noqa: SIM118  as in `inherit`
        kept = None if tag.is_private else _taken(item, tag)
        if kept is not None:
            repaired.add(kept)
    return repaired


def _valid(vr: str, values: Iterable[object]) -> bool:
    try:
        for value in values:
            validate_value(vr, value, RAISE)
    except ValueError:
        return False
    return True


def _decimal(value: object) -> object:
    text = str(value).strip()
    return text if len(text) <= 16 else format_number_as_ds(float(text))


def _integer(value: object) -> object:
    return str(int(float(str(value))))


def _age(value: object) -> object:
    text = str(value).strip().upper()
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", text)
    return f"{int(match[1]):03d}{match[2] or 'Y'}" if match else text


def _code(value: object) -> object:
    return str(value).strip().upper()


def _text(length: int) -> Callable[[object], object]:
    return lambda value: str(value).strip()[:length]


_REPAIRS: dict[str, Callable[[object], object]] = {
    "AS": _age,
    "CS": _code,
    "DS": _decimal,
    "IS": _integer,
    "LO": _text(64),
    "SH": _text(16),
    "ST": _text(1024),
}
