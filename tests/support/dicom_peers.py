"""DICOM series to send, and real peers: pynetdicom's own programs and Orthanc, as processes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from small_scans import write_dicom

START_S = 60


def write_series(folder: Path, n_images: int, seed: int = 0) -> list[Path]:
    """Write a series of MR images, 4 mm apart; another seed is another series."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    series = generate_uid(entropy_srcs=[f"series {seed}"])
    paths = []
    for index in range(n_images):
        path = folder / f"{index}.dcm"
        write_dicom(path, rng)
        ds = pydicom.dcmread(path)
        ds.PatientName, ds.PatientID = "Doe^Jane", "1234"
        ds.SeriesInstanceUID = series
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[f"image {seed} {index}"])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.InstanceNumber = index + 1
        ds.ImagePositionPatient = [0, 0, 4 * index]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.save_as(path)
        paths.append(path)
    return paths


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_open(port: int, process: subprocess.Popen[Any]) -> None:
    until = time.monotonic() + START_S
    while True:
        assert process.poll() is None, f"the peer ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            return


@contextmanager
def storage_scp(folder: Path, port: int, ae_title: str = "PACS") -> Iterator[None]:
    """Run pynetdicom's `storescp`, which writes what it receives to `folder`."""
    folder.mkdir(exist_ok=True)
    command = ["-m", "pynetdicom", "storescp", str(port), "-od", str(folder), "-aet", ae_title]
    process = subprocess.Popen([sys.executable, *command, "-q"])
    try:
        wait_open(port, process)
        yield
    finally:
        process.terminate()
        process.wait(30)


def store(address: str, paths: Sequence[Path], calling: str = "SCANNER1") -> int:
    """Send files with DCMTK's `storescu`; gives its exit code."""
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("no storescu; install the Debian package dcmtk")
    host, _, port = address.rpartition(":")
    command = [program, "-aet", calling, "-aec", "LDMPIR", host, port, *map(str, paths)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode


class Orthanc:
    """A real PACS, with its REST interface."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("Orthanc")
        if program is None:
            pytest.skip("no Orthanc; install the Debian package orthanc")
        self.port, self._http = free_port(), free_port()
        folder.mkdir()
        settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomAet": "ORTHANC",
            "DicomPort": self.port,
            "HttpPort": self._http,
            "RemoteAccessAllowed": False,
            "OverwriteInstances": True,
            "DicomAlwaysAllowStore": True,
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], stdout=self._log, stderr=self._log
        )
        wait_open(self.port, self._process)
        wait_open(self._http, self._process)

    def get(self, path: str) -> httpx.Response:
        answer = httpx.get(f"http://127.0.0.1:{self._http}{path}", timeout=30)
        answer.raise_for_status()
        return answer

    def instances(self) -> list[str]:
        return list(self.get("/instances").json())

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()
