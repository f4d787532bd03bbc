"""The watched folder: complete scans are taken once, and nothing else is."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from running_appliance import running, wait_delivered
from small_scans import write_fastmri, write_ismrmrd, write_sinogram

from ldmpir_edge.errors import UsageError
from ldmpir_edge.serve.config import load_config
from ldmpir_edge.serve.hdf5_size import HEADER_BYTES, stated_size
from ldmpir_edge.serve.intake import Intake
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.metrics import Metrics
from ldmpir_edge.serve.queue import JobQueue
from ldmpir_edge.serve.state_folder import StateFolder
from ldmpir_edge.serve.watch import Watcher

SETTLE_S = 5.0


class Folder:
    """A watched folder whose clock stands still."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.path = root / "watched"
        self.path.mkdir(exist_ok=True)
        watch = {"folder": self.path, "settle_s": SETTLE_S}
        given = {"state": root / "state", "watch": watch, "limits": {"min_free_bytes": 0}}
        self.config = load_config(None, given | settings)
        self.state = StateFolder(self.config.state)
        self.state.jobs.mkdir(parents=True, exist_ok=True)
        self.state.incoming.mkdir(exist_ok=True)
        self.queue = JobQueue(self.state.database)
        self.metrics = Metrics()
        intake = Intake(self.config, self.state, self.queue, self.metrics)
        self.now = 0.0
        assert self.config.watch is not None
        self.watcher = Watcher(self.config.watch, intake, self.queue, lambda: self.now)

    def write(self, name: str, size: int = 1000) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["kspace"] = np.zeros(size, np.uint8)
        return path

    def settle(self) -> list[str]:
        """Look twice, so far apart that what lies still is taken; gives the stems taken so far."""
        self.watcher.look()
        self.now += SETTLE_S
        self.watcher.look()
        return sorted(job.stem for job in self.jobs())

    def jobs(self) -> list[Job]:
        return self.queue.recent(100)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_folder_whose_name_is_no_text_holds_nothing_up(folder: Folder) -> None:
    made = folder.path / os.fsdecode(b"M\xfcller")
    made.mkdir()
    shutil.copy(folder.write("b.h5"), made / "a.h5")
    assert folder.settle() == ["a", "b"]
    assert {job.label for job in folder.jobs()} == {"", "M\ufffdller"}


def test_a_file_is_taken_once_it_has_lain_still(folder: Folder) -> None:
    path = folder.write("a.h5")
    folder.watcher.look()
    folder.now += SETTLE_S - 0.1
    folder.watcher.look()
    assert folder.jobs() == []
    folder.now += 0.1
    folder.watcher.look()
    (job,) = folder.jobs()
    assert (job.stem, job.source) == ("a", "watch")
    taken = folder.state.payload(job.id) / "scan"
    assert taken.read_bytes() == path.read_bytes()
    assert taken.stat().st_ino != path.stat().st_ino  # a link would change with the original


def test_a_file_that_cannot_be_read_holds_up_no_other(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.h5", "b.h5", "c.h5"):
        folder.write(name)
    take = Watcher._take

    def broken(self: Watcher, found: Any, stream: Any) -> None:
        if found.path.name == "b.h5":
            raise OSError(errno.EIO, "Input/output error")
        take(self, found, stream)

    monkeypatch.setattr(Watcher, "_take", broken)
    assert folder.settle() == ["a", "c"]
    monkeypatch.setattr(Watcher, "_take", take)
    assert folder.settle() == ["a", "b", "c"]


def test_a_file_that_grows_is_left_alone(folder: Folder) -> None:
    path = folder.write("a.h5")
    for _ in range(10):
        folder.watcher.look()
        folder.now += SETTLE_S
        with path.open("ab") as stream:
            stream.write(b"more")
    folder.watcher.look()
    assert folder.jobs() == []
    assert folder.settle() == ["a"]


def test_a_file_that_is_rewritten_in_place_is_left_alone(folder: Folder) -> None:
    path = folder.write("a.h5")
    for second in range(5):
        folder.watcher.look()
        folder.now += SETTLE_S
        os.utime(path, (second, second))
    folder.watcher.look()
    assert folder.jobs() == []


def test_a_file_open_for_writing_is_left_alone(folder: Folder) -> None:
    path = folder.write("a.h5")
    with path.open("r+b"):
        assert folder.settle() == []
    assert folder.settle() == ["a"]


def test_a_file_locked_by_a_writer_is_left_alone(folder: Folder) -> None:
    path = folder.write("a.h5")
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert folder.settle() == []
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)  # another reader's
        assert folder.settle() == ["a"]


def test_a_file_that_h5py_is_writing_is_left_alone(folder: Folder) -> None:
    path = folder.path / "a.h5"
    writing = "import h5py, sys; f = h5py.File(sys.argv[1], 'w'); f['a'] = 1; f.flush(); "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{writing} print(flush=True); input()", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert folder.settle() == []
    process.communicate(b"\n", timeout=60)
    assert folder.settle() == ["a"]


def test_a_copy_that_stalls_is_left_alone(folder: Folder, tmp_path: Path) -> None:
    whole = folder.write("whole.h5", 10_000).rename(tmp_path / "whole.h5").read_bytes()
    path = folder.path / "a.h5"
    for size in (50, HEADER_BYTES, 2000, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert folder.settle() == []
    path.write_bytes(whole)
    assert folder.settle() == ["a"]


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@pytest.mark.parametrize("n_bytes", [10, 100_000])
def test_the_superblock_states_the_size(tmp_path: Path, libver: str, n_bytes: int) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
        file["data"] = np.zeros(n_bytes, np.uint8)
    data = (tmp_path / "a.h5").read_bytes()
    assert stated_size(data[:HEADER_BYTES]) == len(data)


@pytest.mark.parametrize("start", [b"", b"\x89HDF\r\n\x1a\n", b"CDF\x01" + bytes(200)])
def test_what_is_no_hdf5_states_none(start: bytes) -> None:
    assert stated_size(start) is None
    assert stated_size(b"\x89HDF\r\n\x1a\n" + b"\xff" * 200) is None


def test_everything_else_is_left_alone(folder: Folder, tmp_path: Path) -> None:
    folder.write(".hidden.h5")
    folder.write(".folder/a.h5")
    (folder.path / "notes.h5").write_text("no HDF5")
    (folder.path / "empty.h5").touch()
    (folder.path / "pipe.h5").unlink(missing_ok=True)
    os.mkfifo(folder.path / "pipe.h5")
    secret = folder.write("secret.h5").rename(tmp_path / "secret.h5")
    (folder.path / "link.h5").symlink_to(secret)
    (folder.path / "links").symlink_to(tmp_path)
    assert folder.settle() == []
    assert folder.settle() == []


def test_a_file_is_taken_once_for_ever(folder: Folder, tmp_path: Path) -> None:
    path = folder.write("a.h5")
    for _ in range(3):
        assert folder.settle() == ["a"]
    again = Folder(tmp_path)
    assert again.settle() == ["a"]
    # Also when the job is kept no longer.
    again.queue.forget([again.jobs()[0].id])
    assert again.settle() == []
    assert Folder(tmp_path).settle() == []
    folder.write("a.h5", 2000)
    assert Folder(tmp_path).settle() == ["a"]
    assert path.exists()


def test_a_share_that_was_away_brings_nothing_twice(folder: Folder, tmp_path: Path) -> None:
    folder.write("a.h5")
    assert folder.settle() == ["a"]
    folder.path.rename(tmp_path / "away")
    assert folder.settle() == ["a"]
    folder.now += 2 * 86400
    assert folder.settle() == ["a"]
    (tmp_path / "away").rename(folder.path)
    folder.now += 2 * 86400
    assert folder.settle() == ["a"]


def test_what_is_gone_for_long_is_forgotten(folder: Folder) -> None:
    path = folder.write("a.h5")
    folder.settle()
    origin = folder.jobs()[0].origin
    assert origin is not None
    path.unlink()
    folder.queue.forget([folder.jobs()[0].id])
    folder.queue.remember([], for_s=3600)
    assert folder.queue.find_origin(origin) is not None
    folder.queue.remember([], for_s=-1)
    assert folder.queue.find_origin(origin) is None


def test_subfolders_select_the_route(tmp_path: Path) -> None:
    routes = [
        {"name": "brain", "label": "brain*"},
        {"name": "plain", "label": ""},
    ]
    folder = Folder(tmp_path, routes=routes)
    for name in ("brain/a.h5", "brain/new/b.h5", "c.h5", "knee/d.h5"):
        folder.write(name)
    assert folder.settle() == ["a", "b", "c"]
    assert {job.stem: job.route for job in folder.jobs()} == {
        "a": "brain",
        "b": "brain",
        "c": "plain",
    }


def test_a_full_queue_leaves_files_for_later(tmp_path: Path) -> None:
    folder = Folder(tmp_path, limits={"min_free_bytes": 0, "max_jobs": 1})
    for name in ("a.h5", "b.h5"):
        folder.write(name)
    assert len(folder.settle()) == 1
    taken = folder.queue.claim()
    assert taken is not None
    folder.queue.finish(taken.id, "failed", reason="no scan")
    assert folder.settle() == ["a", "b"]


def test_a_file_that_is_too_large_is_refused_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path, limits={"min_free_bytes": 0, "max_payload_bytes": 5000})
    folder.write("a.h5", 10_000)
    folder.write("b.h5", 100)
    for _ in range(3):
        assert folder.settle() == ["b"]
    assert 'error="PayloadTooLargeError",source="watch"} 1.0' in folder.metrics.render().decode()


def test_there_must_be_a_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    shutil.rmtree(folder.path)
    assert folder.config.watch is not None
    with pytest.raises(UsageError, match="there is no folder"):
        Watcher(folder.config.watch, folder.watcher._intake, folder.queue)


def test_scans_of_every_kind_come_out_as_images(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    watch = {"folder": watched, "poll_s": 0.1, "settle_s": 0.3}
    with running(tmp_path, watch=watch) as appliance:
        write_fastmri(watched / "fastmri.h5", acceleration=2)
        write_ismrmrd(watched / "ismrmrd.h5", np.random.default_rng(0))
        write_sinogram(watched / "sinogram.h5")
        until = time.monotonic() + 60
        while len(appliance.queue.recent(9)) < 3:
            assert time.monotonic() < until
            time.sleep(0.05)
        wait_delivered(appliance)
        states = {job.stem: job.state for job in appliance.queue.recent(9)}
    assert states == dict.fromkeys(("fastmri", "ismrmrd", "sinogram"), "done")
    images = {path.parent.parent.name.partition("-")[0] for path in tmp_path.glob("out/*/*/*.dcm")}
    assert images == {"fastmri", "ismrmrd", "sinogram"}
