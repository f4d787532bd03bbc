"""Write simulated acquisitions in the formats that scanners and data sets use."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

_PIXEL_MM = 0.9
_SLICE_MM = 5.0
_HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <measurementInformation>
    <patientPosition>HFS</patientPosition>
    <protocolName>simulated head T1</protocolName>
  </measurementInformation>
  <acquisitionSystemInformation>
    <systemVendor>simulated</systemVendor>
    <systemFieldStrength_T>3</systemFieldStrength_T>
    <receiverChannels>{coils}</receiverChannels>
  </acquisitionSystemInformation>
  <experimentalConditions>
    <H1resonanceFrequency_Hz>127728000</H1resonanceFrequency_Hz>
  </experimentalConditions>
  <encoding>
    <encodedSpace>
      <matrixSize><x>{readout}</x><y>{phase}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{readout_mm}</x><y>{phase_mm}</y><z>{slice_mm}</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>{recon}</x><y>{phase}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{recon_mm}</x><y>{phase_mm}</y><z>{slice_mm}</z></fieldOfView_mm>
    </reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1>
        <minimum>0</minimum><maximum>{last}</maximum><center>{center}</center>
      </kspace_encoding_step_1>
      <slice><minimum>0</minimum><maximum>{last_slice}</maximum><center>0</center></slice>
    </encodingLimits>
    <trajectory>cartesian</trajectory>
  </encoding>
  <sequenceParameters>
    <TR>500</TR><TE>10</TE><flipAngle_deg>70</flipAngle_deg>
    <sequence_type>Flash</sequence_type>
  </sequenceParameters>
</ismrmrdHeader>
"""


def mrd_xml(shape: tuple[int, int, int, int]) -> str:
    """Describe k-space of `shape` (slices, coils, readout, phase encode), readout 2x oversampled.

    Returns
    -------
        An ISMRMRD XML header, valid against the schema.
    """
    n_slices, coils, readout, phase = shape
    return _HEADER.format(
        coils=coils,
        readout=readout,
        phase=phase,
        recon=readout // 2,
        readout_mm=readout * _PIXEL_MM,
        phase_mm=phase * _PIXEL_MM,
        recon_mm=readout // 2 * _PIXEL_MM,
        slice_mm=_SLICE_MM,
        last=phase - 1,
        center=phase // 2,
        last_slice=n_slices - 1,
    )


def write_fastmri(
    path: Path,
    kspace: NDArray[np.complex64],
    reference: NDArray[np.float32],
    mask: NDArray[np.bool_],
) -> None:
    """Write a fastMRI multi-coil file with mask and reference.

    Parameters
    ----------
    path
        File to create.
    kspace
        `(slices, coils, readout, phase_encode)` complex64, zero where not sampled.
    reference
        `(slices, H, W)` float32.
    mask
        `(phase_encode,)` bool.
    """
    shape = (kspace.shape[0], kspace.shape[1], kspace.shape[2], kspace.shape[3])
    with h5py.File(path, "w") as file:
        # Most columns are zero: light compression makes the file four times smaller.
        file.create_dataset(
            "kspace",
            data=kspace,
            chunks=(1, 1, *shape[2:]),
            compression="gzip",
            compression_opts=1,
            shuffle=True,
        )
        file["reconstruction_rss"] = reference
        file["mask"] = mask.astype(np.float32)
        file["ismrmrd_header"] = mrd_xml(shape)
        file.attrs.update(
            acquisition="AXT1",
            patient_id="simulated",
            max=float(reference.max()),
            norm=float(np.linalg.norm(reference)),
        )


def write_ismrmrd(
    path: Path,
    kspace: NDArray[np.complex64],
    mask: NDArray[np.bool_],
    noise: NDArray[np.complex64],
) -> None:
    """Write an ISMRMRD file: a noise scan, then the sampled lines, slices interleaved.

    Parameters
    ----------
    path
        File to create.
    kspace
        `(slices, coils, readout, phase_encode)` complex64.
    mask
        `(phase_encode,)` bool: lines that are written.
    noise
        `(coils, n)` complex64, n a multiple of the readout length.
    """
    import ismrmrd

    n_slices, _, readout, phase = kspace.shape
    acs = np.abs(np.arange(phase) - phase // 2) < 8

    def acquisition(samples: NDArray[np.complex64], position_mm: float) -> ismrmrd.Acquisition:
        line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples))
        line.center_sample = readout // 2
        line.sample_time_us = 5.0
        line.position[:] = (0.0, 0.0, position_mm)
        # Axial: readout runs from right to left, phase encoding from anterior to posterior.
        line.read_dir[:] = (1.0, 0.0, 0.0)
        line.phase_dir[:] = (0.0, 1.0, 0.0)
        line.slice_dir[:] = (0.0, 0.0, 1.0)
        return line

    with ismrmrd.Dataset(str(path), "dataset", mode="w") as dataset:
        dataset.write_xml_header(mrd_xml((n_slices, len(noise), readout, phase)).encode())
        for samples in np.split(noise, noise.shape[1] // readout, axis=1):
            line = acquisition(samples, 0.0)
            line.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
            dataset.append_acquisition(line)
        for column in np.flatnonzero(mask):
            for index in range(n_slices):
                height_mm = (index - (n_slices - 1) / 2) * 2 * _SLICE_MM
                line = acquisition(kspace[index, :, :, column], height_mm)
                line.idx.kspace_encode_step_1 = int(column)
                line.idx.slice = index
                if acs[column]:
                    line.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
                dataset.append_acquisition(line)


def write_dicom(path: Path, image: NDArray[np.float32], seed_text: str) -> None:
    """Write one MR image; `seed_text` fixes its identifiers, so that a rerun repeats the file.

    Parameters
    ----------
    path
        File to create.
    image
        `(H, W)` float32, 1 becomes grey level 1000.
    seed_text
        Any text.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    def uid(role: str) -> UID:
        return generate_uid(entropy_srcs=[seed_text, role])

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid("instance")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, uid("instance")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid("study"), uid("series")
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid("frame"), ""
    ds.Modality, ds.Manufacturer, ds.BodyPartExamined = "MR", "simulated", "HEAD"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.PatientName, ds.PatientID = "Phantom^Analytic", "SIMULATED"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientPosition = "", "", "HFS"
    ds.StudyDate, ds.StudyTime = "20260101", "000000"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "", ""
    ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = 1, 1, 1
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "GR", "SP", ""
    ds.MRAcquisitionType, ds.EchoTrainLength, ds.ImagedNucleus = "2D", 1, "1H"
    ds.MagneticFieldStrength, ds.RepetitionTime, ds.EchoTime, ds.FlipAngle = 3, 500, 10, 70
    ds.PixelSpacing, ds.SliceThickness = [_PIXEL_MM, _PIXEL_MM], _SLICE_MM
    height, width = image.shape
    corner = [-_PIXEL_MM * (width - 1) / 2, -_PIXEL_MM * (height - 1) / 2, 0.0]
    ds.ImagePositionPatient, ds.ImageOrientationPatient = corner, [1, 0, 0, 0, 1, 0]
    ds.Rows, ds.Columns, ds.SamplesPerPixel = height, width, 1
    ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.WindowCenter, ds.WindowWidth = 450, 900
    ds.PixelData = np.clip(np.round(1000 * image), 0, 4095).astype("<u2").tobytes()
    ds.save_as(path, enforce_file_format=True)
