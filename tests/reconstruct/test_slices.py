"""From a scan to the engine and back: the values and the geometry that a user gets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_scans import (
    CT_SIZE,
    SIZE,
    coil_images,
    disc,
    oversampled_kspace,
    root_sum_of_squares,
    write_dicom,
    write_fastmri,
    write_ismrmrd,
    write_sinogram,
)

from ldmpir_edge.errors import UsageError
from ldmpir_edge.physics.noise import add_gaussian
from ldmpir_edge.physics.superresolution import BlurDecimateOp
from ldmpir_edge.reconstruct.slices import (
    RICIAN_NOTE,
    PreparedSlice,
    least_grid,
    likely_family,
    output_info,
    output_shape,
    prepare_slice,
    resolve_task,
)
from ldmpir_edge.scans import sample_files
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import ScanInfo, SlicePlane


def relative(image, truth):
    return float(np.linalg.norm(image - truth) / np.linalg.norm(truth))


def classical(prepared: PreparedSlice) -> np.ndarray:
    return prepared.to_scan(prepared.problem.x1)


def as_it_came(prepared):
    return prepared.to_scan(prepared.unreconstructed)


def test_mri_has_the_scale_of_the_root_sum_of_squares(tmp_path):
    rss = write_fastmri(tmp_path / "a.h5")
    with open_scan(tmp_path / "a.h5") as scan:
        prepared = prepare_slice(scan, 0, "mri")
    assert (prepared.problem.family, prepared.n_coils) == ("cartesian1d", 4)
    assert prepared.problem.task == "mri"
    # Classical, since fully sampled: what the engine is given, mapped back, is the image.
    image = classical(prepared)
    assert (image.dtype, image.shape) == (np.float32, (SIZE, SIZE))
    assert relative(image, rss[0]) < 0.03


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("mri", "mri"),
        ("parallel", "ct"),
        ("fan-equidistant", "ct"),
        ("image", "denoise"),
        ("image", "super-resolve"),
    ],
)
def test_the_family_is_guessed_before_anything_is_read(tmp_path, kind, task):
    path = tmp_path / "scan.h5"
    if kind == "mri":
        write_fastmri(path)
    elif kind == "image":
        path = tmp_path / "scan.npy"
        np.save(path, disc(SIZE).astype(np.float32))
    else:
        write_sinogram(path, kind)
    with open_scan(path) as scan:
        assert likely_family(scan, task) == prepare_slice(scan, 0, task).problem.family


def test_whitening_is_undone_and_ismrmrd_is_transposed(tmp_path, rng):
    rss = write_ismrmrd(tmp_path / "a.h5", rng)
    with open_scan(tmp_path / "a.h5") as scan:
        prepared = prepare_slice(scan, 0, "mri")
    # Whitened data have unit noise: far from the scale of the scan.
    assert prepared.problem.noise_level * prepared.problem.scale == pytest.approx(1.0)
    image = classical(prepared)
    assert relative(image, rss[0]) < 0.03
    assert relative(image.T, rss[0]) > 0.3  # the phantom would show a transposition


def test_coil_compression_keeps_the_scale(tmp_path, rng):
    images = coil_images(n_coils=12)[None]
    white = rng.standard_normal((2, 12, 16 * 2 * SIZE)) * 1e-6
    noise = (white[0] + 1j * white[1]).astype(np.complex64)
    path = tmp_path / "a.h5"
    sample_files.write_ismrmrd(path, oversampled_kspace(images), np.ones(SIZE, bool), noise)
    with open_scan(path) as scan:
        prepared = prepare_slice(scan, 0, "mri")
    assert prepared.n_coils == 8
    assert any("12 coils compressed to 8" in note for note in prepared.notes)
    assert relative(classical(prepared), root_sum_of_squares(images)[0].T) < 0.03


def test_two_dimensional_sampling_crops_the_oversampled_readout(tmp_path, rng):
    images = coil_images()[None]
    holes = rng.random((2 * SIZE, SIZE)) < 0.2
    holes[SIZE - 12 : SIZE + 12, SIZE // 2 - 12 : SIZE // 2 + 12] = False
    kspace = oversampled_kspace(images) * ~holes
    rss = root_sum_of_squares(images)
    sample_files.write_fastmri(tmp_path / "a.h5", kspace, rss, np.ones(SIZE, bool))
    with open_scan(tmp_path / "a.h5") as scan:
        # The samples that are not zero decide where the file's mask says "all columns".
        prepared = prepare_slice(replace(scan, mask=None), 0, "mri")
    assert prepared.problem.family == "separable"
    assert prepared.problem.b.shape == (2, 2 * SIZE, SIZE)
    assert relative(classical(prepared), rss[0]) < 0.05


@pytest.mark.parametrize("kind", ["parallel", "fan-equidistant"])
def test_ct_is_in_hounsfield_units(tmp_path, kind):
    hu = write_sinogram(tmp_path / "a.h5", kind)
    with open_scan(tmp_path / "a.h5") as scan:
        prepared = prepare_slice(scan, 0, "ct")
    assert (prepared.n_coils, prepared.n_views) == (1, 60)
    # Values the engine works in: µ in halves of water's 2 µ, that is (HU + 1000) / 2000.
    planes = np.zeros_like(prepared.problem.b)
    top, left, height, width = prepared.problem.crop
    planes[0, top : top + height, left : left + width] = (hu[0] + 1000) / 2000
    np.testing.assert_allclose(prepared.to_scan(planes), hu[0], atol=1e-3)
    # And the sinogram itself leads there: water reads 0, air −1000.
    image = classical(prepared)
    assert abs(np.median(image[np.abs(hu[0]) < 1])) < 30
    assert abs(np.median(image[hu[0] < -999]) + 1000) < 60
    assert image.shape == (CT_SIZE, CT_SIZE)


def test_an_image_keeps_its_unit(tmp_path, rng):
    noisy = write_dicom(tmp_path / "a.dcm", rng)
    with open_scan(tmp_path / "a.dcm") as scan:
        prepared = prepare_slice(scan, 0, "denoise")
    np.testing.assert_allclose(as_it_came(prepared), noisy[0], atol=1e-2)
    # The imaginary plane is no part of an image.
    planes = prepared.unreconstructed.copy()
    planes[1] = 7.0
    np.testing.assert_allclose(prepared.to_scan(planes), noisy[0], atol=1e-2)


def test_a_magnitude_over_noise_is_freed_of_its_bias_and_says_so(tmp_path, rng):
    image = 100 * disc(SIZE).astype(np.float32)
    noisy = np.abs(add_gaussian(image.astype(np.complex64), 5.0, rng)).astype(np.float32)
    np.save(tmp_path / "a.npy", noisy)
    with open_scan(tmp_path / "a.npy") as scan:
        prepared = prepare_slice(scan, 0, "denoise")
    assert prepared.notes == (RICIAN_NOTE,)
    np.testing.assert_allclose(as_it_came(prepared), noisy, atol=1e-3)
    dark = image == 0
    assert noisy[dark].mean() > 6
    assert classical(prepared)[dark].mean() < 4


@pytest.mark.parametrize(("shift", "lowest"), [(0.0, 0.0), (-0.5, -0.75)])
def test_a_magnitude_never_turns_negative(tmp_path, rng, shift, lowest):
    image = rng.random((20, 20)).astype(np.float32) + np.float32(shift)
    np.save(tmp_path / "a.npy", image)
    with open_scan(tmp_path / "a.npy") as scan:
        prepared = prepare_slice(scan, 0, "denoise")
    planes = np.full_like(prepared.problem.x1, -0.75 / prepared.problem.scale)
    np.testing.assert_allclose(prepared.to_scan(planes), lowest, atol=1e-6)


def test_hounsfield_images_are_told_by_their_air(tmp_path, rng):
    hu = (rng.uniform(-1000, 1200, (20, 24))).astype(np.float32)
    np.save(tmp_path / "a.npy", hu)
    with open_scan(tmp_path / "a.npy") as scan:
        prepared = prepare_slice(scan, 0, "denoise")
    assert prepared.problem.modality == "ct"
    assert prepared.problem.b[0, :20, :24].max() == pytest.approx((hu.max() + 1000) / 2000)
    np.testing.assert_allclose(as_it_came(prepared), hu, atol=1e-2)


def test_missing_pixels_are_those_that_are_nan(tmp_path, rng):
    image = 500 * disc(SIZE) + 1
    missing = rng.random(image.shape) < 0.3
    np.save(tmp_path / "a.npy", np.where(missing, np.nan, image))
    with open_scan(tmp_path / "a.npy") as scan:
        prepared = prepare_slice(scan, 0, "inpaint")
    mask = prepared.problem.tables["mask"][:SIZE, :SIZE]
    np.testing.assert_array_equal(mask, ~missing)
    filled = classical(prepared)
    np.testing.assert_allclose(filled[~missing], image[~missing], rtol=1e-5)
    assert np.isfinite(filled).all()


@pytest.mark.parametrize(("asked", "factor"), [(None, 2), (2, 2), (4, 4)])
def test_super_resolution_multiplies_the_matrix(tmp_path, asked, factor):
    fine = 1 + disc(factor * SIZE).astype(np.float64)
    coarse = BlurDecimateOp(fine.shape, factor).forward(fine)
    np.save(tmp_path / "a.npy", coarse.astype(np.float32))
    with open_scan(tmp_path / "a.npy") as scan:
        prepared = prepare_slice(scan, 0, "super-resolve", asked)
        assert output_shape(scan, "super-resolve", asked) == fine.shape
    image = classical(prepared)
    assert image.shape == fine.shape
    assert relative(image, fine) < 0.1
    assert relative(np.roll(image, factor, axis=1), fine) > relative(image, fine)


@pytest.mark.parametrize(
    ("write", "task"),
    [
        (write_fastmri, "ct"),
        (write_fastmri, "denoise"),
        (write_sinogram, "mri"),
        (write_sinogram, "inpaint"),
        (lambda path: write_dicom(path, np.random.default_rng(0)), "mri"),
        (lambda path: write_dicom(path, np.random.default_rng(0)), "ct"),
    ],
)
def test_a_task_of_another_kind_of_scan_is_refused(tmp_path, write, task):
    write(tmp_path / "a.scan")
    with (
        open_scan(tmp_path / "a.scan") as scan,
        pytest.raises(UsageError, match=f"--task {task} (needs raw data|takes images)") as caught,
    ):
        resolve_task(scan, task)
    assert "\n" not in str(caught.value)


def test_the_task_follows_from_the_scan(tmp_path, rng):
    for write, expected in (
        (write_fastmri, "mri"),
        (write_sinogram, "ct"),
        (lambda path: write_dicom(path, rng), "denoise"),
    ):
        write(tmp_path / "a.scan")
        with open_scan(tmp_path / "a.scan") as scan:
            assert resolve_task(scan, None) == expected
            assert resolve_task(scan, expected) == expected
    with open_scan(tmp_path / "a.scan") as scan:
        assert resolve_task(scan, "super-resolve") == "super-resolve"


@pytest.mark.parametrize("factor", [2, 4])
def test_fine_pixels_tile_the_coarse_ones(factor):
    row, column = (0.8, 0.6, 0.0), (-0.36, 0.48, 0.8)
    plane = SlicePlane((-40.0, 12.5, 7.25), row, column)
    info = ScanInfo(modality="mr", pixel_spacing_mm=(0.7, 1.1), planes=(plane,))
    fine = output_info(info, "super-resolve", factor)

    def centre(info: ScanInfo, i: int, j: int) -> np.ndarray:
        # DICOM PS3.3 C.7.6.2.1.1: column index steps along the row direction.
        (row_mm, column_mm), plane = info.pixel_spacing_mm, info.planes[0]
        return (
            np.array(plane.position_mm)
            + j * column_mm * np.array(plane.row_direction)
            + i * row_mm * np.array(plane.column_direction)
        )

    for i, j in ((0, 0), (3, 5)):
        within = [(di, dj) for di in range(factor) for dj in range(factor)]
        tiles = [centre(fine, factor * i + di, factor * j + dj) for di, dj in within]
        np.testing.assert_allclose(np.mean(tiles, axis=0), centre(info, i, j), atol=1e-9)
    assert output_info(info, "denoise") == info
    unknown = ScanInfo(modality="mr")
    assert output_info(unknown, "super-resolve") == unknown


def test_the_least_grid_never_exceeds_the_grid(tmp_path, rng):
    np.save(tmp_path / "a.npy", 1 + rng.random((20, 50)))
    write_ismrmrd(tmp_path / "b.h5", rng)
    write_sinogram(tmp_path / "c.h5", "fan-equidistant")
    for name, task in (
        ("a.npy", "denoise"),
        ("a.npy", "super-resolve"),
        ("b.h5", "mri"),
        ("c.h5", "ct"),
    ):
        with open_scan(tmp_path / name) as scan:
            least = least_grid(scan, task)
            grid = prepare_slice(scan, 0, task).problem.b.shape[1:]
        assert all(a <= b for a, b in zip(least, grid, strict=True))
        assert all(side % 16 == 0 for side in least)
    assert least_grid(scan, "ct") == (CT_SIZE, CT_SIZE)
