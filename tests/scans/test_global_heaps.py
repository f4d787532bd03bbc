"""Files of which a part is still zeros, on which libhdf5 stands still: refused before."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_scans import write_fastmri, write_ismrmrd, write_sinogram

from ldmpir_edge.errors import ScanFormatError
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.global_heaps import check_heaps

SIGNATURE = b"GCOL\x01\0\0\0"


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """End the process where libhdf5 is asked after all: it cannot be interrupted otherwise."""
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def collections(data: bytes) -> list[tuple[int, int]]:
    """Start and end of each collection."""
    found, at = [], data.find(SIGNATURE)
    while at >= 0:
        found.append((at, at + struct.unpack_from("<Q", data, at + 8)[0]))
        at = data.find(SIGNATURE, at + 1)
    return found


def zero(path: Path, which: int, start: int) -> None:
    """Replace what follows the first `start` bytes of a collection by zeros, up to its end."""
    data = bytearray(path.read_bytes())
    at, end = collections(bytes(data))[which]
    data[at + start : end] = bytes(end - at - start)
    path.write_bytes(data)


def test_a_fastmri_header_that_is_not_there_yet_is_refused(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", size=32)
    zero(tmp_path / "a.h5", 0, 16)
    with pytest.raises(ScanFormatError, match="not all there yet"), open_scan(tmp_path / "a.h5"):
        pass


def test_sinogram_attributes_that_are_not_there_yet_are_refused(tmp_path: Path) -> None:
    write_sinogram(tmp_path / "a.h5")
    zero(tmp_path / "a.h5", 0, 16)
    with pytest.raises(ScanFormatError, match="not all there yet"), open_scan(tmp_path / "a.h5"):
        pass


@pytest.mark.parametrize("which", [0, 1, -1])
def test_ismrmrd_samples_that_are_not_there_yet_are_refused(tmp_path: Path, which: int) -> None:
    write_ismrmrd(tmp_path / "a.h5", np.random.default_rng(0))
    zero(tmp_path / "a.h5", which, 16)
    with pytest.raises(ScanFormatError, match="not all there yet"), open_scan(tmp_path / "a.h5"):
        pass


def test_whole_files_pass_with_their_gaps(tmp_path: Path) -> None:
    """Collections of all fillings, as h5py writes them, and with a sample written again."""
    rng = np.random.default_rng(1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        table = file.create_dataset("t", (2000,), h5py.vlen_dtype(np.uint8))
        for number in range(2000):
            table[number] = rng.integers(0, 255, rng.integers(1, 3000)).astype(np.uint8)
        table[7] = np.arange(3, dtype=np.uint8)
    assert len(collections((tmp_path / "a.h5").read_bytes())) > 30
    check_heaps(tmp_path / "a.h5")
