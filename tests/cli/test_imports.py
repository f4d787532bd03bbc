"""Starting is quick because little is imported: counted in modules, which no busy machine changes.

The seconds are measured by benchmarks/startup.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HEAVY = {
    *("numpy", "scipy", "cryptography", "array_api_compat"),
    *("h5py", "pydicom", "PIL", "ismrmrd", "nibabel", "skimage", "matplotlib"),
    *("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"),
}

COMMANDS = (
    *("run", "report", "sample", "serve", "models", "inspect", "doctor"),
    *("verify", "compare", "bench", "train", "finetune", "export", "compile"),
    *("promote", "rollback"),
)

PROBE = """
import json, sys
listing = sys.argv.pop()
from ldmpir_edge.cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
with open(listing, "w") as file:
    json.dump(sorted({name.partition(".")[0] for name in sys.modules}), file)
"""


def _imported(tmp_path: Path, *arguments: object) -> set[str]:
    """The top-level packages in a fresh process after a command."""
    listing = tmp_path / "modules.json"
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, arguments), listing],
        env={**os.environ, "LDMPIR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(listing.read_text()))


def test_the_programs_help_needs_nothing_heavy(tmp_path: Path) -> None:
    imported = _imported(tmp_path, "--help")
    assert "typer" in imported, "the probe lists nothing"
    assert not imported & {*HEAVY, "pydantic"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_needs_nothing_heavy(tmp_path: Path, command: str) -> None:
    imported = _imported(tmp_path, command, "--help")
    assert "typer" in imported, "the probe lists nothing"
    # Pydantic is not refused here: Typer itself reads a command's options with it.
    assert not imported & HEAVY


@pytest.mark.parametrize("kind", ["ct", "dicom"])
def test_run_imports_one_engine_and_no_figure_or_training_library(
    tmp_path: Path, scans: dict[str, tuple[Path, np.ndarray]], kind: str
) -> None:
    path, _ = scans[kind]
    imported = _imported(tmp_path, "run", path, "-o", tmp_path / "out", "--format", "npy")
    assert {"numpy", "pydantic"} <= imported, "the probe lists nothing"
    assert not imported & {"torch", "onnx", "matplotlib", "nibabel"}
    # Its non-local means are what denoising starts from, and take milliseconds to import.
    assert ("skimage" in imported) == (kind == "dicom")
    assert len(imported & {"openvino", "onnxruntime"}) == 1
