"""The deployment kits in runtimes/: as far as they can be tried without a scanner or a registry."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from small_scans import write_fastmri, write_sinogram

from ldmpir_edge.bundle import find_bundle
from ldmpir_edge.physics.problem import FAMILIES, Family
from ldmpir_edge.reconstruct import load
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


@pytest.fixture(scope="module")
def cpp_example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The C++ example, built against the wheel's library, and its environment."""
    headers = Path(os.environ.get("ORT_INCLUDE", "/usr/include/onnxruntime"))
    if shutil.which("g++") is None or not (headers / "onnxruntime_c_api.h").is_file():
        pytest.skip("no g++ or no headers of ONNX Runtime: Debian 13's libonnxruntime-dev has them")
    folder = tmp_path_factory.mktemp("cpp")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (folder / "libonnxruntime.so.1").symlink_to(library)
    subprocess.run(
        [
            *("g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-I", headers),
            *(KITS / "embedding-cpp" / "reconstruct.cpp", folder / "libonnxruntime.so.1"),
            *("-o", folder / "reconstruct"),
        ],
        check=True,
        timeout=120,
    )
    return folder / "reconstruct", {**os.environ, "LD_LIBRARY_PATH": str(folder)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cpp_example_gives_what_python_gives(
    cpp_example: tuple[Path, dict[str, str]], tmp_path: Path, family: Family
) -> None:
    program, environment = cpp_example
    reconstructor = load("ldmpir-2m", backend="onnxruntime")
    command = [program, reconstructor.bundle.path, family, tmp_path / "image"]
    subprocess.run([*map(str, command)], check=True, env=environment, timeout=60)
    inputs = reconstructor.bundle.golden(family).inputs
    expected = reconstructor.engine(family).run(inputs)["image"]
    image = np.fromfile(tmp_path / "image", "<f4").reshape(expected.shape)
    np.testing.assert_allclose(image, expected, atol=1e-4)


def test_the_cpp_example_refuses_a_damaged_bundle(
    cpp_example: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    program, environment = cpp_example
    whole = find_bundle("ldmpir-2m").read_bytes()
    for data in (whole[:-100], whole[:1000] + whole[-100_000:], b""):
        (tmp_path / "bad").write_bytes(data)
        command = [program, tmp_path / "bad", "pointwise"]
        done = subprocess.run(command, check=False, env=environment, capture_output=True)
        assert done.returncode == 1, done
        assert b"bundle" in done.stderr
