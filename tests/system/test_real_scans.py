"""Scans that real scanners made, from the files to validated DICOM."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pydicom
import pytest
from command_line import ldmpir_edge
from dicom_validator import dciodvfy_errors
from scipy.ndimage import binary_erosion, gaussian_filter

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.fourier import centred_fft, centred_ifft
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.runtimes import load_engine
from ldmpir_edge.scans.detect import open_scan

HEADER = """<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<experimentalConditions><H1resonanceFrequency_Hz>127728000</H1resonanceFrequency_Hz>
</experimentalConditions>
<encoding><encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>{x}</x><y>{y}</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>{x}</x><y>{y}</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum>
<center>{centre}</center></kspace_encoding_step_1></encodingLimits>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


@pytest.fixture(scope="session", autouse=True)
def _private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDMPIR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="module")
def brain(shared_data: Path) -> np.ndarray:
    """`(8, 230, 180)` complex64 k-space of a brain, 12 % sampled, as the scanner wrote it."""
    kspace: np.ndarray = np.load(shared_data / "raw" / "brain8ch_kspace.npy")
    assert kspace.shape == (8, 230, 180)
    return kspace


def pack_fastmri(path: Path, kspace: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace[None]


def pack_ismrmrd(path: Path, kspace: np.ndarray) -> None:
    _, readout, phase = kspace.shape
    header = HEADER.format(x=readout, y=phase, last=phase - 1, centre=phase // 2)
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as dataset:
        dataset.write_xml_header(header.encode())
        for column in range(phase):
            line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(kspace[:, :, column]))
            line.center_sample = readout // 2
            line.idx.kspace_encode_step_1 = column
            line.read_dir[:], line.phase_dir[:], line.slice_dir[:] = (1, 0, 0), (0, 1, 0), (0, 0, 1)
            dataset.append_acquisition(line)


@dataclass(frozen=True)
class Reconstructed:
    """A run's image in k-space's order of axes, beside the zero-filled image."""

    folder: Path
    image: np.ndarray
    zero_filled: np.ndarray


@pytest.fixture(scope="module", params=["fastmri", "ismrmrd"])
def reconstructed(request, brain, tmp_path_factory) -> Reconstructed:
    folder = tmp_path_factory.mktemp(request.param)
    pack = pack_fastmri if request.param == "fastmri" else pack_ismrmrd
    pack(folder / "brain.h5", brain)
    report = ldmpir_edge(
        "run", folder / "brain.h5", "-o", folder / "out", "--format", "npy,dicom", "--json",
        "--backend", "onnxruntime",
    ).report  # fmt: skip
    assert report["checks"][0]["fallback"] is None
    image = np.load(folder / "out" / "brain.npy")[0]
    if request.param == "ismrmrd":
        image = image.T
    zero_filled = np.sqrt(np.sum(np.abs(centred_ifft(brain, (-2, -1))) ** 2, axis=0))
    return Reconstructed(folder / "out", image, zero_filled)


def test_aliasing_leaves_the_background(reconstructed):
    image, zero_filled = reconstructed.image, reconstructed.zero_filled
    assert image.shape == zero_filled.shape == (230, 180)
    # Air: where the zero-filled image, smoothed, is far below the head.
    smooth = gaussian_filter(zero_filled, 6)
    air = binary_erosion(smooth < 0.15 * np.percentile(smooth, 99), iterations=3)
    head = smooth > 0.4 * np.percentile(smooth, 99)
    assert air.sum() > 2000
    assert head.sum() > 5000

    def share(values: np.ndarray) -> float:
        return float(np.mean(values[air] ** 2) / np.mean(values[head] ** 2))

    assert share(image) < 0.5 * share(zero_filled)
    # It is the same head: brightness and structure follow the zero-filled image's.
    both = [gaussian_filter(values, 4)[head] for values in (image, zero_filled)]
    assert np.corrcoef(both)[0, 1] > 0.8


def test_both_outputs_are_valid_dicom(reconstructed):
    (path,) = (reconstructed.folder / "brain").glob("*.dcm")
    assert dciodvfy_errors(path) == []
    ds = pydicom.dcmread(path)
    assert ds.Modality == "MR"
    assert ds.ImageType[:2] == ["ORIGINAL", "PRIMARY"]


def test_samples_that_were_held_back_are_predicted(brain, tmp_path, rng):
    """The one question that data without a reference can answer: what was not shown to it."""
    sampled = np.flatnonzero((brain != 0).any(axis=0))
    rows, columns = np.unravel_index(sampled, (230, 180))
    distance = np.hypot(rows - 115, columns - 90)
    # Not from the centre, which the coil maps come from.
    candidates = sampled[distance > 16]
    held = rng.choice(candidates, size=len(sampled) // 20, replace=False)
    shown = brain.copy()
    shown.reshape(8, -1)[:, held] = 0
    pack_fastmri(tmp_path / "brain.h5", shown)

    with open_scan(tmp_path / "brain.h5") as scan:
        prepared = prepare_slice(scan, 0, "mri")
    problem = prepared.problem
    maps = problem.tables["csm"][:, 0] + 1j * problem.tables["csm"][:, 1]
    top, left, height, width = problem.crop

    def predict(planes: np.ndarray) -> np.ndarray:
        coils = maps * (planes[0] + 1j * planes[1]) * problem.scale
        kspace = centred_fft(coils[:, top : top + height, left : left + width], (-2, -1))
        return kspace.reshape(8, -1)[:, held]

    truth = brain.reshape(8, -1)[:, held]
    variant = open_bundle("ldmpir-2m").extract(problem.family, 4, "fp32")
    with load_engine(variant, "onnxruntime") as engine:
        image = engine.run(engine_arrays(problem, 4))["image"][0]
    error = np.linalg.norm(predict(image) - truth) / np.linalg.norm(truth)
    # Zero filling predicts nothing: its error is all of the signal.
    assert error < 0.8


@pytest.mark.parametrize("series", ["mr-datalad", "ct-lidc0003"])
def test_a_real_series_is_denoised(shared_data, tmp_path, series):
    files = sorted((shared_data / "dicom" / series).glob("*.dcm"))[:2]
    assert len(files) == 2
    scan, out = tmp_path / series, tmp_path / "out"
    scan.mkdir()
    for path in files:
        shutil.copy(path, scan)
    report = ldmpir_edge(
        "run", scan, "-o", out, "--format", "npy,dicom", "--json", "--backend", "onnxruntime",
        "--steps", "1",
    ).report  # fmt: skip
    assert [check["fallback"] for check in report["checks"]] == [None, None]
    image = np.load(out / f"{series}.npy")
    sources = [pydicom.dcmread(path) for path in files]
    sources.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    before = np.stack(
        [
            ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
            for ds in sources
        ]
    )
    assert image.shape == before.shape
    # On the input's scale: the same tissue has the same value, within a fraction of its noise.
    body = before > np.percentile(before, 60)
    assert np.median(image[body] - before[body]) == pytest.approx(
        0, abs=0.03 * np.ptp(before[body])
    )
    either_way = [
        np.corrcoef(volume.ravel(), before.ravel())[0, 1] for volume in (image, image[::-1])
    ]
    assert max(either_way) > 0.95
    written = sorted((out / series).glob("*.dcm"))
    assert len(written) == 2
    for path in written:
        assert dciodvfy_errors(path) == []
        ds = pydicom.dcmread(path)
        assert ds.ImageType[:2] == ["DERIVED", "PRIMARY"]
        assert (ds.Rows, ds.Columns) == before.shape[1:]
        assert ds.StudyInstanceUID == sources[0].StudyInstanceUID
        assert list(ds.PixelSpacing) == pytest.approx(list(sources[0].PixelSpacing))
