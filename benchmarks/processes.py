"""Processes for measuring: in a clean environment, and of what size."""

from __future__ import annotations

import os
import subprocess
import sys

OLD_OPENBLAS_SETTINGS = frozenset({"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"})
"""Of the workplace; they slow a current numpy, and are read when it is loaded."""


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in OLD_OPENBLAS_SETTINGS}


def restart_clean(**wanted: str) -> None:
    """Start this script again unless its environment is clean and holds `wanted`."""
    environment = clean_environment() | wanted
    if environment != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)  # noqa: S606


def peak_memory_mib(command: list[str]) -> float:
    """Run a command and return its largest resident size in MiB."""
    # The largest child so far counts, so this one has a child of its own to be measured in.
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
        "capture_output=True); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], check=True, capture_output=True, text=True
    )
    return int(done.stdout) / 1024
