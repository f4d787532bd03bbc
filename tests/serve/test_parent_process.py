"""A child that is busy ends with its parent, however that one ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child")

PARENT = """
import os, time
from ldmpir_edge.serve.parent_process import die_with_parent
parent = os.getpid()
child = os.fork()
if child == 0:
    die_with_parent(parent)
    print(os.getpid(), flush=True)
while True:
    pass
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_busy_child_does_not_outlive_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
        parent.wait()
        until = time.monotonic() + 10
        while is_running(child):
            assert time.monotonic() < until, "the child outlived its parent"
            time.sleep(0.01)


def test_a_child_whose_parent_has_ended_before_ends_too() -> None:
    script = "from ldmpir_edge.serve.parent_process import *; die_with_parent(0); print('alive')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
