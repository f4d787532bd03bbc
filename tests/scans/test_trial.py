"""HDF5 files that end the process that reads them: refused, by one that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import ldmpir_edge
from small_scans import write_deadly_ismrmrd, write_fastmri, write_ismrmrd, write_sinogram

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.scans import trial, trial_process
from ldmpir_edge.scans.detect import open_scan

READ_HERE = "import sys, pathlib; from ldmpir_edge.scans.trial_process import read_beginning as r; "
FORMAT_REFUSED = 11


def test_a_file_that_ends_the_process_is_refused(tmp_path: Path) -> None:
    deadly = tmp_path / "deadly.h5"
    write_deadly_ismrmrd(deadly)
    code = READ_HERE + "r(pathlib.Path(sys.argv[1]))"
    died = subprocess.run([sys.executable, "-c", code, deadly], capture_output=True, check=False)
    if died.returncode >= 0:
        pytest.skip("this version of libhdf5 survives the file")
    for _ in range(2):
        with pytest.raises(ScanFormatError, match="the HDF5 library crashed on this file"):
            trial.try_hdf5(deadly)
    with pytest.raises(ScanFormatError, match="crashed"), open_scan(deadly):
        pass
    ldmpir_edge("run", deadly).assert_refused(FORMAT_REFUSED, "crashed on this file")


def test_a_file_that_is_read_for_ever_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def read_beginning(_: Path) -> None:
        while True:
            pass

    monkeypatch.setattr(trial_process, "read_beginning", read_beginning)
    monkeypatch.setattr(trial_process, "PATIENCE_S", 1)
    (tmp_path / "a.h5").write_bytes(b"")
    trial_process.try_file(tmp_path / "a.h5")
    assert json.loads(capfd.readouterr().out) == {"died": "stood still"}


def test_an_error_that_no_reader_foresaw_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def read_beginning(_: Path) -> None:
        raise OverflowError

    monkeypatch.setattr(trial_process, "read_beginning", read_beginning)
    (tmp_path / "a.h5").write_bytes(b"")
    trial_process.try_file(tmp_path / "a.h5")
    assert json.loads(capfd.readouterr().out) == {"died": "failed"}


def test_limits_below_those_of_the_trial_are_kept(tmp_path: Path) -> None:
    """As `ulimit -d` and systemd's LimitDATA and LimitCPU set them."""
    write_fastmri(tmp_path / "a.h5")
    code = (
        "import pathlib, resource, sys; from ldmpir_edge.scans import trial_process as t; "
        "resource.setrlimit(resource.RLIMIT_CPU, (50, 50)); "
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30)); "
        "t.try_file(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.h5"], capture_output=True, check=True, text=True
    )
    assert json.loads(done.stdout) == {}


def test_sound_files_pass(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "fastmri.h5")
    write_ismrmrd(tmp_path / "ismrmrd.h5", np.random.default_rng(0))
    write_sinogram(tmp_path / "sinogram.h5")
    for path in tmp_path.iterdir():
        trial.try_hdf5(path)


def test_what_the_reader_says_is_said_here(tmp_path: Path) -> None:
    write_ismrmrd(tmp_path / "a.h5", np.random.default_rng(0))
    data = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(data[:-1000])
    with pytest.raises(ScanFormatError, match="truncated"):
        trial.try_hdf5(tmp_path / "a.h5")
    (tmp_path / "b.h5").write_bytes(
        data.replace(b"<trajectory>cartesian", b"<trajectory>radial   ")
    )
    # That is said once the header is understood, which the trial leaves to the reader.
    trial.try_hdf5(tmp_path / "b.h5")
    with pytest.raises(ScanDataError, match="only cartesian"), open_scan(tmp_path / "b.h5"):
        pass


@pytest.fixture
def process() -> Iterator[int]:
    trial.start()
    found = trial._process
    assert found is not None
    yield found._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(found._process.pid, 0)


def test_a_process_that_was_ended_is_started_again(tmp_path: Path, process: int) -> None:
    write_sinogram(tmp_path / "a.h5")
    os.kill(process, signal.SIGKILL)
    trial.try_hdf5(tmp_path / "a.h5")
    assert trial._process is not None
    assert trial._process._process.pid != process


def test_a_fork_has_a_process_of_its_own(tmp_path: Path) -> None:
    """Two that speak on one line would get each other's answers."""
    write_sinogram(tmp_path / "a.h5")
    code = (
        "import os, pathlib, sys; from ldmpir_edge.scans import trial; trial.start(); "
        "mine = trial._process; child = os.fork(); trial.try_hdf5(pathlib.Path(sys.argv[1])); "
        "assert (trial._process is mine) == (child != 0); "
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.h5"], check=True)
