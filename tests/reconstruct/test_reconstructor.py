"""An image is always delivered, never silently a broken one; a seed repeats it."""

from __future__ import annotations

import numpy as np
import pytest
from small_scans import SIZE, disc, write_dicom, write_fastmri, write_sinogram

import ldmpir_edge
from ldmpir_edge.bundle import SizeLimits
from ldmpir_edge.errors import (
    BackendError,
    BundleError,
    ScanDataError,
    UnsupportedSizeError,
    UsageError,
)
from ldmpir_edge.reconstruct import Reconstructor
from ldmpir_edge.reconstruct.slices import BLANK_NOTE, prepare_slice
from ldmpir_edge.scans.detect import open_scan


def classical(path, task):
    with open_scan(path) as scan:
        prepared = prepare_slice(scan, 0, task)
        return prepared.to_scan(prepared.problem.x1)


def relative(image, truth):
    return float(np.linalg.norm(image - truth) / np.linalg.norm(truth))


def raising(_):
    raise BackendError("the device ran out of memory")


def spike(inputs):
    image = inputs["x1"][0].copy()
    image[0, 0, 0] = 1e6
    return image


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda inputs: np.full_like(inputs["x1"][0], np.nan), "NaN or infinite"),
        (spike, "times the bright end"),
        (lambda inputs: inputs["x1"][0][:, ::-1], "data-consistency residual"),
        (raising, "the device ran out of memory"),
    ],
)
def test_a_bad_engine_image_is_replaced_by_the_classical_one(tmp_path, faked, answer, reason):
    path = tmp_path / "scan.h5"
    write_fastmri(path, acceleration=2)
    recon = faked(answer)(path)
    np.testing.assert_array_equal(recon.image[0], classical(path, "mri"))
    assert reason in recon.checks[0]["fallback"]


def test_only_the_bad_slice_falls_back(tmp_path, faked):
    path = tmp_path / "scan.h5"
    write_fastmri(path, n_slices=3)
    calls = iter(range(3))

    def answer(inputs):
        return inputs["x1"][0] * (np.nan if next(calls) == 1 else 0.999)

    recon = faked(answer)(path)
    assert [bool(check["fallback"]) for check in recon.checks] == [False, True, False]


def test_a_good_engine_image_is_delivered_as_it_is(tmp_path, faked):
    path = tmp_path / "scan.h5"
    write_fastmri(path, n_slices=3)
    seen = []
    reconstructor = faked(lambda inputs: 0.99 * inputs["x1"][0])
    recon = reconstructor(path, on_slice=lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(recon.image[0], 0.99 * classical(path, "mri"), rtol=1e-5)
    assert [check["fallback"] for check in recon.checks] == [None] * 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert (recon.stem, recon.provenance.task, recon.provenance.backend) == ("scan", "mri", "fake")
    assert recon.provenance.software_version == ldmpir_edge.__version__
    assert recon.input_files == (path,)
    assert set(reconstructor.seconds) == {"prepare", "load", "engine", "check"}
    assert reconstructor.reason == "for the test"


def test_the_comparison_shows_the_middle_slice(tmp_path, faked):
    rss = write_fastmri(tmp_path / "scan.h5", n_slices=3, acceleration=3)
    reconstructor = faked(lambda inputs: inputs["x1"][0])
    recon = reconstructor(tmp_path / "scan.h5")
    comparison = reconstructor.comparison
    np.testing.assert_array_equal(comparison.reference, rss[1])
    np.testing.assert_array_equal(comparison.ours, recon.image[1])
    # Zero filling shows the same head, less like the reference than CG-SENSE does.
    assert relative(comparison.ours, rss[1]) < 0.7 * relative(comparison.unreconstructed, rss[1])
    assert np.corrcoef(comparison.unreconstructed.ravel(), rss[1].ravel())[0, 1] > 0.7


def test_the_same_seed_repeats_the_image(real, tmp_path, rng):
    two = np.repeat(write_dicom(tmp_path / "a.dcm", rng), 2, axis=0)
    np.save(tmp_path / "a.npy", two)
    mean, first, again, other = (
        real(tmp_path / "a.npy", seed=seed).image for seed in (None, 7, 7, 8)
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(mean, real(tmp_path / "a.npy").image)
    assert not np.allclose(first, mean)
    assert not np.allclose(first, other)
    # Equal slices have the same mean, and draws of their own.
    np.testing.assert_array_equal(mean[0], mean[1])
    assert not np.allclose(first[0], first[1])
    # A sample is spread about the mean, by no more than the bridge's noise.
    assert relative(first, mean) < 0.2
    assert real(tmp_path / "a.npy", seed=7).provenance.seed == 7


def test_missing_pixels_are_filled(real, tmp_path, rng):
    image = 400 * (1 + disc(SIZE))
    missing = rng.random(image.shape) < 0.2
    np.save(tmp_path / "a.npy", np.where(missing, np.nan, image).astype(np.float32))
    recon = real(tmp_path / "a.npy", task="inpaint")
    assert np.isfinite(recon.image).all()
    assert relative(recon.image[0][~missing], image[~missing]) < 0.05
    assert relative(recon.image[0][missing], image[missing]) < 0.15
    with pytest.raises(ScanDataError, match="NaN"):
        real(tmp_path / "a.npy")


def test_a_slice_without_a_known_pixel_is_refused(real, tmp_path):
    np.save(tmp_path / "a.npy", np.full((SIZE, SIZE), np.nan, np.float32))
    with pytest.raises(ScanDataError, match="no pixel is known"):
        real(tmp_path / "a.npy", task="inpaint")


@pytest.mark.parametrize("task", ["denoise", "super-resolve"])
@pytest.mark.parametrize("value", [0.0, 300.0])
def test_an_empty_slice_of_a_volume_is_delivered_as_it_is(faked, tmp_path, rng, task, value):
    volume = rng.gamma(2.0, 100.0, (3, SIZE, SIZE)).astype(np.float32)
    volume[0] = value
    np.save(tmp_path / "a.npy", volume)
    asked: list[float] = []

    def answer(inputs):
        asked.append(1)
        return inputs["x1"][0]

    recon = faked(answer)(tmp_path / "a.npy", task=task)
    assert len(asked) == 2, "the engine sees the other two"
    np.testing.assert_allclose(recon.image[0], value, rtol=1e-6)
    assert recon.image[1].std() > 10
    assert BLANK_NOTE in recon.notes
    assert all(check["fallback"] is None for check in recon.checks)


def test_a_slice_that_holds_next_to_nothing_is_denoised(real, tmp_path):
    image = np.zeros((SIZE, SIZE), np.float32)
    image[20, 20:23] = 500.0
    np.save(tmp_path / "a.npy", image)
    recon = real(tmp_path / "a.npy")
    assert recon.checks[0]["fallback"] is None
    assert np.unravel_index(recon.image[0].argmax(), image.shape) in [(20, 20), (20, 21), (20, 22)]


@pytest.mark.parametrize(("asked", "factor"), [(None, 2), (4, 4)])
def test_an_enlarged_image_has_smaller_pixels(real, tmp_path, rng, asked, factor):
    write_dicom(tmp_path / "a.dcm", rng)
    recon = real(tmp_path / "a.dcm", task="super-resolve", factor=asked)
    assert recon.image.shape == (1, factor * SIZE, factor * SIZE)
    assert recon.info.pixel_spacing_mm == (0.9 / factor, 0.9 / factor)
    assert recon.provenance.purpose == f"super-resolve x{factor}"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"task": "super-resolve", "factor": 3}, "enlarged by 2 or 4; --factor is 3"),
        ({"factor": 2}, "--factor 2 goes with --task super-resolve, not with denoise"),
    ],
)
def test_a_factor_that_cannot_be_is_refused_at_once(faked, tmp_path, rng, asked, words):
    write_dicom(tmp_path / "a.dcm", rng)
    reconstructor = faked(raising)
    with open_scan(tmp_path / "a.dcm") as scan, pytest.raises(UsageError, match=words):
        reconstructor.stream(scan, **asked)


@pytest.mark.parametrize("shape", [(2000, 32), (32, 1040)])
def test_a_scan_larger_than_the_bundle_takes_is_refused(faked, tmp_path, shape):
    np.save(tmp_path / "a.npy", np.ones(shape, np.float32))
    with pytest.raises(UnsupportedSizeError, match=f"{max(shape)}; this bundle takes 16 to 1024"):
        faked(raising)(tmp_path / "a.npy")


def test_an_image_is_refused_by_its_enlarged_size(faked, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((600, 32), np.float32))
    with pytest.raises(UnsupportedSizeError, match="height is 1200"):
        faked(raising)(tmp_path / "a.npy", task="super-resolve")
    with pytest.raises(UnsupportedSizeError, match="enlarged by 4, the scan's height is 2400"):
        faked(raising)(tmp_path / "a.npy", task="super-resolve", factor=4)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"min_height": 64, "min_width": 64}, "height is 48; this bundle takes 64"),
        ({"max_coils": 2}, "number of coils is 4; this bundle takes 1 to 2"),
    ],
)
def test_a_narrow_bundle_refuses(faked, tmp_path, monkeypatch, limits, words):
    write_fastmri(tmp_path / "a.h5")
    reconstructor = faked(raising)
    wide = reconstructor.bundle.manifest
    narrow = SizeLimits(**wide.limits.model_dump() | limits)
    manifest = wide.model_copy(update={"limits": narrow})
    monkeypatch.setattr(type(reconstructor.bundle), "manifest", manifest)
    with pytest.raises(UnsupportedSizeError, match=words):
        reconstructor(tmp_path / "a.h5")


def test_too_many_views_are_refused(faked, tmp_path, monkeypatch):
    write_sinogram(tmp_path / "a.h5")
    reconstructor = faked(raising)
    wide = reconstructor.bundle.manifest
    narrow = SizeLimits(**wide.limits.model_dump() | {"max_views": 59})
    manifest = wide.model_copy(update={"limits": narrow})
    monkeypatch.setattr(type(reconstructor.bundle), "manifest", manifest)
    with pytest.raises(UnsupportedSizeError, match="number of views is 60"):
        reconstructor(tmp_path / "a.h5")


def test_what_a_bundle_lacks_is_refused_at_once(bundle):
    with pytest.raises(BundleError, match="5 steps"):
        Reconstructor(bundle, n_steps=5)
    with pytest.raises(BundleError, match="5 steps in int8"):
        Reconstructor(bundle, n_steps=5, precision="int8")
    with pytest.raises(UsageError, match="tensorflow"):
        Reconstructor(bundle, backend="tensorflow")
    with pytest.raises(UsageError, match="at least one step"):
        ldmpir_edge.load(n_steps=0)


def test_defaults_are_the_bundle_s(bundle):
    reconstructor = Reconstructor(bundle)
    assert reconstructor.precision == "fp32"
    assert reconstructor.n_steps == bundle.manifest.sampler.default_n_steps
    assert reconstructor.backend == reconstructor.reason == ""


@pytest.mark.parametrize(
    ("name", "stem"), [("scan.h5", "scan"), ("a.b.nii.gz", "a.b"), ("series", "series")]
)
def test_outputs_are_named_after_the_scan(faked, tmp_path, rng, name, stem):
    import nibabel

    path = tmp_path / name
    if name == "series":
        path.mkdir()
        write_dicom(path / "1.dcm", rng)
    elif name.endswith(".gz"):
        nibabel.save(nibabel.Nifti1Image(1 + disc(SIZE)[..., None], np.eye(4)), path)
    else:
        write_fastmri(path)
    assert faked(lambda inputs: inputs["x1"][0])(path).stem == stem
