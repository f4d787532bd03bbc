"""Sample scans: deterministic, valid for foreign readers, and consistent with their reference."""

from __future__ import annotations

import astra
import ismrmrd
import ismrmrd.xsd
import numpy as np
import pydicom
import pytest

from ldmpir_edge.errors import OutputError, UsageError
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.sample import write_mri_slice, write_sample


def test_the_folder_holds_the_samples_and_nothing_else(samples):
    folder = samples["mri"].parent
    assert sorted(folder.iterdir()) == sorted(samples.values())


@pytest.mark.parametrize("kind", ["ct", "dicom"])
def test_a_seed_repeats_the_content(samples, kind, tmp_path):
    def values(path):
        with open_scan(path) as scan:
            return scan.sinogram(0) if kind == "ct" else scan.image(0)

    again, other = (write_sample(kind, tmp_path / str(s), seed=s) for s in (3, 4))
    np.testing.assert_array_equal(values(again), values(samples[kind]))
    assert not np.array_equal(values(other), values(samples[kind]))


def test_mri_is_four_fold_undersampled_with_its_reference(samples):
    with open_scan(samples["mri"]) as scan:
        assert (scan.n_slices, scan.n_coils, scan.image_shape) == (3, 8, (256, 256))
        kspace, reference = scan.kspace(1), scan.reference(1)
        columns = (kspace != 0).any(axis=(0, 1))
        np.testing.assert_array_equal(columns, scan.mask)
        assert 3 < columns.size / columns.sum() < 4
        assert columns[118:138].all()
    # Zero filling, as fastMRI's own code would: blurred, but on the scale of the reference.
    axes = (-2, -1)
    shifted = np.fft.ifftshift(kspace, axes=axes)
    images = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=axes)
    zero_filled = np.sqrt(np.sum(np.abs(images) ** 2, axis=0))[128:384]
    assert np.corrcoef(zero_filled.ravel(), reference.ravel())[0, 1] > 0.9
    assert zero_filled.sum() == pytest.approx(reference.sum(), rel=0.3)


def test_mri_noise_has_the_level_that_was_simulated(samples):
    with open_scan(samples["mri"]) as scan:
        kspace = scan.kspace(0)
    outer = kspace[:, :16, 1:30]
    assert outer[outer != 0].real.std() == pytest.approx(0.01, rel=0.1)


def test_ismrmrd_package_reads_its_sample(samples):
    dataset = ismrmrd.Dataset(str(samples["ismrmrd"]), "dataset", mode="r")
    header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
    assert header.encoding[0].encodedSpace.matrixSize.x == 512
    first = dataset.read_acquisition(0)
    assert first.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    assert first.data.shape == (8, 512)
    dataset.close()


def test_ismrmrd_noise_scan_shows_correlated_coils(samples):
    with open_scan(samples["ismrmrd"]) as scan:
        correlation = np.abs(np.corrcoef(scan.noise_samples))
        assert correlation[~np.eye(8, dtype=bool)].max() > 0.1
        assert scan.rows_are_phase
        assert [plane.position_mm[2] for plane in scan.info.planes] == [-10, 0, 10]


@pytest.mark.parametrize("kind", ["ct", "ct-fan"])
def test_sinogram_is_the_projection_of_its_reference(samples, kind):
    with open_scan(samples[kind]) as scan:
        sinogram, reference, geometry = scan.sinogram(1), scan.reference(1), scan.geometry
        mu = (reference + 1000) / 1000 * scan.mu_water_per_mm
        pixel = scan.pixel_spacing_mm
    height, width = mu.shape
    extent = (-width * pixel / 2, width * pixel / 2, -height * pixel / 2, height * pixel / 2)
    volume = astra.create_vol_geom(height, width, *extent)
    parallel = geometry.kind == "parallel"
    projection = astra.create_proj_geom(
        "parallel" if parallel else "fanflat",
        geometry.detector_spacing_mm,
        geometry.n_detectors,
        geometry.angles_rad,
        *(() if parallel else (geometry.source_origin_mm, geometry.origin_detector_mm)),
    )
    projector = astra.create_projector("linear" if parallel else "line_fanflat", projection, volume)
    identifier, expected = astra.create_sino(mu, projector)
    astra.data2d.delete(identifier)
    astra.projector.delete(projector)
    assert np.linalg.norm(sinogram - expected) < 0.03 * np.linalg.norm(expected)
    # Photon noise: e^p / I0 in variance where the attenuation p is largest.
    centre = np.abs(expected - 4.0) < 0.2
    assert 0.5 < (sinogram - expected)[centre].std() / np.sqrt(np.exp(4.0) / 2e5) < 2.5


def test_dicom_is_complete(samples):
    ds = pydicom.dcmread(samples["dicom"])
    assert ds.pixel_array.shape == (256, 256)
    assert ds.SOPClassUID.name == "MR Image Storage"
    # Rician background: the mean of a Rayleigh distribution of 50 grey levels.
    assert ds.pixel_array[:12].mean() == pytest.approx(50 * np.sqrt(np.pi / 2), rel=0.05)


def test_unknown_kind_and_unwritable_folder(tmp_path):
    with pytest.raises(UsageError, match="choose one of mri"):
        write_sample("pet", tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        write_sample("dicom", tmp_path / "file")


def test_one_slice_of_the_same_size_shows_the_middle_of_the_sample(samples, tmp_path):
    write_mri_slice(tmp_path / "a.h5", 256, 8, seed=3)
    with open_scan(tmp_path / "a.h5") as scan, open_scan(samples["mri"]) as sample:
        assert scan.n_slices == 1
        # The phase is another draw, which moves the ringing at edges a little.
        ours, theirs = scan.reference(0), sample.reference(1)
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)


def test_one_slice_may_have_another_size_and_other_coils(tmp_path):
    write_mri_slice(tmp_path / "a.h5", 97, 5)
    with open_scan(tmp_path / "a.h5") as scan:
        assert (scan.n_slices, scan.n_coils, scan.image_shape) == (1, 5, (97, 97))
        columns = (scan.kspace(0) != 0).any(axis=(0, 1))
        np.testing.assert_array_equal(columns, scan.mask)
        assert scan.mask.sum() == pytest.approx(20 + 77 / 4, abs=2)
