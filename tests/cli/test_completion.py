"""The shell asks the program for what may follow."""

from __future__ import annotations

import os

import pytest
from command_line import ldmpir_edge_process


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("ver",), ["verify"]),
        (("run", "--prec"), ["--precision"]),
        (("run", "--bundle", "ldm"), ["ldmpir-2m", "ldmpir_edge/"]),
        (("run", "--backend", "open"), ["openvino"]),
        (("run", "--format", "dicom,n"), ["dicom,nii", "dicom,npy"]),
        (("run", "--format", "nii,n"), ["nii,npy"]),
        (("inspect", "models/ldmp"), ["models/ldmpir-2m/"]),
        (("run", "--task", "inp"), ["inpaint"]),
    ],
)
def test_bash_is_offered(typed, offered):
    env = {
        **os.environ,
        "_LDMPIR_EDGE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("ldmpir-edge", *typed)),
        "COMP_CWORD": str(len(typed)),
    }
    asked = ldmpir_edge_process(before="import sys; sys.argv[0] = 'ldmpir-edge'", env=env)
    assert asked.out.split() == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell):
    shown = ldmpir_edge_process(
        "--show-completion", shell, before="import sys; sys.argv[0] = 'ldmpir-edge'"
    )
    assert shown.code == 0
    assert "_LDMPIR_EDGE_COMPLETE" in shown.out
