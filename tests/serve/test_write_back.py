"""Flushing a file while it grows."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from ldmpir_edge.serve import write_back
from ldmpir_edge.serve.write_back import PIECE_BYTES, WriteBack


def test_a_file_is_flushed_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    done = threading.Event()

    def flush(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_size)
        done.set()

    monkeypatch.setattr(write_back.os, "fsync", flush)
    with (tmp_path / "scan").open("wb", buffering=0) as stream, WriteBack(stream.fileno()) as back:
        stream.write(bytes(PIECE_BYTES - 1))
        back.grown(PIECE_BYTES - 1)
        assert not done.wait(0.05)
        stream.write(bytes(1))
        back.grown(1)
        assert done.wait(10)
    assert flushed == [PIECE_BYTES]


def test_one_flush_runs_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, go_on = 0, 0, threading.Event()

    def flush(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        go_on.wait(10)
        running -= 1

    monkeypatch.setattr(write_back.os, "fsync", flush)
    with (tmp_path / "scan").open("wb") as stream, WriteBack(stream.fileno()) as back:
        for _ in range(5):
            back.grown(PIECE_BYTES)
        go_on.set()
    assert (most, running) == (1, 0)


@pytest.mark.parametrize("where", ["while it grows", "where it is left"])
def test_a_full_disk_is_told(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel reports a failed write-back to one flush only: swallowed here, it would be lost.
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write_back.os, "fsync", full)
    with (
        (tmp_path / "scan").open("wb") as stream,
        pytest.raises(OSError, match="No space left"),
        WriteBack(stream.fileno()) as back,
    ):
        back.grown(PIECE_BYTES)
        if where == "while it grows":
            for _ in range(10_000):
                back.grown(PIECE_BYTES)
