"""The process in which HDF5 files are tried: `python -m ldmpir_edge.scans.trial_process`.

Each line of standard input is a path as JSON. A fork of the process reads what the file's reader
reads first; the answer is a line of JSON: nothing, the reader's error, or what it died of. The
process has no threads, so that it can fork; it ends when its input does.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

from ldmpir_edge.errors import ScanError
from ldmpir_edge.scans.fastmri import is_fastmri, read_fastmri
from ldmpir_edge.scans.hdf5 import open_hdf5, reading, text
from ldmpir_edge.scans.ismrmrd_file import find_dataset_group
from ldmpir_edge.scans.ismrmrd_lines import read_heads
from ldmpir_edge.scans.memory import limit_memory
from ldmpir_edge.scans.mrd_header import MAX_HEADER_CHARACTERS
from ldmpir_edge.scans.sinogram import is_sinogram, read_sinogram

PATIENCE_S = 60
"""Of processor time; the headers of a large scan take less than one."""

MIN_MEMORY_BYTES = 2**30
MEMORY_OF_FILE = 4
"""What headers may take: so many times the file, of which they are a part, and at least that."""


def serve() -> None:
    """Try one file after another, until the input ends."""
    # Ctrl-C in a terminal reaches this process as well; whoever asks decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # a fork that collected what it shares would copy it
    for line in sys.stdin.buffer:
        try_file(Path(json.loads(line)))


def try_file(path: Path) -> None:
    """Have a fork read the file, and write the answer to standard output."""
    child = os.fork()
    if child == 0:
        try:
            _answer(**_outcome(path))
            os._exit(0)
        finally:
            os._exit(1)  # whatever was raised: the fork must not go on as its parent
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        timed_out = os.WTERMSIG(status) in {signal.SIGXCPU, signal.SIGKILL}
        _answer(died="stood still" if timed_out else "crashed")
    elif os.WEXITSTATUS(status):
        # An error that no reader foresaw: without an answer, whoever asked would wait for ever.
        _answer(died="failed")


def _outcome(path: Path) -> dict[str, str]:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    patience = PATIENCE_S if most == resource.RLIM_INFINITY else min(PATIENCE_S, most)
    resource.setrlimit(resource.RLIMIT_CPU, (patience, patience))
    try:
        limit_memory(max(MIN_MEMORY_BYTES, MEMORY_OF_FILE * path.stat().st_size))
        read_beginning(path)
    except ScanError as err:
        return {"error": type(err).__name__, "message": str(err)}
    except OSError as err:
        return {"error": ScanError.__name__, "message": f"{path}: cannot be read ({err.strerror})"}
    return {}


def _answer(**outcome: str) -> None:
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()


def read_beginning(path: Path) -> None:
    """Read of an HDF5 file all but its samples: structure, types, attributes and headers."""
    with open_hdf5(path) as file, reading(path, "its structure"):
        if is_sinogram(file):
            read_sinogram(path, file)
        elif is_fastmri(file):
            read_fastmri(path, file)
        elif (group := find_dataset_group(file)) is not None:
            text(path, group, "xml", MAX_HEADER_CHARACTERS)
            lines = read_heads(path, group)
            for _ in lines.samples(np.arange(1)):
                pass


if __name__ == "__main__":
    serve()
