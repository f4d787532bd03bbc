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
import typer
from small_scans import write_fastmri, write_sinogram

from ldmpir_edge.bundle import find_bundle
from ldmpir_edge.cli.app import INTERRUPTED, app
from ldmpir_edge.cli.finetune import BASE_KEPT
from ldmpir_edge.errors import NotEnoughScansError
from ldmpir_edge.physics.problem import FAMILIES, Family
from ldmpir_edge.reconstruct import load
from ldmpir_edge.serve.config import load_config

ROOT = Path(__file__).resolve().parents[2]
KITS = ROOT / "runtimes"
IMAGES = ["Containerfile", "Containerfile.jetson"]
UNIT = KITS / "systemd" / "ldmpir-edge.service"
NIGHT_UNIT = KITS / "systemd" / "ldmpir-edge-finetune@.service"
TIMER = KITS / "systemd" / "ldmpir-edge-finetune@.timer"


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


@pytest.mark.parametrize("asked", [UNIT, NIGHT_UNIT, TIMER])
def test_the_units_are_such(tmp_path: Path, asked: Path) -> None:
    # The program need not be installed where this runs.
    for unit in (UNIT, NIGHT_UNIT, TIMER):
        text = unit.read_text().replace("/opt/ldmpir-edge/bin/ldmpir-edge", "/bin/true")
        name = unit.name.replace("@", "@brain")
        (tmp_path / name).write_text(text.replace("User=ldmpir-edge", "User=root"))
    name = asked.name.replace("@", "@brain")
    done = analyze("verify", tmp_path / name)
    assert done.returncode == 0, done.stderr
    assert name not in done.stderr, done.stderr


@pytest.mark.parametrize("unit", [UNIT, NIGHT_UNIT])
def test_the_units_are_hardened(unit: Path) -> None:
    # 0 is best, 10 is none; systemd's own words from 2.0 down are "OK" and better.
    done = analyze("security", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout[-600:] + done.stderr


def settings(unit: Path) -> dict[str, list[str]]:
    """Give the values of each setting of a unit."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_fine_tuning_has_the_appliances_folders_and_comes_last() -> None:
    day, night = settings(UNIT), settings(NIGHT_UNIT)
    for name in ("User", "StateDirectory", "CacheDirectory", "Environment", "UMask"):
        assert night[name] == day[name], name
    assert night["CPUSchedulingPolicy"] == ["idle"]
    assert night["MemorySwapMax"] == ["0"]
    assert night["PrivateNetwork"] == ["yes"]
    ended = {int(code) for code in night["SuccessExitStatus"][0].split()}
    assert ended == {BASE_KEPT, NotEnoughScansError.exit_code, INTERRUPTED}
    assert "systemctl enable --now ldmpir-edge-finetune@" in TIMER.read_text()


def test_the_command_of_fine_tuning_is_one() -> None:
    (line,) = settings(NIGHT_UNIT)["ExecStart"]
    _, *words = line.replace("%i", "brain").split()
    assert words[0] == "finetune"
    command = typer.main.get_command(app).commands["finetune"]
    given = command.make_context("finetune", words[1:], resilient_parsing=False).params
    assert given["from_queue"] == Path("/etc/ldmpir-edge/appliance.toml")
    assert (given["route"], given["output"]) == ("brain", None)
    assert not given["scans"]
    assert given["key"] is not None
    (serving,) = settings(UNIT)["ExecStart"]
    assert str(given["from_queue"]) in serving


def test_unit_and_image_give_the_folders_that_the_configuration_names() -> None:
    unit = UNIT.read_text()
    images = [(KITS / "oci" / name).read_text() for name in IMAGES]
    for text in (unit, *images):
        for name in ("LDMPIR_CACHE_DIR", "XDG_CONFIG_HOME", "LDMPIR_TRUSTED_KEYS"):
            assert name in text
    for kit, given in (("systemd", unit), *(("oci", image) for image in images)):
        config = load_config(KITS / kit / "appliance.toml", {})
        assert config.out is not None
        assert config.watch is not None
        for folder in (config.out, config.watch.folder):
            assert str(folder.parent) in given


def instructions(name: str) -> list[tuple[str, str]]:
    """Give the (instruction, rest) of an image file, continued lines joined."""
    text = (KITS / "oci" / name).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined]


def last(name: str, instruction: str) -> str:
    return [rest for word, rest in instructions(name) if word == instruction][-1]


def arguments(name: str) -> dict[str, str]:
    return dict(
        rest.split("=", 1) for word, rest in instructions(name) if word == "ARG" and "=" in rest
    )


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_starts_the_appliance_as_nobody_in_particular(name: str) -> None:
    known = {"ADD", "ARG", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN"}
    assert {word for word, _ in instructions(name)} <= known | {"USER", "VOLUME"}
    assert json.loads(last(name, "ENTRYPOINT")) == [
        *("ldmpir-edge", "serve", "--config", "/etc/ldmpir-edge/appliance.toml")
    ]
    config = load_config(KITS / "oci" / "appliance.toml", {})
    named = {where.rpartition(":")[2] for where in config.doors.values() if ":" in where}
    assert set(last(name, "EXPOSE").split()) == named
    assert int(last(name, "USER")) >= 1000
    assert f"--uid {last(name, 'USER')} " in last(name, "RUN")
    volumes = [Path(volume) for volume in json.loads(last(name, "VOLUME"))]
    assert config.out is not None
    assert config.watch is not None
    for folder in (config.state, config.out, config.watch.folder):
        assert any(volume in folder.parents for volume in volumes)
    health = last(name, "HEALTHCHECK")
    assert config.http is not None
    assert f"http://127.0.0.1:{config.http.listen.port}/healthz" in health


@pytest.mark.parametrize("name", IMAGES)
def test_what_an_image_takes_from_the_checkout_is_there(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word, rest in instructions(name):
        if word == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            for source in sources:
                made = re.search(r"^DIST *= dist$", makefile, re.MULTILINE)
                assert (ROOT / source).is_file() or (made and source.startswith("dist/"))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_installs_extras_that_there_are(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = last(name, "RUN")
    (extras,) = re.findall(r"ldmpir_edge-\*\.whl\)\[(.*?)\]", installed)
    extras = extras.replace("${EXTRAS}", arguments(name).get("EXTRAS", ""))
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    versions = re.findall(r"python:?(3\.\d+)", installed + arguments(name)["BASE"])
    assert set(versions) == {"3.11"}
    assert project["requires-python"] == ">=3.11"


def test_the_jetson_image_has_the_tensorrt_that_the_export_is_held_against() -> None:
    given = arguments("Containerfile.jetson")
    parser = tomllib.loads((ROOT / "export" / "jetson-orin.toml").read_text())["engine"]["parser"]
    assert parser == f"tensorrt-{given['TENSORRT'].rpartition('.')[0]}"
    # JetPack 6.1 and 6.2, whose libraries these are; earlier ones have TensorRT 8.6.
    assert re.fullmatch(r"nvcr\.io/nvidia/l4t-jetpack:r36\.[4-9]\.\d+", given["BASE"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"cuda-bindings>={given['CUDA']}" in project["optional-dependencies"]["tensorrt"]
    assert f"'cuda-bindings>={given['CUDA']},<13'" in last("Containerfile.jetson", "RUN")


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
