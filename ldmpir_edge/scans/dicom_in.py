"""DICOM images as input: one MR or CT series, sorted by geometry.

Part 10 files are recognised by their prefix (PS3.10, 7.1). Pixels are decoded one slice at a time
and brought to the stored unit by the Modality LUT (PS3.3, C.11.1): Hounsfield units for CT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.physics.problem import Modality
from ldmpir_edge.scans.ismrmrd_geometry import slice_spacing
from ldmpir_edge.scans.limits import MAX_SIDE, MAX_SLICES, check_count
from ldmpir_edge.scans.model import ImageScan, ScanInfo, SlicePlane

if TYPE_CHECKING:
    from pydicom import Dataset

_MODALITIES: dict[str, Modality] = {"MR": "mr", "CT": "ct"}
_DICOMDIR = "1.2.840.10008.1.3.10"
_FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True, eq=False, kw_only=True)
class DicomScan(ImageScan):
    """One DICOM series; `files` are in slice order."""

    def _read_image(self, index: int) -> NDArray[np.float32]:
        return _pixels(self.files[index], self.shape)


def is_dicom(start: bytes) -> bool:
    """Tell by a file's first bytes whether it is a DICOM Part 10 file."""
    return start[128:132] == b"DICM"


@contextmanager
def read_dicom(path: Path, files: Sequence[Path]) -> Iterator[DicomScan]:
    """Sort DICOM files into one series.

    Parameters
    ----------
    path
        What the user named, for messages and output names.
    files
        Part 10 files in any order; a DICOMDIR among them is left out.

    Raises
    ------
    ScanFormatError
        A file is damaged or truncated, or holds no image.
    ScanDataError
        Several series, several sizes, colour, several frames in a file, another modality than MR
        or CT, or an absurd size.
    """
    headers = [(file, _header(file)) for file in files]
    headers = [(file, ds) for file, ds in headers if _storage_class(ds) != _DICOMDIR]
    if not headers:
        raise ScanFormatError(f"{path}: only a DICOMDIR was found; name the folder of the images")
    check_count(path, "the number of DICOM files", len(headers), MAX_SLICES)
    for file, ds in headers:
        _check_image(file, ds)
    modality, shape = _same_series(path, headers)
    ordered = _sorted(path, headers)
    planes = tuple(plane for _, ds in ordered if (plane := _plane(ds)) is not None)
    if len(planes) != len(ordered):
        planes = ()
    first = ordered[0][1]
    yield DicomScan(
        path=path,
        files=tuple(file for file, _ in ordered),
        n_slices=len(ordered),
        info=_info(modality, planes, first, tuple(ds for _, ds in ordered)),
        shape=shape,
    )


def _header(file: Path) -> Dataset:
    from pydicom import config, dcmread

    try:
        # Values that break the standard's rules are common and harmless here.
        with config.disable_value_validation():
            ds = dcmread(file, stop_before_pixels=True)
            # Decoding is lazy: reach every element now, so that damage shows here and not later.
            for part in (ds.file_meta, ds):
                for _ in part.iterall():
                    pass
            # What some converters write into the file's own header alone.
            for keyword in ("SOPClassUID", "SOPInstanceUID"):
                if not ds.get(keyword) and (uid := ds.file_meta.get(f"MediaStorage{keyword}")):
                    setattr(ds, keyword, uid)
    # pydicom raises whatever its parsing code runs into: a damaged file has no one error class.
    except Exception as err:
        raise ScanFormatError(
            f"{file}: damaged or truncated DICOM file ({_reason(err)}); copy or export it again"
        ) from err
    return ds


def _storage_class(ds: Dataset) -> str:
    return str(ds.get("SOPClassUID", ""))


def _check_image(file: Path, ds: Dataset) -> None:
    rows, columns = _integer(ds, "Rows"), _integer(ds, "Columns")
    if rows is None or columns is None:
        raise ScanFormatError(
            f"{file}: this DICOM object holds no image (modality {ds.get('Modality', 'unknown')}); "
            "name the images of one series"
        )
    check_count(file, "Rows", rows, MAX_SIDE)
    check_count(file, "Columns", columns, MAX_SIDE)
    frames = _integer(ds, "NumberOfFrames") or 1
    # With one frame, too, its geometry and scale lie where they are not looked for.
    if frames != 1 or any(keyword in ds for keyword in _FUNCTIONAL_GROUPS):
        raise ScanDataError(
            f"{file}: enhanced multi-frame DICOM (frames: {frames}) is not read; convert it to "
            "single-frame images, for example with dcm4che's emf2sf"
        )
    if (samples := _integer(ds, "SamplesPerPixel") or 1) != 1:
        raise ScanDataError(f"{file}: a colour image ({samples} samples a pixel); give MR or CT")
    shown = str(ds.get("PhotometricInterpretation") or "MONOCHROME2")
    if shown not in ("MONOCHROME1", "MONOCHROME2"):
        raise ScanDataError(f"{file}: the pixels are {shown}, not grey values; give MR or CT")
    if (bits := _integer(ds, "BitsAllocated") or 16) > 16:
        raise ScanDataError(
            f"{file}: pixels of {bits} bits, of which an MR or CT image has 16 at most; convert it"
        )
    if (modality := str(ds.get("Modality"))) not in _MODALITIES:
        raise ScanDataError(f"{file}: the modality is {modality!r}; only MR and CT are read")


def _same_series(
    path: Path, headers: list[tuple[Path, Dataset]]
) -> tuple[Modality, tuple[int, int]]:
    series = {str(ds.get("SeriesInstanceUID", "")) for _, ds in headers}
    if len(series) > 1:
        raise ScanDataError(
            f"{path}: images of {len(series)} series are mixed; give one series at a time"
        )
    identifiers = {str(ds.get("SOPInstanceUID") or file) for file, ds in headers}
    if len(identifiers) < len(headers):
        raise ScanDataError(
            f"{path}: {len(headers) - len(identifiers)} images appear twice; remove the copies"
        )
    shapes = {(int(ds.Rows), int(ds.Columns)) for _, ds in headers}
    modalities = {str(ds.Modality) for _, ds in headers}
    if len(shapes) > 1 or len(modalities) > 1:
        raise ScanDataError(
            f"{path}: the series mixes sizes {sorted(shapes)} or modalities {sorted(modalities)}; "
            "give images of one kind at a time"
        )
    return _MODALITIES[modalities.pop()], shapes.pop()


def _sorted(path: Path, headers: list[tuple[Path, Dataset]]) -> list[tuple[Path, Dataset]]:
    """Sort along the slice normal, then by acquisition and instance number."""
    planes = [_plane(ds) for _, ds in headers]
    known = [plane for plane in planes if plane is not None]
    normal = np.zeros(3)
    if len(known) == len(planes):
        directions = np.array([[*p.row_direction, *p.column_direction] for p in known])
        if np.abs(directions - directions[0]).max() > 1e-2:
            raise ScanDataError(
                f"{path}: the slices of the series have several orientations; give one at a time"
            )
        normal = np.cross(known[0].row_direction, known[0].column_direction)

    def key(item: tuple[tuple[Path, Dataset], SlicePlane | None]) -> tuple[float, int, int, str]:
        (file, ds), plane = item
        height = float(np.dot(plane.position_mm, normal)) if plane is not None else 0.0
        acquisition = _integer(ds, "AcquisitionNumber") or 0
        return (round(height, 3), acquisition, _integer(ds, "InstanceNumber") or 0, str(file))

    return [item for item, _ in sorted(zip(headers, planes, strict=True), key=key)]


def _plane(ds: Dataset) -> SlicePlane | None:
    position = _numbers(ds, "ImagePositionPatient", 3)
    directions = _numbers(ds, "ImageOrientationPatient", 6)
    if position is None or directions is None:
        return None
    x, y, z = position
    a, b, c, d, e, f = directions
    return SlicePlane((x, y, z), (a, b, c), (d, e, f))


def _info(
    modality: Modality,
    planes: tuple[SlicePlane, ...],
    first: Dataset,
    sources: tuple[Dataset, ...],
) -> ScanInfo:
    spacing = _numbers(first, "PixelSpacing", 2)
    return ScanInfo(
        modality=modality,
        pixel_spacing_mm=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        slice_thickness_mm=_number(first, "SliceThickness"),
        slice_spacing_mm=slice_spacing(planes) or _number(first, "SpacingBetweenSlices"),
        planes=planes,
        protocol_name=_string(first, "ProtocolName"),
        manufacturer=_string(first, "Manufacturer"),
        model_name=_string(first, "ManufacturerModelName"),
        patient_position=_string(first, "PatientPosition"),
        field_strength_t=_number(first, "MagneticFieldStrength"),
        echo_time_ms=_number(first, "EchoTime"),
        repetition_time_ms=_number(first, "RepetitionTime"),
        inversion_time_ms=_number(first, "InversionTime"),
        flip_angle_deg=_number(first, "FlipAngle"),
        source_datasets=sources,
    )


def _pixels(file: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    from pydicom import config, dcmread
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    try:
        with config.disable_value_validation():
            ds = dcmread(file)
            if "PixelData" not in ds:
                raise ScanFormatError(f"{file}: PixelData is missing; the file is truncated")
            values = apply_modality_lut(pixel_array(ds), ds)
    except ScanFormatError:
        raise
    # Every decoder plug-in has its own errors, beside pydicom's.
    except Exception as err:
        raise ScanFormatError(
            f"{file}: the pixels cannot be decoded ({_reason(err)}); copy the file again, or "
            "decompress it with dcmdjpeg or gdcmconv --raw"
        ) from err
    if values.shape != shape:
        raise ScanDataError(f"{file}: the pixels have shape {values.shape}, not {shape}")
    return np.ascontiguousarray(values, np.float32)


def _number(ds: Dataset, keyword: str) -> float | None:
    values = _numbers(ds, keyword, 1)
    return values[0] if values else None


def _integer(ds: Dataset, keyword: str) -> int | None:
    number = _number(ds, keyword)
    return None if number is None else int(number)


def _numbers(ds: Dataset, keyword: str, count: int) -> list[float] | None:
    """Give `count` finite numbers, or None when the element lacks them."""
    value: Any = ds.get(keyword)
    try:
        numbers = [float(v) for v in (value if count > 1 else [value])]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _string(ds: Dataset, keyword: str) -> str | None:
    return str(ds.get(keyword) or "").strip() or None


def _reason(err: Exception) -> str:
    return (str(err) or type(err).__name__).splitlines()[0][:160]
