"""Every kind of image file is read; a bad one is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.training.images import load_folder

RAMP = (np.arange(2 * 5 * 7).reshape(2, 5, 7) * 50).astype(np.int16)


def one(folder: Path):
    (stack,) = load_folder(folder)
    return stack


def test_npz_with_and_without_a_unit(tmp_path):
    np.savez(tmp_path / "a.npz", slices=RAMP - 1000, meta=json.dumps({"unit": "HU"}))
    np.savez(tmp_path / "b.npz", slices=RAMP, meta=json.dumps({"unit": "arbitrary"}))
    np.savez_compressed(tmp_path / "c.npz", slices=RAMP)
    stacks = load_folder(tmp_path)
    assert [(s.name, s.modality) for s in stacks] == [("a", "ct"), ("b", "mr"), ("c", "mr")]
    np.testing.assert_array_equal(stacks[0].slices, RAMP - 1000)


def test_npy_of_one_image_or_of_slices(tmp_path):
    np.save(tmp_path / "stack.npy", RAMP)
    np.save(tmp_path / "image.NPY.npy", RAMP[1])
    image, stack = load_folder(tmp_path)
    np.testing.assert_array_equal(image.slices, RAMP[1:])
    np.testing.assert_array_equal(stack.slices, RAMP)


@pytest.mark.parametrize("name", ["reconstruction_rss", "reconstruction_esc"])
def test_fastmri_gives_its_reference(name, tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as f:
        f["kspace"] = np.zeros((2, 5, 7), np.complex64)
        f[name] = RAMP.astype(np.float32)
    stack = one(tmp_path)
    assert stack.modality == "mr"
    np.testing.assert_array_equal(stack.slices, RAMP)


def test_sixteen_bit_png_and_colour(tmp_path):
    deep = RAMP[1].astype(np.uint16) * 10
    Image.fromarray(deep).save(tmp_path / "deep.png")
    grey = np.repeat((RAMP[0] / 10).astype(np.uint8)[..., None], 3, axis=-1)
    Image.fromarray(grey).save(tmp_path / "rgb.PNG")
    stacks = load_folder(tmp_path)
    np.testing.assert_array_equal(stacks[0].slices, deep[None])
    np.testing.assert_allclose(stacks[1].slices, grey[None, ..., 0], atol=1)


def test_all_pages_of_a_tiff(tmp_path):
    pages = [Image.fromarray(p.astype(np.float32) / 7) for p in RAMP]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_allclose(one(tmp_path).slices, RAMP.astype(np.float32) / 7)


@pytest.mark.parametrize(("name", "modality"), [("CT_small.dcm", "ct"), ("MR_small.dcm", "mr")])
def test_dicom_in_its_own_unit(name, modality, tmp_path):
    source = Path(get_testdata_file(name))
    (tmp_path / "image.DCM").write_bytes(source.read_bytes())
    stack = one(tmp_path)
    ds = pydicom.dcmread(source)
    expected = ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(
        ds.get("RescaleIntercept", 0)
    )
    assert stack.modality == modality
    np.testing.assert_allclose(stack.slices, expected[None])


def test_folders_are_searched_deep_and_in_the_order_of_paths(tmp_path):
    for name in ("b/2.npy", "a/deep/3.npy", "a/1.npy"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, RAMP)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "folder.npy").mkdir()
    stacks = load_folder(tmp_path / "b", tmp_path / "a")
    assert [s.name for s in stacks] == ["1", "3", "2"]


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_every_folder_must_hold_an_image(name, tmp_path):
    """A mistyped second folder must not be left out in silence."""
    (tmp_path / "good").mkdir()
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "good" / "a.npy", RAMP)
    with pytest.raises(ScanDataError, match=rf"{tmp_path / name}; give a folder .*\.npz"):
        load_folder(tmp_path / "good", tmp_path / name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad, tmp_path):
    image = RAMP.astype(np.float32)
    image[0, 2, 3] = bad
    np.save(tmp_path / "a.npy", image)
    with pytest.raises(ScanDataError, match=r"a\.npy holds NaN or infinite"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.zeros(5), r"\(5,\)"),
        (np.zeros((1, 2, 3, 4)), r"\(1, 2, 3, 4\)"),
        (np.zeros((0, 4, 4)), r"\(0, 4, 4\)"),
        (np.zeros((2, 4, 4), np.complex64), r"complex64"),
        (np.full((2, 2), "x"), r"<U1"),
    ],
)
def test_arrays_that_are_not_slices_are_refused(array, shape, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ScanFormatError, match=rf"a\.npy holds .*{shape}"):
        load_folder(tmp_path)


def npz(path: Path) -> None:
    np.savez_compressed(path, slices=np.arange(4000).reshape(1, 40, 100) ** 2)


def npy(path: Path) -> None:
    np.save(path, RAMP)


def h5(path: Path) -> None:
    with h5py.File(path, "w") as f:
        f["reconstruction_rss"] = np.random.default_rng(0).random((4, 40, 40))


def picture(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)


def dicom(path: Path) -> None:
    path.write_bytes(Path(get_testdata_file("CT_small.dcm")).read_bytes())


WRITERS = {".npz": npz, ".npy": npy, ".h5": h5, ".png": picture, ".tif": picture, ".dcm": dicom}


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.7])
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_truncated_file_is_named(suffix, kept, tmp_path):
    path = tmp_path / f"scan{suffix}"
    WRITERS[suffix](path)
    assert one(tmp_path).slices.ndim == 3
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ScanFormatError, match=rf"{path}: .*; replace or remove the file") as caught:
        load_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_one_flipped_byte_in_an_archive_is_noticed(tmp_path):
    npz(tmp_path / "a.npz")
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ScanFormatError, match=r"a\.npz"):
        load_folder(tmp_path)


def test_archives_without_slices_or_with_strange_notes_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=RAMP)
    with pytest.raises(ScanFormatError, match=r"a\.npz: .*slices"):
        load_folder(tmp_path)
    np.savez(path, slices=RAMP, meta="[1, 2]")
    with pytest.raises(ScanFormatError, match=r"a\.npz"):
        load_folder(tmp_path)


def test_pickled_content_is_never_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{"an": "object"}]]), allow_pickle=True)
    with pytest.raises(ScanFormatError, match=r"a\.npy: .*allow_pickle"):
        load_folder(tmp_path)


def test_h5_without_a_reference_says_which_files_have_one(tmp_path):
    with h5py.File(tmp_path / "test.h5", "w") as f:
        f["kspace"] = np.zeros((2, 5, 7), np.complex64)
    with pytest.raises(ScanFormatError, match=r"test\.h5 has neither .*train and val"):
        load_folder(tmp_path)


def test_colour_dicom_is_refused(tmp_path):
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    ds.SamplesPerPixel = 3
    ds.save_as(tmp_path / "a.dcm")
    with pytest.raises(ScanFormatError, match=r"a\.dcm is a colour image"):
        load_folder(tmp_path)


def test_the_shared_training_images_load(shared_data):
    stacks = load_folder(shared_data / "ct" / "train")
    assert {s.modality for s in stacks} == {"ct"}
    assert min(int(s.slices.min()) for s in stacks) <= -900
