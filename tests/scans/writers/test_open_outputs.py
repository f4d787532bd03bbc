"""Outputs that are written while slices are made: whole or not at all, whoever fails."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.errors import OutputError, ScanDataError, ShapeError, UsageError
from ldmpir_edge.scans import write
from ldmpir_edge.scans.display import display_window
from ldmpir_edge.scans.model import ScanInfo, SlicePlane
from ldmpir_edge.scans.reconstruction import Reconstruction
from ldmpir_edge.scans.write import FORMATS, open_outputs, write_outputs
from ldmpir_edge.scans.writers import volume_page, window


@pytest.fixture
def volume(rng, provenance) -> Reconstruction:
    image = rng.gamma(2.0, 3.0, (6, 20, 24)).astype(np.float32)
    return Reconstruction(image=image, info=ScanInfo("mr"), stem="brain", provenance=provenance)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [ScanDataError("NaN"), KeyboardInterrupt(), OSError(5, "scan")])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_an_error_of_the_reconstruction_leaves_nothing(volume, tmp_path, error, at):
    out = tmp_path / "new" / "out"
    with pytest.raises(type(error)) as caught, open_outputs(volume.header, out, FORMATS) as outputs:
        for piece in volume.slices():
            if piece.index == at:
                raise error
            outputs.add(piece)
    # An OSError of the scan must not be taken for one of the output.
    assert caught.value is error
    assert _names(tmp_path) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("ldmpir-write")]


def test_an_error_leaves_the_earlier_outputs(volume, tmp_path):
    before = {path: path for path in write_outputs(volume, tmp_path, FORMATS)}
    held = {path: path.read_bytes() for path in before if path.is_file()}
    with pytest.raises(ScanDataError), open_outputs(volume.header, tmp_path, FORMATS) as outputs:
        outputs.add(next(volume.slices()))
        raise ScanDataError("slice 1 is broken")
    assert {path: path.read_bytes() for path in held} == held
    assert _names(tmp_path) == sorted(path.name for path in before)
    assert len(_names(tmp_path / "brain")) == 6


def _full_after(n_slices: int) -> write.Writer:
    def writer(header, target):
        with atomic_file(target) as temporary:
            temporary.write_bytes(b"begun")
            for index in range(header.n_slices):
                yield
                if index == n_slices:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return writer


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_full_disk_names_its_output_and_leaves_nothing(volume, tmp_path, monkeypatch, at):
    real = write._writer
    monkeypatch.setattr(write, "_writer", lambda n: _full_after(at) if n == "h5" else real(n))
    with pytest.raises(OutputError, match=r"brain\.h5: the disk is full"):
        write_outputs(volume, tmp_path / "out", ["h5", "dicom", "nii"])
    assert _names(tmp_path) == []


def test_what_cannot_be_written_is_refused_before_the_first_slice(volume, tmp_path):
    planes = tuple(
        SlicePlane((0.0, 0.0, float(z * z)), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)) for z in range(6)
    )
    uneven = replace(volume, info=replace(volume.info, planes=planes)).header
    (tmp_path / "brain").mkdir()
    (tmp_path / "brain" / "thesis.txt").write_text("years of work")
    (tmp_path / "brain.npy").mkdir()
    scan = tmp_path / "brain.h5"
    scan.write_bytes(b"raw data")
    for header, name, error, words in (
        (volume.header, "tiff", UsageError, "unknown output format tiff"),
        (uneven, "nii", OutputError, "evenly spaced"),
        (volume.header, "dicom", OutputError, "thesis.txt"),
        (volume.header, "npy", OutputError, "Is a directory"),
        (replace(volume, input_files=(scan,)).header, "h5", OutputError, "would replace the scan"),
    ):
        with (
            pytest.raises(error, match=words),
            open_outputs(header, tmp_path, ["png", name]),
        ):
            pytest.fail("the block was entered")
    assert _names(tmp_path) == ["brain", "brain.h5", "brain.npy"]


def test_a_format_that_may_be_left_out_costs_no_other(volume, tmp_path, monkeypatch):
    monkeypatch.setattr(volume_page, "MAX_VOXELS", 1)
    with write.open_outputs(volume.header, tmp_path, ["viewer", "npy"], ["viewer"]) as outputs:
        for piece in volume.slices():
            outputs.add(piece)
    assert [path.suffix for path in outputs.paths] == [".npy"]
    assert "a page holds 1 voxels" in outputs.left_out[0]
    assert _names(tmp_path) == [f"{volume.header.stem}.npy"]
    # One has to hold it, and what is wrong with the disk is no fault of the format.
    with (
        pytest.raises(OutputError, match="a page holds"),
        write.open_outputs(volume.header, tmp_path, ["viewer"], ["viewer"]),
    ):
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError),
        write.open_outputs(volume.header, tmp_path / "file" / "x", ["viewer", "npy"], ["viewer"]),
    ):
        pass


def test_slices_must_be_those_of_the_header(volume, tmp_path):
    first, second, *_ = volume.slices()
    for given, words in (
        ([second], r"slice 1 with shape \(20, 24\) was given; the output expects slice 0"),
        ([first, first], "expects slice 1"),
        ([replace(first, image=first.image.T)], r"shape \(24, 20\)"),
        ([first, second], "2 slices were given of 6"),
        ([*volume.slices(), replace(first, index=6)], "all 6 slices were given already"),
    ):
        out = tmp_path / str(len(given)) / words[:9]
        with (
            pytest.raises(ShapeError, match=words),
            open_outputs(volume.header, out, FORMATS) as outputs,
        ):
            for piece in given:
                outputs.add(piece)


def test_writing_does_not_hold_up_its_caller(volume, tmp_path, monkeypatch):
    pause = 0.05

    def slow(header, target):
        for _ in range(header.n_slices):
            yield
            time.sleep(pause)

    monkeypatch.setattr(write, "_writer", lambda _: slow)
    started = time.perf_counter()
    with open_outputs(volume.header, tmp_path, ["npy"]) as outputs:
        for piece in volume.slices():
            outputs.add(piece)
            time.sleep(pause)
    # One after the other takes 12 pauses; overlapped 7.
    assert time.perf_counter() - started < 10 * pause
    assert outputs.seconds >= 6 * pause


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no files without a name")
def test_a_killed_process_leaves_no_pixels_waiting(volume, tmp_path):
    with open_outputs(volume.header, tmp_path, ["dicom"]) as outputs:
        for piece in volume.slices():
            outputs.add(piece)
            if piece.index == 4:
                (temporary,) = tmp_path.iterdir()
                assert list(temporary.iterdir()) == []
    assert len(_names(tmp_path / "brain")) == 6


def test_nifti_is_what_nibabel_writes(mr, tmp_path):
    (path,) = write_outputs(mr, tmp_path, ["nii"])
    ours = nibabel.load(path)
    theirs = nibabel.Nifti1Image(np.transpose(mr.image, (2, 1, 0)), ours.affine)
    theirs.header.set_xyzt_units("mm")
    theirs.set_sform(ours.affine, 1)
    theirs.set_qform(ours.affine, 1)
    theirs.header["descrip"] = ours.header["descrip"]
    nibabel.save(theirs, tmp_path / "theirs.nii.gz")
    theirs = nibabel.load(tmp_path / "theirs.nii.gz")
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())
    assert bytes(ours.header.binaryblock) == bytes(theirs.header.binaryblock)


def test_a_small_volume_s_window_counts_every_pixel(rng):
    image = rng.gamma(2.0, 3.0, (6, 20, 24)).astype(np.float32)
    sample = window.WindowSample(6)
    for slice_ in image:
        sample.add(slice_)
    assert sample.window("mr") == display_window(image, "mr")


def test_a_large_volume_s_window_is_that_of_its_brightest_half_percent(rng):
    sample, volume = window.WindowSample(40), []
    for index in range(40):
        # Stripes and a brightness that differs by slice: a regular sample would miss both.
        image = (1 + index % 7) * rng.gamma(2.0, 1.0, (256, 256)).astype(np.float32)
        image[:, ::4] *= 3
        volume.append(image)
        sample.add(image)
    black, white = sample.window("mr")
    assert black == 0.0
    assert np.mean(np.array(volume) > white) == pytest.approx(0.005, rel=0.05)
