"""A volume as a stream: the same images, a flat memory, and errors that name their slice."""

from __future__ import annotations

import threading
import tracemalloc
from contextlib import closing
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pytest
from small_scans import SIZE, disc, write_dicom, write_fastmri, write_ismrmrd, write_sinogram

from ldmpir_edge.errors import ScanDataError, UnsupportedSizeError, UsageError
from ldmpir_edge.reconstruct import Reconstructor, reconstructor
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.write import FORMATS, open_outputs
from ldmpir_edge.scans.writers import window


def almost_classical(inputs):
    return 0.99 * inputs["x1"][0]


def poison(path, index):
    with h5py.File(path, "r+") as file:
        values = file["kspace"][index]
        values.flat[values.size // 2] = np.nan
        file["kspace"][index] = values


def test_the_stream_gives_what_slice_after_slice_does(tmp_path, faked):
    write_fastmri(tmp_path / "a.h5", n_slices=5, acceleration=2)
    reconstructor = faked(almost_classical)
    with open_scan(tmp_path / "a.h5") as scan:
        with closing(reconstructor.stream(scan)) as stream:
            pieces = list(stream)
        for index, piece in enumerate(pieces):
            prepared = prepare_slice(scan, index, "mri")
            expected = prepared.to_scan(np.float32(0.99) * prepared.problem.x1)
            assert piece.index == index
            np.testing.assert_allclose(piece.image, expected, rtol=1e-5)
    whole = reconstructor(tmp_path / "a.h5")
    np.testing.assert_array_equal(whole.image, [piece.image for piece in pieces])
    assert whole.checks == [piece.checks for piece in pieces]
    assert {piece.provenance.backend for piece in pieces} == {"fake"}
    assert len({piece.provenance.created for piece in pieces}) == 1


def wide_npy(path):
    np.save(path, np.tile(1 + disc(SIZE), (2, 1, 2)))


@pytest.mark.parametrize(
    ("name", "write", "task"),
    [
        ("a.h5", partial(write_fastmri, acceleration=2, n_slices=2), None),
        ("a.h5", lambda path: write_ismrmrd(path, np.random.default_rng(0)), None),
        ("a.h5", write_sinogram, None),
        ("a.dcm", lambda path: write_dicom(path, np.random.default_rng(0)), "super-resolve"),
        ("a.npy", wide_npy, None),
        ("a.npy", wide_npy, "super-resolve"),
    ],
)
def test_the_header_knows_the_shape_beforehand(tmp_path, faked, name, write, task):
    write(tmp_path / name)
    reconstructor = faked(almost_classical)
    with open_scan(tmp_path / name) as scan:
        header = reconstructor.header(scan, task=task)
        with closing(reconstructor.stream(scan, task=task)) as stream:
            images = [piece.image for piece in stream]
    assert header.shape == np.shape(images)
    assert header.input_files == (tmp_path / name,)


def test_a_bad_slice_ends_the_stream_with_its_own_error(tmp_path, faked):
    write_fastmri(tmp_path / "a.h5", n_slices=6)
    poison(tmp_path / "a.h5", 4)
    given = []
    with (
        open_scan(tmp_path / "a.h5") as scan,
        closing(faked(almost_classical).stream(scan)) as stream,
        pytest.raises(ScanDataError, match=r"a\.h5: k-space of slice 4 holds .* NaN"),
    ):
        for piece in stream:
            given.append(piece.index)
    assert given == list(range(len(given)))
    assert len(given) <= 4


def test_a_stream_can_be_left(tmp_path, faked):
    write_fastmri(tmp_path / "a.h5", n_slices=9)
    before = threading.active_count()
    calls = []

    def answer(inputs):
        calls.append(1)
        return almost_classical(inputs)

    with open_scan(tmp_path / "a.h5") as scan, closing(faked(answer).stream(scan)) as stream:
        assert next(stream).index == 0
    assert threading.active_count() == before
    assert len(calls) == 2


def test_slices_withheld_from_the_engine_are_classical_and_say_so(tmp_path, faked):
    write_fastmri(tmp_path / "a.h5", n_slices=4, acceleration=2)
    calls = []

    def answer(inputs):
        calls.append(1)
        return almost_classical(inputs)

    def withhold(index):
        return "it is late" if index >= 2 else None

    with open_scan(tmp_path / "a.h5") as scan:
        with closing(faked(answer).stream(scan, withhold=withhold)) as stream:
            pieces = list(stream)
        prepared = prepare_slice(scan, 3, "mri")
    assert [piece.fallback for piece in pieces] == [None, None, "it is late", "it is late"]
    assert [piece.provenance.backend for piece in pieces] == ["fake", "fake", "none", "none"]
    assert len(calls) == 2
    classical = prepared.to_scan(prepared.problem.x1)
    np.testing.assert_allclose(pieces[3].image, classical, rtol=1e-6)


def test_no_engine_is_loaded_for_a_scan_withheld_from_it(tmp_path, bundle, monkeypatch):
    write_fastmri(tmp_path / "a.h5", acceleration=2)

    def load(*_):
        raise AssertionError("an engine was loaded")

    monkeypatch.setattr(reconstructor, "load_engine", load)
    with (
        open_scan(tmp_path / "a.h5") as scan,
        closing(Reconstructor(bundle).stream(scan, withhold=lambda _: "it crashes")) as stream,
    ):
        assert [piece.fallback for piece in stream] == ["it crashes"]


def test_what_cannot_be_done_is_refused_before_the_first_slice(tmp_path, faked):
    write_fastmri(tmp_path / "a.h5")
    np.save(tmp_path / "big.npy", np.ones((600, 32), np.float32))
    reconstructor = faked(almost_classical)
    with open_scan(tmp_path / "a.h5") as scan, pytest.raises(UsageError, match="takes images"):
        reconstructor.stream(scan, task="denoise")
    with open_scan(tmp_path / "big.npy") as scan, pytest.raises(UnsupportedSizeError):
        reconstructor.stream(scan, task="super-resolve")


def test_notes_stay_with_their_slice(tmp_path, faked):
    write_fastmri(tmp_path / "a.h5", n_slices=3)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["mask"]
        values = file["kspace"][1]
        values[..., ::2] = 0  # the middle slice alone was sampled without its centre
        file["kspace"][1] = values
    with (
        open_scan(tmp_path / "a.h5") as scan,
        closing(faked(almost_classical).stream(replace(scan, mask=None))) as stream,
    ):
        notes = [piece.notes for piece in stream]
    assert [any("coil maps" in note for note in of_one) for of_one in notes] == [False, True, False]


def test_memory_does_not_grow_with_the_slices(tmp_path, faked, monkeypatch):
    size, image_bytes = 96, 96 * 96 * 4
    # The window's sample has a size of its own, which these volumes would not fill.
    monkeypatch.setattr(window, "MAX_PIXELS", 2**14)
    reconstructor = faked(almost_classical)

    def peak(n_slices):
        path = tmp_path / f"{n_slices}.h5"
        write_fastmri(path, n_slices=n_slices, size=size)
        tracemalloc.start()
        with (
            open_scan(path) as scan,
            closing(reconstructor.stream(scan)) as stream,
            open_outputs(reconstructor.header(scan), tmp_path / "out", FORMATS) as outputs,
        ):
            for piece in stream:
                outputs.add(piece)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)  # what is imported and cached once
    # Both fill the preview's sixteen tiles; checks, notes and positions of a slice are kept.
    assert (peak(60) - peak(20)) / 40 < image_bytes / 4
