"""The few fields of an ISMRMRD XML header that reconstruction and DICOM output need.

fastMRI files carry the same header. The reading is lenient on purpose: vendors' converters leave
out parts that the schema requires, and nothing is lost by their absence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ldmpir_edge.errors import ScanFormatError
from ldmpir_edge.scans.model import ScanInfo, SlicePlane

MAX_HEADER_CHARACTERS = 16 * 2**20


@dataclass(frozen=True)
class MrdHeader:
    """The header of one scan; None stands for a field that the file leaves out.

    Parameters
    ----------
    encoded_matrix, recon_matrix
        (x, y, z): readout, phase encode, partition.
    encoded_fov_mm, recon_fov_mm
        In the same order.
    phase_center, phase_maximum
        `encodingLimits/kspace_encoding_step_1`.
    partition_center
        `encodingLimits/kspace_encoding_step_2/center`.
    trajectory
        Lower-case name, `cartesian` unless stated.
    calibration_mode
        `parallelImaging/calibrationMode`.
    noise_bandwidth
        `relativeReceiverNoiseBandwidth`.
    echo_times_ms, inversion_times_ms, repetition_times_ms, flip_angles_deg
        As many as are stated: of one image, or of each contrast. None stands for what is no number.
    """

    encoded_matrix: tuple[int, int, int] | None
    recon_matrix: tuple[int, int, int] | None
    encoded_fov_mm: tuple[float, float, float] | None
    recon_fov_mm: tuple[float, float, float] | None
    phase_center: int | None
    phase_maximum: int | None
    partition_center: int | None
    trajectory: str
    calibration_mode: str | None
    noise_bandwidth: float | None
    protocol_name: str | None
    manufacturer: str | None
    model_name: str | None
    patient_position: str | None
    sequence_type: str | None
    field_strength_t: float | None
    echo_times_ms: tuple[float | None, ...]
    repetition_times_ms: tuple[float | None, ...]
    inversion_times_ms: tuple[float | None, ...]
    flip_angles_deg: tuple[float | None, ...]

    def describe(
        self,
        *,
        pixel_spacing_mm: tuple[float, float] | None,
        slice_thickness_mm: float | None,
        slice_spacing_mm: float | None = None,
        planes: tuple[SlicePlane, ...] = (),
        contrasts: tuple[int, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> ScanInfo:
        """Give the header's descriptive fields and the reader's geometry as a `ScanInfo`.

        `contrasts` holds that of each slice, from 0. Contrasts are echoes where there are several
        of both; of what else is stated for each contrast, nothing is said of a scan of several.
        """
        found = set(contrasts) or {0}
        times = self.echo_times_ms
        echoes: tuple[tuple[int, float | None], ...] = ()
        if len(found) > 1 and len(times) > 1:
            echoes = tuple((c + 1, _of(times, c)) for c in contrasts)

        def common(values: tuple[float | None, ...]) -> float | None:
            if len(values) == 1:
                return values[0]
            return _of(values, min(found)) if len(found) == 1 else None

        return ScanInfo(
            modality="mr",
            pixel_spacing_mm=pixel_spacing_mm,
            slice_thickness_mm=slice_thickness_mm,
            slice_spacing_mm=slice_spacing_mm,
            planes=planes,
            protocol_name=self.protocol_name,
            manufacturer=self.manufacturer,
            model_name=self.model_name,
            patient_position=self.patient_position,
            sequence_type=self.sequence_type,
            field_strength_t=self.field_strength_t,
            echo_time_ms=common(times),
            repetition_time_ms=common(self.repetition_times_ms),
            inversion_time_ms=common(self.inversion_times_ms),
            flip_angle_deg=common(self.flip_angles_deg),
            echoes=echoes,
            notes=notes,
        )


def _of(values: tuple[float | None, ...], contrast: int) -> float | None:
    return values[contrast] if contrast < len(values) else None


def parse_mrd_header(path: Path, xml: str) -> MrdHeader:
    """Parse the XML header found in the file `path`.

    Raises
    ------
    ScanFormatError
        The text is not XML, declares entities or a document type, or a size is not a number.
    """
    # Entities are the one means by which XML reaches other files or grows without bound.
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ScanFormatError(f"{path}: the XML header declares a document type; remove it")
    try:
        # As text: the encoding that the header declares must not say what the bytes mean.
        root = ElementTree.fromstring(xml)  # noqa: S314 - entities were refused above
    except (ElementTree.ParseError, ValueError) as err:
        raise ScanFormatError(
            f"{path}: the ISMRMRD header is not XML ({err}); export the scan again"
        ) from err
    find = _Finder(path, root)
    limits = "encoding/encodingLimits"
    return MrdHeader(
        encoded_matrix=find.matrix("encoding/encodedSpace/matrixSize"),
        recon_matrix=find.matrix("encoding/reconSpace/matrixSize"),
        encoded_fov_mm=find.lengths("encoding/encodedSpace/fieldOfView_mm"),
        recon_fov_mm=find.lengths("encoding/reconSpace/fieldOfView_mm"),
        phase_center=find.integer(f"{limits}/kspace_encoding_step_1/center"),
        phase_maximum=find.integer(f"{limits}/kspace_encoding_step_1/maximum"),
        partition_center=find.integer(f"{limits}/kspace_encoding_step_2/center"),
        trajectory=(find.text("encoding/trajectory") or "cartesian").lower(),
        calibration_mode=find.text("encoding/parallelImaging/calibrationMode"),
        noise_bandwidth=find.number("acquisitionSystemInformation/relativeReceiverNoiseBandwidth"),
        protocol_name=find.text("measurementInformation/protocolName"),
        manufacturer=find.text("acquisitionSystemInformation/systemVendor"),
        model_name=find.text("acquisitionSystemInformation/systemModel"),
        patient_position=find.text("measurementInformation/patientPosition"),
        sequence_type=find.text("sequenceParameters/sequence_type"),
        field_strength_t=find.number("acquisitionSystemInformation/systemFieldStrength_T"),
        echo_times_ms=find.numbers("sequenceParameters/TE"),
        repetition_times_ms=find.numbers("sequenceParameters/TR"),
        inversion_times_ms=find.numbers("sequenceParameters/TI"),
        flip_angles_deg=find.numbers("sequenceParameters/flipAngle_deg"),
    )


class _Finder:
    """Looks fields up by path, whatever the XML namespace."""

    def __init__(self, path: Path, root: ElementTree.Element) -> None:
        self._path, self._root = path, root

    def text(self, where: str) -> str | None:
        return next(iter(self._texts(where)), None)

    def number(self, where: str) -> float | None:
        value = self.text(where)
        if value is None:
            return None
        if (number := _finite(value)) is None:
            raise ScanFormatError(
                f"{self._path}: {where} in the XML header is {value[:40]!r}, not a number"
            )
        return number

    def numbers(self, where: str) -> tuple[float | None, ...]:
        """Keep every place: the second number is the second contrast's."""
        return tuple(_finite(value) for value in self._texts(where))

    def _texts(self, where: str) -> list[str | None]:
        query = "/".join(f"{{*}}{step}" for step in where.split("/"))
        return [(found.text or "").strip() or None for found in self._root.findall(query)]

    def integer(self, where: str) -> int | None:
        number = self.number(where)
        return None if number is None else int(number)

    def matrix(self, where: str) -> tuple[int, int, int] | None:
        x, y, z = (self.integer(f"{where}/{axis}") for axis in "xyz")
        return None if x is None or y is None else (x, y, 1 if z is None else z)

    def lengths(self, where: str) -> tuple[float, float, float] | None:
        x, y, z = (self.number(f"{where}/{axis}") for axis in "xyz")
        if x is None or y is None or z is None or min(x, y, z) <= 0:
            return None
        return (x, y, z)


def _finite(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
