"""The deployment kits in runtimes/: as far as they can be tried without a scanner or a registry."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from small_scans import write_fastmri, write_sinogram

from ldmpir_edge.serve.config import load_config

ROOT = Path(__file__).resolve().parents[2]
KITS = ROOT / "runtimes"
UNIT = KITS / "systemd" / "ldmpir-edge.service"


@pytest.mark.parametrize("kit", ["systemd", "oci", "openrecon"])
def test_the_configurations_are_valid(kit: str) -> None:
    config = load_config(KITS / kit / "appliance.toml", {})
    assert config.doors
    assert str(config.state).startswith("/var/lib/ldmpir-edge/")


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze; install the Debian package systemd")
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_unit_is_one(tmp_path: Path) -> None:
    # The program need not be installed where this runs.
    text = UNIT.read_text().replace("/opt/ldmpir-edge/bin/ldmpir-edge", "/bin/true")
    (tmp_path / UNIT.name).write_text(text.replace("User=ldmpir-edge", "User=root"))
    done = analyze("verify", tmp_path / UNIT.name)
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr, done.stderr


def test_the_unit_is_hardened() -> None:
    # 0 is best, 10 is none; systemd's own words from 2.0 down are "OK" and better.
    done = analyze("security", "--offline=true", "--threshold=20", UNIT)
    assert done.returncode == 0, done.stdout[-600:] + done.stderr


def test_unit_and_image_give_the_folders_that_the_configuration_names() -> None:
    unit = UNIT.read_text()
    image = (KITS / "oci" / "Containerfile").read_text()
    for text in (unit, image):
        for name in ("LDMPIR_CACHE_DIR", "XDG_CONFIG_HOME", "LDMPIR_TRUSTED_KEYS"):
            assert name in text
    for kit, given in (("systemd", unit), ("oci", image)):
        config = load_config(KITS / kit / "appliance.toml", {})
        assert config.out is not None
        assert config.watch is not None
        for folder in (config.out, config.watch.folder):
            assert str(folder.parent) in given


def test_the_image_installs_extras_that_there_are_and_starts_the_appliance() -> None:
    text = (KITS / "oci" / "Containerfile").read_text()
    extras = re.search(r"ARG EXTRAS=(\S+)", text)
    assert extras
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    entry = re.search(r"ENTRYPOINT (\[.*\])", text)
    assert entry
    assert json.loads(entry[1])[:3] == ["ldmpir-edge", "serve", "--config"]
    ports = re.search(r"EXPOSE (.*)", text)
    assert ports
    doors = load_config(KITS / "oci" / "appliance.toml", {}).doors
    named = {where.rpartition(":")[2] for where in doors.values() if ":" in where}
    assert set(ports[1].split()) == named


def test_the_label_fits_the_configuration(tmp_path: Path) -> None:
    label = json.loads((KITS / "openrecon" / "label.json").read_text())
    assert set(label) == {"general", "reconstruction", "parameters"}
    config = load_config(KITS / "openrecon" / "appliance.toml", {})
    assert config.mrd is not None
    assert label["reconstruction"]["port"] == config.mrd.listen.port
    assert list(config.doors) == ["mrd"]
    # build.sh, with an engine that prints what it is asked for.
    fake = tmp_path / "engine"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [KITS / "openrecon" / "build.sh", fake], capture_output=True, text=True, check=True
    )
    (given,) = [line for line in done.stdout.splitlines() if "openrecon.metadata" in line]
    name, _, value = given.partition("=")
    assert name == "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"
    assert json.loads(base64.b64decode(value)) == label


def test_the_python_example_reconstructs(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "knee.h5", n_slices=2, acceleration=2)
    write_sinogram(tmp_path / "head.h5")
    done = subprocess.run(
        [
            *(sys.executable, KITS / "embedding-python" / "reconstruct.py"),
            *(tmp_path / "knee.h5", tmp_path / "head.h5"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "knee.h5 slice 0",
        "knee.h5 slice 1",
        "head.h5 slice 0",
    ]
    assert all(line.endswith("model") for line in lines)
