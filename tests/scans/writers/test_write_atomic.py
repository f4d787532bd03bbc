"""An output appears whole or not at all, and the reason is said in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldmpir_edge.atomic import atomic_file, atomic_folder, make_folder
from ldmpir_edge.errors import OutputError


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_complete(tmp_path):
    target = tmp_path / "a.nii.gz"
    with atomic_file(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert _names(tmp_path) == ["a.nii.gz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interruption_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.npy"
    target.write_bytes(b"old")
    with pytest.raises(error), atomic_file(target) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert _names(tmp_path) == ["a.npy"]


def test_a_long_name_leaves_room_for_the_temporary(tmp_path):
    target = tmp_path / ("x" * 251 + ".npy")
    with atomic_file(target) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "series"
    target.mkdir()
    (target / "old.dcm").write_bytes(b"old")
    with atomic_folder(target) as temporary:
        (temporary / "new.dcm").write_bytes(b"new")
        assert _names(target) == ["old.dcm"]
    assert _names(target) == ["new.dcm"]
    assert _names(tmp_path) == ["series"]


def test_an_interruption_leaves_the_old_folder(tmp_path):
    target = tmp_path / "series"
    target.mkdir()
    (target / "old.dcm").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as temporary:
        (temporary / "new.dcm").write_bytes(b"half")
        raise KeyboardInterrupt
    assert _names(target) == ["old.dcm"]
    assert _names(tmp_path) == ["series"]


def test_a_failed_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    target = tmp_path / "series"
    target.mkdir()
    (target / "old.dcm").write_bytes(b"old")
    rename = Path.rename

    def refuse_the_new_one(self: Path, other: Path) -> Path:
        if other == target and not (self / "old.dcm").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with (
        pytest.raises(OutputError, match="Input/output error"),
        atomic_folder(target) as temporary,
    ):
        (temporary / "new.dcm").write_bytes(b"new")
    assert _names(target) == ["old.dcm"]
    assert _names(tmp_path) == ["series"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "permission denied"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_the_reason_and_the_way_out_are_one_line(tmp_path, code, words):
    target = tmp_path / "a.h5"
    with pytest.raises(OutputError, match=words) as caught, atomic_file(target) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(code, os.strerror(code))
    message = str(caught.value)
    assert str(target) in message
    assert "-o" in message
    assert "\n" not in message
    assert _names(tmp_path) == []


def test_a_file_in_the_place_of_a_folder(tmp_path):
    in_the_way = tmp_path / "out"
    in_the_way.write_text("mine")
    with pytest.raises(OutputError, match=r"out: .*move what stands there"):
        make_folder(in_the_way)
    with pytest.raises(OutputError, match="Not a directory"):
        make_folder(in_the_way / "below")
    with pytest.raises(OutputError, match="Not a directory"), atomic_folder(in_the_way):
        pass
    with (
        pytest.raises(OutputError, match="Not a directory"),
        atomic_file(in_the_way / "a.npy") as temporary,
    ):
        temporary.write_bytes(b"x")
    assert in_the_way.read_text() == "mine"


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "a.npy").mkdir()
    with (
        pytest.raises(OutputError, match="Is a directory"),
        atomic_file(tmp_path / "a.npy") as temporary,
    ):
        temporary.write_bytes(b"x")
    assert _names(tmp_path) == ["a.npy"]


def test_a_missing_folder(tmp_path):
    with (
        pytest.raises(OutputError, match="folder does not exist"),
        atomic_file(tmp_path / "none" / "a.npy") as temporary,
    ):
        temporary.write_bytes(b"x")


_FILL_THE_DISK = """
import resource, signal, sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
import numpy as np
from ldmpir_edge.errors import OutputError
from ldmpir_edge.scans.model import ScanInfo
from ldmpir_edge.scans.reconstruction import Provenance, Reconstruction
from ldmpir_edge.scans.write import write_outputs

made = Provenance("a", "m", "b", "fp32", "ort", 4, "mri", "0", datetime(2026, 1, 1))
image = np.random.default_rng(0).random((2, 128, 128)).astype(np.float32)
recon = Reconstruction(image=image, info=ScanInfo("mr"), stem="s", provenance=made)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
for name in sys.argv[2:]:
    try:
        write_outputs(recon, Path(sys.argv[1]), [name])
    except OutputError as err:
        print(name, err)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX's")
def test_a_device_that_takes_no_more_bytes_leaves_nothing(tmp_path):
    # The kernel itself refuses the write in mid-file, as a full disk does.
    formats = ["dicom", "h5", "nii", "npy", "png", "viewer"]
    done = subprocess.run(
        [sys.executable, "-c", _FILL_THE_DISK, str(tmp_path), *formats],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    refused = done.stdout.splitlines()
    assert [line.split()[0] for line in refused] == formats, done.stdout + done.stderr
    assert all("File too large" in line for line in refused), refused
    assert _names(tmp_path) == []
