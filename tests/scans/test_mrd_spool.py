"""A received MRD stream reads like the file that was sent, and only when it is whole."""

from __future__ import annotations

import struct
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
from small_scans import write_ismrmrd

from ldmpir_edge.errors import ScanError, ScanFormatError
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.ismrmrd_file import IsmrmrdScan

MAGIC = b"ldmpir-mrd-spool"


def spool(path: Path) -> tuple[bytes, bytes, bytes]:
    """The samples, XML and headers of an ISMRMRD file, read by the reference package."""
    samples, heads = [], []
    with ismrmrd.Dataset(str(path), "dataset", mode="r") as dataset:
        for index in range(dataset.number_of_acquisitions()):
            line = dataset.read_acquisition(index)
            samples.append(line.data.tobytes())
            heads.append(bytes(line.getHead()))
        return b"".join(samples), dataset.read_xml_header(), b"".join(heads)


def pack(samples: bytes, xml: bytes, heads: bytes) -> bytes:
    xml_at = len(MAGIC) + len(samples)
    trailer = struct.pack("<4Q16s", xml_at, len(xml), xml_at + len(xml), len(heads) // 340, MAGIC)
    return MAGIC + samples + xml + heads + trailer


@pytest.fixture
def parts(tmp_path: Path, rng: np.random.Generator) -> tuple[bytes, bytes, bytes]:
    write_ismrmrd(tmp_path / "file.h5", rng)
    return spool(tmp_path / "file.h5")


def test_it_is_the_scan_of_the_file(tmp_path: Path, parts: tuple[bytes, bytes, bytes]) -> None:
    (tmp_path / "spool").write_bytes(pack(*parts))
    with open_scan(tmp_path / "spool") as ours, open_scan(tmp_path / "file.h5") as theirs:
        assert isinstance(ours, IsmrmrdScan)
        assert isinstance(theirs, IsmrmrdScan)
        assert (ours.info, ours.n_slices, ours.n_coils) == (
            *(theirs.info, theirs.n_slices, theirs.n_coils),
        )
        assert (ours.recon_matrix, ours.rows_are_phase) == (theirs.recon_matrix, True)
        np.testing.assert_array_equal(ours.kspace(0), theirs.kspace(0))
        assert ours.noise_samples is not None
        np.testing.assert_array_equal(ours.noise_samples, theirs.noise_samples)
        assert ours.first_head(0) == theirs.first_head(0)


def test_half_of_it_is_refused(tmp_path: Path, parts: tuple[bytes, bytes, bytes]) -> None:
    whole = pack(*parts)
    for size in (16, 40, 64, len(whole) // 2, len(whole) - 400, len(whole) - 64, len(whole) - 1):
        (tmp_path / "spool").write_bytes(whole[:size])
        with (
            pytest.raises(ScanFormatError, match="not a complete MRD stream"),
            open_scan(tmp_path / "spool"),
        ):
            pass


def test_parts_that_contradict_each_other_are_refused(
    tmp_path: Path, parts: tuple[bytes, bytes, bytes]
) -> None:
    samples, xml, heads = parts
    for changed in (
        (samples[:-8], xml, heads),
        (samples, xml, heads[:-340]),
        (samples, b"", heads),
        (samples, b"\xff\xfe", heads),
        (samples, xml, b""),
        (b"", xml, heads),
        (samples, xml, bytes(len(heads))),
        (b"", xml, bytes(340)),
    ):
        (tmp_path / "spool").write_bytes(pack(*changed))
        with pytest.raises(ScanError), open_scan(tmp_path / "spool"):
            pass


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("value", [0, 2**63, 2**64 - 1])
def test_a_lying_trailer_is_refused(
    tmp_path: Path, parts: tuple[bytes, bytes, bytes], number: int, value: int
) -> None:
    whole = bytearray(pack(*parts))
    struct.pack_into("<Q", whole, len(whole) - 48 + 8 * number, value)
    (tmp_path / "spool").write_bytes(whole)
    with pytest.raises(ScanError), open_scan(tmp_path / "spool"):
        pass
