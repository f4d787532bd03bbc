"""How much a command says, and to whom."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from command_line import ldmpir_edge, ldmpir_edge_process

from ldmpir_edge import __version__

ESCAPE = "\x1b["


def test_verbose_says_on_standard_error_how_the_scan_was_read(scans, tmp_path):
    path, _ = scans["dicom"]
    said = ldmpir_edge_process("run", path, "-o", tmp_path, "--steps", "1", "--verbose", "--json")
    assert f"{path} is read as Dicom" in said.err
    assert said.report["steps"] == 1, "standard output is the report's alone"


def test_without_it_nothing_is_said(scans, tmp_path):
    path, _ = scans["dicom"]
    assert ldmpir_edge_process("run", path, "-o", tmp_path, "--steps", "1").err == ""


def test_quiet_keeps_results_and_errors_and_drops_remarks(tmp_path):
    assert "ldmpir-2m" in ldmpir_edge("models", "--quiet").out
    ldmpir_edge("run", tmp_path / "absent.h5", "--quiet").assert_refused(10, "absent.h5")


def test_quiet_shows_no_progress_on_a_terminal(tmp_path):
    loud, quiet = (_on_a_terminal(tmp_path, "doctor", *flags) for flags in ((), ("--quiet",)))
    assert "checking" in loud
    assert "checking" not in quiet
    assert "This machine" in quiet


def test_quiet_and_verbose_exclude_each_other():
    ldmpir_edge("models", "-q", "-v").assert_refused(2, "--quiet", "--verbose")


def test_colour_is_for_terminals(tmp_path):
    assert ESCAPE in _on_a_terminal(tmp_path, "--help")
    assert ESCAPE not in ldmpir_edge_process("--help").out


def test_no_color_is_heeded(tmp_path):
    shown = _on_a_terminal(tmp_path, "run", "absent.h5", NO_COLOR="1")
    assert "absent.h5" in shown
    # Bold is no colour: https://no-color.org asks for those of the text to be left out.
    assert f"{ESCAPE}1;31m" in _on_a_terminal(tmp_path, "run", "absent.h5")
    assert "31m" not in shown


def test_the_version_is_the_package_s():
    assert ldmpir_edge("--version").out.strip() == __version__


def test_a_mistyped_option_or_command_is_answered_with_the_nearest():
    ldmpir_edge("run", "--stpes", "2", "x.h5").assert_refused(
        2, "--steps", "ldmpir-edge run --help"
    )
    ldmpir_edge("rnu").assert_refused(2, "'run'", "ldmpir-edge --help")


def _on_a_terminal(folder: Path, *arguments: str, **environment: str) -> str:
    """What a terminal is sent."""
    ours, theirs = pty.openpty()
    env = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "CI")}
    with subprocess.Popen(
        [sys.executable, "-c", "from ldmpir_edge.cli.app import main; main()", *arguments],
        cwd=folder,
        env={**env, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        sent = b""
        try:
            while part := os.read(ours, 4096):
                sent += part
        except OSError:  # how Linux tells that the other end is closed
            pass
    os.close(ours)
    return sent.decode()
