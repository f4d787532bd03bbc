"""ISMRMRD files written by the ismrmrd package, read back sample by sample."""

from __future__ import annotations

import errno
import os
import re
import shutil
from types import SimpleNamespace

import h5py
import ismrmrd
import numpy as np
import pytest

from ldmpir_edge.errors import OutputError, ScanDataError, ScanFormatError
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.ismrmrd_lines import Flag
from ldmpir_edge.scans.reconstruction import VolumeHeader

COILS, READOUT, PHASE = 3, 24, 16


@pytest.fixture
def kspace(rng):
    shape = (2, COILS, READOUT, PHASE)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


class Writer:
    """Collects acquisitions and writes them in the order given."""

    def __init__(self, path, xml, group="dataset"):
        self.path, self.xml, self.group, self.lines = path, xml, group, []

    def line(self, samples, ky=0, flags=(), center=None, **counters):
        acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, np.complex64))
        acquisition.center_sample = samples.shape[1] // 2 if center is None else center
        acquisition.idx.kspace_encode_step_1 = ky
        for name, value in counters.items():
            setattr(acquisition.idx, name, value)
        for flag in flags:
            acquisition.set_flag(flag)
        acquisition.read_dir[:] = (0, 1, 0)
        acquisition.phase_dir[:] = (1, 0, 0)
        acquisition.slice_dir[:] = (0, 0, 1)
        acquisition.position[:] = (5, 6, 10.0 * counters.get("slice", 0))
        self.lines.append(acquisition)
        return acquisition

    def save(self):
        with ismrmrd.Dataset(str(self.path), self.group, mode="w") as dataset:
            dataset.write_xml_header(self.xml.encode())
            for line in self.lines:
                dataset.append_acquisition(line)
        return self.path


@pytest.fixture
def writer(tmp_path, mrd_xml):
    xml = mrd_xml((READOUT, PHASE, 1), (READOUT // 2, PHASE), PHASE // 2, PHASE - 1)
    return Writer(tmp_path / "scan.h5", xml)


def test_flags_have_the_standard_bits():
    theirs = {
        Flag.NOISE: ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
        Flag.CALIBRATION: ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,
        Flag.CALIBRATION_AND_IMAGING: ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,
        Flag.REVERSE: ismrmrd.ACQ_IS_REVERSE,
        Flag.NAVIGATION: ismrmrd.ACQ_IS_NAVIGATION_DATA,
        Flag.PHASE_CORRECTION: ismrmrd.ACQ_IS_PHASECORR_DATA,
        Flag.HP_FEEDBACK: ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
        Flag.DUMMY: ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
        Flag.RT_FEEDBACK: ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
        Flag.SURFACE_COIL_CORRECTION: ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
        Flag.PHASE_STABILIZATION_REFERENCE: ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
        Flag.PHASE_STABILIZATION: ismrmrd.ACQ_IS_PHASE_STABILIZATION,
    }
    assert {flag: int(flag) for flag in Flag} == theirs


@pytest.mark.parametrize("group", ["dataset", "LUMC_2026"])
def test_interleaved_slices_in_any_group(writer, kspace, rng, group):
    writer.group = group
    for ky in rng.permutation(PHASE):
        for index in (1, 0):
            writer.line(kspace[index, :, :, ky], ky=int(ky), slice=index)
    with open_scan(writer.save()) as scan:
        assert (scan.n_slices, scan.n_coils) == (2, COILS)
        assert scan.recon_matrix == (READOUT // 2, PHASE)
        assert scan.rows_are_phase
        assert scan.image_shape == (PHASE, READOUT // 2)
        np.testing.assert_array_equal(scan.kspace(0), kspace[0])
        np.testing.assert_array_equal(scan.kspace(1), kspace[1])
        assert scan.info.protocol_name == "head"
        assert scan.noise_samples is None


def test_geometry_of_the_delivered_image(writer, kspace):
    for index in range(2):
        writer.line(kspace[index, :, :, 8], ky=8, slice=index)
    with open_scan(writer.save()) as scan:
        first, second = scan.info.planes
        # The pixel n // 2 of each axis lies at the acquisition's position; 1 mm pixels.
        assert first.position_mm == (5 - PHASE // 2, 6 - READOUT // 4, 0.0)
        assert second.position_mm == (5 - PHASE // 2, 6 - READOUT // 4, 10.0)
        assert first.row_direction == (0.0, 1.0, 0.0)  # columns follow readout
        assert first.column_direction == (1.0, 0.0, 0.0)
        assert scan.info.slice_spacing_mm == 10.0


def test_only_imaging_lines_make_the_image(writer, kspace):
    for ky in range(0, PHASE, 2):
        writer.line(kspace[0, :, :, ky], ky=ky)
    for flag in (
        ismrmrd.ACQ_IS_NAVIGATION_DATA,
        ismrmrd.ACQ_IS_PHASECORR_DATA,
        ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
        ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
        ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    ):
        writer.line(100 * kspace[1, :, :, 0], ky=1, flags=[flag])
    writer.line(kspace[0, :, :, 7], 7, [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING])
    with open_scan(writer.save()) as scan:
        expected = np.zeros_like(kspace[0])
        columns = [*range(0, PHASE, 2), 7]
        expected[:, :, columns] = kspace[0][:, :, columns]
        np.testing.assert_array_equal(scan.kspace(0), expected)
        assert scan.calibration(0) is None


def test_separate_calibration_serves_the_maps_only(writer, kspace):
    for ky in range(0, PHASE, 2):
        writer.line(kspace[0, :, :, ky], ky=ky)
    writer.line(3 * kspace[0, :, :, 7], 7, [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION])
    with open_scan(writer.save()) as scan:
        assert not scan.kspace(0)[:, :, 7].any()
        np.testing.assert_array_equal(scan.calibration(0)[:, :, 7], 3 * kspace[0, :, :, 7])
        assert not scan.calibration(0)[:, :, 6].any()


def test_embedded_calibration_lines_are_measurements(tmp_path, mrd_xml, kspace):
    mode = (
        "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        "<calibrationMode>embedded</calibrationMode></parallelImaging>"
    )
    xml = mrd_xml((READOUT, PHASE, 1), (READOUT, PHASE), PHASE // 2, PHASE - 1, mode)
    writer = Writer(tmp_path / "embedded.h5", xml)
    writer.line(kspace[0, :, :, 6], ky=6)
    writer.line(kspace[0, :, :, 7], 7, [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION])
    with open_scan(writer.save()) as scan:
        np.testing.assert_array_equal(scan.kspace(0)[:, :, 7], kspace[0, :, :, 7])
        assert scan.calibration(0) is None


def test_averages_are_averaged(writer, kspace):
    for average in range(2):
        writer.line(kspace[average, :, :, 4], ky=4, average=average)
    with open_scan(writer.save()) as scan:
        assert scan.n_slices == 1
        expected = kspace[:, :, :, 4].mean(axis=0)
        np.testing.assert_allclose(scan.kspace(0)[:, :, 4], expected, rtol=1e-5, atol=1e-6)


def test_repetitions_and_contrasts_follow_as_slices(writer, kspace):
    for contrast in range(2):
        for repetition in range(2):
            samples = kspace[contrast, :, :, repetition]
            writer.line(samples, ky=4, contrast=contrast, repetition=repetition)
    with open_scan(writer.save()) as scan:
        assert scan.n_slices == 4
        found = [scan.kspace(index)[:, :, 4] for index in range(4)]
        expected = [kspace[c, :, :, r] for c in range(2) for r in range(2)]
        np.testing.assert_array_equal(found, expected)
        assert "4 contrasts" in scan.info.notes[0]


def several(xml, **values):
    texts = "".join(f"<{name}>{value}</{name}>" for name, all_ in values.items() for value in all_)
    changed = re.sub(r"(?<=<sequenceParameters>).*(?=</sequenceParameters>)", texts, xml)
    assert texts in changed
    return changed


def test_every_echo_has_its_own_time(writer, kspace):
    writer.xml = several(writer.xml, TR=[30], TE=[4.9, 9.8], TI=[100, 200])
    for contrast in range(3):
        for slice_ in range(2):
            writer.line(kspace[0, :, :, 4], ky=4, contrast=contrast, slice=slice_)
    with open_scan(writer.save()) as scan:
        # The header states two times for three echoes: of the third nothing is known.
        assert scan.info.echoes == ((1, 4.9),) * 2 + ((2, 9.8),) * 2 + ((3, None),) * 2
        assert scan.info.echo_time_ms is None
        assert scan.info.inversion_time_ms is None
        assert scan.info.repetition_time_ms == 30
        alone = VolumeHeader((1, *scan.image_shape), scan.info.of_slice(2), "a")
        assert alone.info.echoes == ((2, 9.8),)
        assert alone.info.planes == scan.info.planes[2:3]


def test_contrasts_of_one_echo_time_are_no_echoes(writer, kspace):
    writer.xml = several(writer.xml, TE=[4.9], TI=[100, 200])
    for contrast in range(2):
        writer.line(kspace[0, :, :, 4], ky=4, contrast=contrast)
    with open_scan(writer.save()) as scan:
        assert (scan.info.echoes, scan.info.echo_time_ms) == ((), 4.9)
        assert scan.info.inversion_time_ms is None


def test_one_contrast_has_the_first_of_the_times(writer, kspace):
    writer.xml = several(writer.xml, TE=[4.9, 9.8])
    writer.line(kspace[0, :, :, 4], ky=4)
    with open_scan(writer.save()) as scan:
        assert (scan.info.echoes, scan.info.echo_time_ms) == ((), 4.9)


def test_a_later_echo_alone_has_its_own_time(writer, kspace):
    writer.xml = several(writer.xml, TR=[30], TE=[4.9, "", 9.8], TI=["NaN", 3, 200])
    writer.line(kspace[0, :, :, 4], ky=4, contrast=2)
    with open_scan(writer.save()) as scan:
        assert (scan.info.echoes, scan.info.echo_time_ms) == ((), 9.8)
        assert scan.info.inversion_time_ms == 200
        assert scan.info.repetition_time_ms == 30


def test_the_normal_of_a_2d_slice_is_not_needed(writer, kspace):
    line = writer.line(kspace[0, :, :, 4], ky=4)
    line.slice_dir[:] = (np.nan, 0, 0)
    with open_scan(writer.save()) as scan:
        assert scan.info.planes[0].position_mm == (5 - PHASE // 2, 6 - READOUT // 4, 0.0)


def test_a_field_of_view_beyond_all_measure_gives_the_encoded_matrix(writer, kspace):
    writer.xml = re.sub(
        r"(<reconSpace>.*<fieldOfView_mm><x>)[^<]*", r"\g<1>1e308", writer.xml, flags=re.DOTALL
    ).replace("<fieldOfView_mm><x>24", "<fieldOfView_mm><x>1e-308")
    assert "1e308" in writer.xml
    writer.line(kspace[0, :, :, 4], ky=4)
    with open_scan(writer.save()) as scan:
        assert scan.image_shape[1] == READOUT


@pytest.fixture
def partitions(tmp_path, mrd_xml, rng):
    writer = Writer(tmp_path / "scan.h5", mrd_xml((READOUT, PHASE, 2), (READOUT, PHASE), 4, 7))
    for partition in range(2):
        samples = rng.standard_normal((2, READOUT)).astype(np.complex64)
        writer.line(samples, ky=4, kspace_encode_step_2=partition)
    return writer.save()


def test_a_full_disk_refuses_partitions_before_it_ends_the_process(partitions, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(OutputError, match=r"no room for .* \(no space left.*TMPDIR"),
        open_scan(partitions),
    ):
        pass


def test_partitions_that_no_disk_here_can_hold_are_refused_for_good(partitions, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=100))
    refused(partitions, ScanDataError, "more than the disk of .* has in all")


@pytest.mark.parametrize("missing", ["function", "support"])
def test_partitions_are_read_where_room_cannot_be_reserved(partitions, monkeypatch, missing):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    if missing == "function":
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    with open_scan(partitions) as scan:
        assert scan.n_slices == 2


def test_reversed_lines_are_flipped(writer, kspace):
    writer.line(kspace[0, :, ::-1, 3], ky=3, flags=[ismrmrd.ACQ_IS_REVERSE])
    with open_scan(writer.save()) as scan:
        np.testing.assert_array_equal(scan.kspace(0)[:, :, 3], kspace[0, :, :, 3])


def test_an_asymmetric_echo_is_placed_by_its_centre(writer, kspace):
    # 18 samples, the centre of k-space at the sixth: positions 6 to 23 of 24.
    writer.line(kspace[0, :, 6:, 3], ky=3, center=6)
    with open_scan(writer.save()) as scan:
        column = scan.kspace(0)[:, :, 3]
        np.testing.assert_array_equal(column[:, 6:], kspace[0, :, 6:, 3])
        assert not column[:, :6].any()


def test_discarded_samples_are_dropped(writer, kspace):
    line = writer.line(kspace[0, :, :, 3], ky=3)
    line.discard_pre, line.discard_post = 2, 3
    with open_scan(writer.save()) as scan:
        column = scan.kspace(0)[:, :, 3]
        np.testing.assert_array_equal(column[:, 2:-3], kspace[0, :, 2:-3, 3])
        assert not column[:, :2].any()
        assert not column[:, -3:].any()


def test_phase_lines_are_centred_by_the_limits(tmp_path, mrd_xml, kspace):
    # Ten lines, k = 0 at line 4, on a grid of 16: line 0 lies at column 8 - 4.
    writer = Writer(tmp_path / "s.h5", mrd_xml((READOUT, PHASE, 1), (READOUT, PHASE), 4, 9))
    writer.line(kspace[0, :, :, 0], ky=0)
    with open_scan(writer.save()) as scan:
        np.testing.assert_array_equal(scan.kspace(0)[:, :, 4], kspace[0, :, :, 0])


def test_noise_is_scaled_to_the_imaging_bandwidth(writer, kspace, rng):
    noise = rng.standard_normal((COILS, 64)) + 1j * rng.standard_normal((COILS, 64))
    scan_line = writer.line(noise, flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT])
    image_line = writer.line(kspace[0, :, :, 3], ky=3)
    scan_line.sample_time_us, image_line.sample_time_us = 8.0, 2.0
    with open_scan(writer.save()) as scan:
        # A quarter of the dwell time is four times the bandwidth and twice the deviation.
        np.testing.assert_allclose(scan.noise_samples, 2 * noise, rtol=1e-5)


def test_full_partitions_are_transformed(tmp_path, mrd_xml, rng):
    n = 6
    shape = (n, COILS, READOUT, PHASE)
    volume = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    shifted = np.fft.ifftshift(volume, axes=0)
    kspace = np.fft.fftshift(np.fft.fft(shifted, axis=0, norm="ortho"), axes=0)
    xml = mrd_xml((READOUT, PHASE, n), (READOUT, PHASE), PHASE // 2, PHASE - 1)
    writer = Writer(tmp_path / "volume.h5", xml)
    for kz in range(n):
        for ky in range(0, PHASE, 2):
            writer.line(kspace[kz, :, :, ky], ky=ky, kspace_encode_step_2=kz)
    with open_scan(writer.save()) as scan:
        assert scan.n_slices == n
        expected = volume * (np.arange(PHASE) % 2 == 0)
        for index in range(n):
            np.testing.assert_allclose(scan.kspace(index), expected[index], atol=1e-4)
        heights = [plane.position_mm[2] for plane in scan.info.planes]
        np.testing.assert_allclose(np.diff(heights), 4.0)


def test_undersampled_partitions_are_refused(tmp_path, mrd_xml, kspace):
    xml = mrd_xml((READOUT, PHASE, 4), (READOUT, PHASE), PHASE // 2, PHASE - 1)
    writer = Writer(tmp_path / "volume.h5", xml)
    for ky, kz in ((0, 0), (0, 1), (1, 1)):
        writer.line(kspace[0, :, :, ky], ky=ky, kspace_encode_step_2=kz)
    path = writer.save()
    with pytest.raises(ScanDataError, match="undersampled along its partitions"), open_scan(path):
        pass


def refused(path, error, message):
    with pytest.raises(error, match=message) as caught, open_scan(path) as scan:
        scan.kspace(0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_imaging_lines(writer, kspace):
    writer.line(kspace[0, :, :, 0], flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT])
    refused(writer.save(), ScanDataError, "no imaging lines")


def test_no_acquisitions(writer):
    writer.save()
    refused(writer.path, ScanFormatError, "no data set")


def test_zero_coils(writer, kspace):
    writer.line(kspace[0, :0, :, 0])
    refused(writer.save(), ScanDataError, "number of coils is 0")


def test_coils_that_change(writer, kspace):
    writer.line(kspace[0, :, :, 0])
    writer.line(kspace[0, :2, :, 1], ky=1)
    refused(writer.save(), ScanDataError, r"\[2, 3\] channels")


def test_a_line_outside_the_grid(writer, kspace):
    writer.line(kspace[0, :, :, 0], ky=PHASE)
    refused(writer.save(), ScanDataError, "column 16 of 16")


def test_a_line_longer_than_the_grid(writer, kspace):
    writer.line(np.concatenate([kspace[0, :, :, 0]] * 2, axis=1))
    refused(writer.save(), ScanDataError, "does not fit the readout of 24")


def test_samples_fewer_than_declared(writer, kspace):
    writer.line(kspace[0, :, :, 0])
    with h5py.File(writer.save(), "r+") as file:
        record = file["dataset/data"][0]
        record["head"]["number_of_samples"] = 20
        file["dataset/data"][0] = record
    refused(writer.path, ScanFormatError, "export it again")


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("cartesian", "radial", ScanDataError, "trajectory is 'radial'"),
        ("<x>24</x>", "<x>0</x>", ScanDataError, "matrix x is 0"),
        ("<x>24</x>", "<x>99999999</x>", ScanDataError, "matrix x is 99999999"),
        ("<x>24</x>", "<x>many</x>", ScanFormatError, "'many', not a number"),
        ("<x>24</x>", "", ScanFormatError, "lacks encodedSpace"),
        ("</encoding>", "", ScanFormatError, "not XML"),
    ],
)
def test_bad_headers(writer, kspace, old, new, error, message):
    writer.xml = writer.xml.replace(old, new)
    writer.line(kspace[0, :, :, 0])
    refused(writer.save(), error, message)


def test_nan_in_a_line(writer, kspace):
    kspace[0, 1, 2, 3] = np.nan
    writer.line(kspace[0, :, :, 3], ky=3)
    refused(writer.save(), ScanDataError, "1 NaN or infinite")


def test_a_table_of_another_kind(writer, tmp_path):
    path = tmp_path / "table.h5"
    with h5py.File(path, "w") as file:
        file["dataset/xml"] = writer.xml
        file["dataset/data"] = np.zeros(3, [("head", "f4"), ("data", "f4")])
    refused(path, ScanFormatError, "not a table of ISMRMRD acquisitions")
