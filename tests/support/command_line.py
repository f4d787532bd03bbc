"""Run `ldmpir-edge` as its user does, in this process or in one of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ldmpir_edge.cli.app import main

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120

BLOCK = """
import sys
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refusal())
"""
"""Statements for `before`, formatted with the packages that cannot be imported then."""


@dataclass(frozen=True)
class Finished:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """The one JSON object of `--json`; fails if standard output holds anything else."""
        assert self.code == 0, self.err
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    def assert_refused(self, code: int, *words: str) -> None:
        """One line that says why, the exit code, and nothing on standard output."""
        assert self.code == code, f"exit code {self.code}: {self.err}"
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        for word in words:
            assert word in lines[0]


def ldmpir_edge(*arguments: object) -> Finished:
    """Run the program's own `main` in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["ldmpir-edge", *map(str, arguments)]
    with patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Finished(code, out.getvalue(), err.getvalue())


def ldmpir_edge_process(
    *arguments: object,
    before: str = "",
    env: Mapping[str, str] | None = None,
    preexec: Callable[[], None] | None = None,
) -> Finished:
    """Run the program in a process of its own, after the Python statements `before`."""
    start = f"{before}\nfrom ldmpir_edge.cli.app import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        cwd=ROOT,
        env=env,
        preexec_fn=preexec,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)
