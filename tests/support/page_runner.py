"""Run what a page shows, as its reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from readme_blocks import SHELL, Block, commands

COVERED_BY: dict[str, str] = {
    r"git clone \S+": ".ci/run",
    r"cd \S+": ".ci/run",
    r"make (demo|test|check|docs|wheel)( [A-Z_]+=\S+)*": ".ci/run",
    r"\.ci/run": ".ci/run",
    r"python3? -m venv \S+": "Makefile",
    r"(source|\.) \S+/bin/activate": "Makefile",
    r"pip install (-e )?'?(ldmpir-edge|\.)(\[[a-z,]+\])?'?": ".ci/run",
    r"pip install -c constraints/dev\.txt -e '\.\[dev\]'": "Makefile",
    r"ldmpir-edge train .*": "tests/training",
    r"ldmpir-edge export .*": "tests/export",
}
"""Commands too long for a test or that build the environment, and what runs them instead.

Everything else in a shell block is run here.
"""

RUN_TIMEOUT_S = 240


def run_block(block: Block, folder: Path, *, train_and_export: bool = False) -> None:
    """Write the file that a block shows, or run its commands in `folder`."""
    if block.title is not None:
        (folder / block.title).parent.mkdir(exist_ok=True)
        (folder / block.title).write_text(block.text, encoding="utf-8")
    elif block.language in SHELL:
        long = r"ldmpir-edge (train|export) .*" if train_and_export else r"(?!)"
        script = "\n".join(
            line
            for line in commands(block)
            if re.fullmatch(long, line) or not any(re.fullmatch(c, line) for c in COVERED_BY)
        )
        run(["bash", "-ec", script], script, folder)
    elif block.language == "python":
        run([sys.executable, "-c", block.text], block.text, folder)


def run(argv: list[str], shown: str, folder: Path) -> None:
    """Run a command with the environment's scripts on the path; fail with what it said."""
    scripts = Path(sys.executable).parent
    path = os.pathsep.join((str(scripts), os.environ.get("PATH", os.defpath)))
    # A file, for a pipe would wait for what the page leaves running.
    with tempfile.TemporaryFile("w+") as said:
        result = subprocess.run(
            argv,
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        said.seek(0)
        assert result.returncode == 0, f"the page's\n{shown}\nfailed:\n{said.read()}"
