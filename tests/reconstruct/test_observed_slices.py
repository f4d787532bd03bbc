"""What a report is told of a slice: what was measured, how samples spread, and which slices."""

from __future__ import annotations

from contextlib import closing

import h5py
import numpy as np
import pytest
from small_scans import SIZE, column_mask, disc, write_dicom, write_fastmri, write_ismrmrd

from ldmpir_edge.errors import UsageError
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.reconstruct import Reconstructor
from ldmpir_edge.reconstruct.samples import deviation, with_detail
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.scans.detect import open_scan


def almost_classical(inputs):
    return 0.99 * inputs["x1"][0]


def observe(reconstructor, path, **options):
    seen = []
    with (
        open_scan(path) as scan,
        closing(reconstructor.stream(scan, observe=seen.append, **options)) as stream,
    ):
        pieces = list(stream)
    assert [finished.piece for finished in seen] == pieces
    return seen


def test_only_the_slices_asked_for_are_made(tmp_path, faked):
    write_fastmri(tmp_path / "a.h5", n_slices=5, acceleration=2)
    reconstructor = faked(almost_classical)
    whole = reconstructor(tmp_path / "a.h5").image
    seen = observe(reconstructor, tmp_path / "a.h5", slices=(4, 1))
    assert [finished.piece.index for finished in seen] == [4, 1]
    np.testing.assert_array_equal([f.piece.image for f in seen], whole[[4, 1]])
    with pytest.raises(UsageError, match="no slice 5"):
        observe(reconstructor, tmp_path / "a.h5", slices=(5,))


def test_an_observer_sees_what_is_delivered(tmp_path, faked):
    write_fastmri(tmp_path / "a.h5", n_slices=2, acceleration=2)

    def answer(inputs):
        return np.full_like(inputs["x1"][0], np.nan if inputs["x1"].mean() > 0.1 else 0.0)

    good = faked(almost_classical)
    for finished in observe(good, tmp_path / "a.h5"):
        expected = np.float32(0.99) * finished.prepared.problem.x1
        np.testing.assert_allclose(finished.planes, expected, rtol=1e-6)
        np.testing.assert_array_equal(
            finished.prepared.to_scan(finished.planes), finished.piece.image
        )
        assert finished.deviation is None
    assert good.seconds["report"] >= 0
    for finished in observe(faked(answer), tmp_path / "a.h5"):
        assert finished.piece.fallback
        np.testing.assert_array_equal(finished.planes, finished.prepared.problem.x1)


def blurred(image, sigma):
    """Convolve with a Gaussian, written as sums over mirrored edges."""
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    result = np.pad(np.float64(image), reach, mode="symmetric")
    for axis in (0, 1):
        result = np.apply_along_axis(np.convolve, axis, result, weights / weights.sum(), "valid")
    return result


def test_the_deviation_is_that_of_samples_with_an_open_start_and_of_detail(tmp_path, real, rng):
    write_dicom(tmp_path / "a.dcm", rng)
    (finished,) = observe(real, tmp_path / "a.dcm", n_samples=3)
    problem, engine = finished.prepared.problem, real.engine("pointwise")
    images = []
    for seed in range(3):
        noise = np.zeros((real.n_steps - 1, *problem.b.shape), np.float32)
        noise[0] = 4 * np.random.default_rng([seed, 0]).standard_normal(noise[0].shape, np.float32)
        planes = engine.run(engine_arrays(problem, real.n_steps, noise))["image"][0]
        images.append(finished.prepared.to_scan(planes))
    spread = blurred(np.var(np.float64(images), axis=0, ddof=1), 2.0)
    image = np.float64(finished.piece.image)
    detail = blurred(image**2, 1.0) - blurred(image, 1.0) ** 2
    expected = np.sqrt(spread + detail)
    np.testing.assert_allclose(finished.deviation, expected, rtol=1e-2, atol=1e-3)
    assert spread.max() > 1
    # The image is the mean's all the same.
    np.testing.assert_array_equal(finished.piece.image, real(tmp_path / "a.dcm").image[0])


def test_a_slice_without_an_image_has_no_deviation(tmp_path, faked):
    write_fastmri(tmp_path / "a.h5")
    with open_scan(tmp_path / "a.h5") as scan:
        seen = []
        stream = faked(almost_classical).stream(
            scan, n_samples=2, withhold=lambda _: "it is late", observe=seen.append
        )
        with closing(stream):
            list(stream)
    assert seen[0].deviation is None


@pytest.mark.parametrize(("n_steps", "n_samples"), [(4, 1), (1, 8)])
def test_samples_that_cannot_differ_are_refused(tmp_path, bundle, n_steps, n_samples):
    write_fastmri(tmp_path / "a.h5")
    with open_scan(tmp_path / "a.h5") as scan, pytest.raises(UsageError, match="no spread"):
        Reconstructor(bundle, n_steps=n_steps).stream(scan, n_samples=n_samples)


def test_the_deviation_does_not_lose_small_spreads():
    levels = 1e4 + 1e-2 * np.arange(5)
    spread = deviation(np.full((2, 1), level) for level in levels)
    assert spread == pytest.approx(1e-2 * np.std(np.arange(5), ddof=1), rel=1e-3)


def test_the_mask_lies_as_the_image_does(tmp_path, rng):
    write_fastmri(tmp_path / "a.h5", acceleration=3)
    with open_scan(tmp_path / "a.h5") as scan:
        measured = prepare_slice(scan, 0, "mri").measured
    # fastMRI's columns are those of k-space.
    np.testing.assert_array_equal(measured, np.tile(column_mask(acceleration=3), (SIZE, 1)))
    write_ismrmrd(tmp_path / "b.h5", rng)
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        lines = file["dataset/data"][...]
        kept = [line for line in lines if line["head"]["idx"]["kspace_encode_step_1"] != 3]
        del file["dataset/data"]
        file["dataset/data"] = np.array(kept, lines.dtype)
    with open_scan(tmp_path / "b.h5") as scan:
        measured = prepare_slice(scan, 0, "mri").measured
    # ISMRMRD's images have phase encoding along their columns.
    missing = np.ones((SIZE, SIZE))
    missing[3] = 0
    np.testing.assert_array_equal(measured, missing)


def test_of_images_the_known_pixels_are_measured(tmp_path):
    image = 1 + disc(SIZE)
    missing = np.zeros(image.shape, bool)
    missing[5:9, 20:40] = True
    np.save(tmp_path / "a.npy", np.where(missing, np.nan, image))
    with open_scan(tmp_path / "a.npy") as scan:
        np.testing.assert_array_equal(prepare_slice(scan, 0, "inpaint").measured, ~missing)
    np.save(tmp_path / "a.npy", image)
    with open_scan(tmp_path / "a.npy") as scan:
        assert prepare_slice(scan, 0, "denoise").measured is None


def test_detail_is_found_on_any_level():
    image = np.tile(np.float32([0, 1]), (8, 4))
    near, far = (with_detail(np.zeros((8, 8), np.float32), image + np.float32(c)) for c in (0, 1e4))
    np.testing.assert_allclose(far, near, rtol=1e-3)
    assert 0.45 < near[4, 4] < 0.5  # of zeros and ones: a half


def test_a_flat_image_has_the_deviation_of_its_samples():
    spread = np.full((8, 8), 3.0, np.float32)
    np.testing.assert_allclose(with_detail(spread, np.full((8, 8), 7.0, np.float32)), spread)
