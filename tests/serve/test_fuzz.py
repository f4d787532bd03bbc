"""Everything that comes from outside, changed at random: refused in one way, or taken; no more.

The short run is part of CI. The long one, 100,000 cases a parser, is `pytest -m slow`.
"""

from __future__ import annotations

import io
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pydicom
import pytest
from dicom_peers import write_series
from fuzzing import LONG, SHORT, fuzz
from mrd_client import MrdClient, read_file, send_scan
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pynetdicom import AE
from pynetdicom.dsutils import decode
from pynetdicom.sop_class import Verification
from running_appliance import running
from small_scans import write_fastmri, write_ismrmrd, write_sinogram
from toy_bundle import toy_files, toy_manifest

from ldmpir_edge.bundle import open_bundle, write_bundle
from ldmpir_edge.errors import BundleError, LdmpirError, ScanError
from ldmpir_edge.scans import sample_files
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import ImageScan, KspaceScan, SinogramScan
from ldmpir_edge.serve.dicom.receiver import CANNOT_UNDERSTAND, SUCCESS, DicomServer
from ldmpir_edge.serve.mrd.receive import receive_scan
from ldmpir_edge.serve.web.upload import Upload

SUPPORT = Path(__file__).resolve().parents[1] / "support"
MAX_READ = 16 * 2**20
MAX_SAMPLES = 2**22

cases = pytest.mark.parametrize("n_cases", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])


class Incoming:
    """Takes a scan into a folder, without the disk's own time."""

    def __init__(self, folder: Path) -> None:
        self.payload = folder

    @contextmanager
    def file(self, name: str = "scan") -> Iterator[BinaryIO]:
        with (self.payload / name).open("w+b") as stream:
            yield stream

    def write(self, stream: BinaryIO, data: bytes) -> None:
        self.reserve(len(data))
        stream.write(data)

    def reserve(self, n_bytes: int) -> None:
        assert n_bytes <= MAX_READ

    def accept(self, stem: str) -> str:
        return stem


class Intake:
    """Admits everything."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def open(self, *_: Any, **__: Any) -> Iterator[Incoming]:
        yield Incoming(self._folder)


def read_slice(path: Path) -> None:
    """Open a scan as the worker does and read its first slice, unless it is a large one."""
    with suppress(ScanError), open_scan(path) as scan:
        if isinstance(scan, KspaceScan):
            if math.prod(getattr(scan, "grid_shape", (1,))) <= MAX_SAMPLES:
                scan.kspace(0)
                scan.calibration(0)
        elif isinstance(scan, SinogramScan):
            scan.sinogram(0)
        elif isinstance(scan, ImageScan) and math.prod(scan.image_shape) <= MAX_SAMPLES:
            scan.image(0, missing=False)


def mrd_stream(path: Path) -> bytes:
    """The bytes that a client sends for an ISMRMRD file."""
    written = bytearray()
    client = MrdClient.__new__(MrdClient)
    client.send = written.extend  # type: ignore[method-assign, assignment]
    xml, lines = read_file(path)
    client.text("hello")
    send_scan(client, xml, lines[:12], "knee")
    return bytes(written)


@cases
def test_mrd_messages(tmp_path: Path, n_cases: int) -> None:
    write_ismrmrd(tmp_path / "raw.h5", np.random.default_rng(0))

    def check(data: bytes) -> None:
        stream = io.BytesIO(data)

        def read(n_bytes: int) -> bytes:
            assert n_bytes <= MAX_READ, "it would allocate what a client only claims"
            piece = stream.read(n_bytes)
            if len(piece) < n_bytes:
                raise EOFError
            return piece

        with suppress(EOFError, LdmpirError):
            if receive_scan(read, Intake(tmp_path)) is not None:  # type: ignore[arg-type]
                read_slice(tmp_path / "scan")

    fuzz(mrd_stream(tmp_path / "raw.h5"), n_cases, check)


@cases
def test_spooled_streams(tmp_path: Path, n_cases: int) -> None:
    write_ismrmrd(tmp_path / "raw.h5", np.random.default_rng(0))
    stream = io.BytesIO(mrd_stream(tmp_path / "raw.h5"))
    receive_scan(stream.read, Intake(tmp_path))  # type: ignore[arg-type]

    def check(data: bytes) -> None:
        (tmp_path / "case").write_bytes(data)
        read_slice(tmp_path / "case")

    fuzz((tmp_path / "scan").read_bytes(), n_cases, check)


FORM = (
    b'--bound\r\nContent-Disposition: form-data; name="scan"; filename="a.h5"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + bytes(range(256)) + b"\r\n--bound--\r\n"
)


@cases
def test_http_bodies(tmp_path: Path, n_cases: int) -> None:
    def check(data: bytes) -> None:
        for kind in ("multipart/form-data; boundary=bound", data[:80].decode("latin-1")):
            with suppress(LdmpirError):
                upload = Upload(Intake(tmp_path), "", None, kind, 0)  # type: ignore[arg-type]
                try:
                    upload.feed(data[: len(data) // 2])
                    upload.feed(data[len(data) // 2 :])
                    upload.finish()
                finally:
                    upload.close()

    fuzz(FORM, n_cases, check)


@pytest.mark.filterwarnings("ignore")
@cases
def test_dicom_objects_at_the_door(tmp_path: Path, n_cases: int) -> None:
    (path,) = write_series(tmp_path / "series", 1)
    ds = pydicom.dcmread(path)
    buffer = io.BytesIO()
    stream = DicomFileLike(buffer)
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, ds, parent_encoding="ascii")
    server = DicomServer.__new__(DicomServer)
    server._store = SimpleNamespace(store=lambda *_: None)  # type: ignore[assignment]

    class Event:
        assoc = SimpleNamespace(requestor=SimpleNamespace(ae_title="SCANNER1"), n_received=0)
        request = SimpleNamespace(AffectedSOPInstanceUID=ds.SOPInstanceUID)

        def __init__(self, data: bytes) -> None:
            self._data = data

        @property
        def dataset(self) -> pydicom.Dataset:
            return decode(io.BytesIO(self._data), False, True)

        def encoded_dataset(self) -> bytes:
            return self._data

    def check(data: bytes) -> None:
        assert server._take(Event(data)) in {SUCCESS, CANNOT_UNDERSTAND}

    assert server._take(Event(buffer.getvalue())) == SUCCESS
    fuzz(buffer.getvalue(), n_cases, check)


@cases
def test_bundles(tmp_path: Path, n_cases: int) -> None:
    files = toy_files()
    write_bundle(tmp_path / "toy.ldmpir", toy_manifest(files), files)

    def check(data: bytes) -> None:
        (tmp_path / "case").write_bytes(data)
        with suppress(BundleError):
            open_bundle(tmp_path / "case")

    fuzz((tmp_path / "toy.ldmpir").read_bytes(), n_cases, check)


OF_A_PROCESS = 2500


def write_tiny_ismrmrd(path: Path) -> None:
    """So few samples that most changes fall on the structure."""
    rng = np.random.default_rng(0)
    kspace, noise = (
        rng.standard_normal(shape).astype(np.complex64) for shape in ((1, 2, 16, 8), (2, 16))
    )
    sample_files.write_ismrmrd(path, kspace, np.ones(8, np.bool_), noise)


IN_A_PROCESS = """
import sys, warnings
from pathlib import Path
sys.path.insert(0, {tests!r})
from fuzzing import fuzz
from test_fuzz import read_slice
from ldmpir_edge.scans.memory import limit_memory
limit_memory(2**29)  # less than the worker's: what fails is over the sooner
warnings.simplefilter("ignore")
seed, case, n_cases = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def check(data):
    case.write_bytes(data)
    read_slice(case)

fuzz(seed.read_bytes(), n_cases, check)
"""


@cases
@pytest.mark.parametrize("kind", ["fastmri", "ismrmrd", "sinogram", "dicom"])
def test_files(tmp_path: Path, kind: str, n_cases: int) -> None:
    """In processes of their own: libhdf5 is C, and a crash of it must be seen as one.

    A damaged file may leave something open in it, which makes every later one slower: a process
    has so many of them and no more.
    """
    path = tmp_path / "seed"
    if kind == "fastmri":
        write_fastmri(path, size=32)
    elif kind == "ismrmrd":
        write_tiny_ismrmrd(path)
    elif kind == "sinogram":
        write_sinogram(path)
    else:
        write_series(tmp_path / "series", 1)[0].rename(path)
    script = IN_A_PROCESS.format(tests=str(Path(__file__).parent))
    for start in range(0, n_cases, OF_A_PROCESS):
        n_now = min(OF_A_PROCESS, n_cases - start)
        done = subprocess.run(
            [sys.executable, "-c", script, path, tmp_path / "case", str(n_now)],
            env={**os.environ, "PYTHONPATH": str(SUPPORT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=6 * 3600,
        )
        told = f"{done.returncode} after {start} cases: {done.stderr[-3000:]}"
        assert done.returncode == 0, told


PDU = bytes.fromhex("0100000000440001000000") + b"LDMPIR          SCANNER1        " + bytes(32)


def test_dicom_connections(tmp_path: Path) -> None:
    """A door that was spoken to in any way still opens."""
    rng = np.random.default_rng(1)
    with running(tmp_path, dicom={"listen": "127.0.0.1:0"}) as appliance:
        host, _, port = appliance.open_doors["dicom"].rpartition(":")
        for number in range(60):
            data = bytearray(PDU)
            for _ in range(rng.integers(0, 6)):
                data[rng.integers(len(data))] = rng.integers(256)
            data += rng.bytes(rng.integers(0, 400)) if number % 2 else b""
            with suppress(OSError), socket.create_connection((host, int(port)), 10) as line:
                line.sendall(bytes(data))
                line.shutdown(socket.SHUT_WR)
        ae = AE("SCANNER1")
        ae.add_requested_context(Verification)
        until = time.monotonic() + 30
        while not (association := ae.associate(host, int(port), ae_title="LDMPIR")).is_established:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert association.send_c_echo().Status == 0
        association.release()
