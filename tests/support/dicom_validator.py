"""dciodvfy, an independent judge of DICOM files (Debian package dicom3tools)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def dciodvfy_errors(path: Path) -> list[str]:
    """Give the validator's lines that start with Error; skips where it is not installed."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy not found; install the Debian package dicom3tools")
    done = subprocess.run(
        [program, str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=30,
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert any(line in {"MRImage", "CTImage"} for line in lines), lines  # it did recognise it
    return [line for line in lines if line.startswith("Error")]
