"""The appliance side imports, and the command line starts, without any heavy library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ldmpir_edge

WORKSTATION = {"export", "finetuning", "models", "training"}
"""Packages that may import torch; everything else is the appliance side."""

ENGINES = ("onnx", "onnxruntime", "onnxscript", "onnxslim", "openvino", "tensorrt", "torch")
READERS = ("astra", "ismrmrd", "matplotlib", "nibabel", "safetensors", "sigpy", "skimage")

MAX_MODULES_OF_HELP = 400
"""Typer and Rich load some 350 modules; NumPy alone would be 90 more, and a noticeable wait."""

# Refuses the named libraries as an environment without them would, and notes who asked: an
# import that is caught and survived is a slow start all the same.
PROBE = """
import importlib, json, sys

banned, names = set(sys.argv[1].split(",")), sys.argv[2].split(",")
asked = []

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            asked.append(name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refusal())
broken = {}
for name in names:
    try:
        importlib.import_module(name)
    except Exception as err:
        broken[name] = repr(err)
print(json.dumps({"asked": asked, "broken": broken}))
"""

HELP = """
import json, sys

sys.argv = ["ldmpir-edge", "--help"]
from ldmpir_edge.cli.app import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print(json.dumps(sorted(sys.modules)))
"""


def test_every_appliance_module_imports_without_engines_and_readers() -> None:
    names = _module_names()
    report = _probe(*ENGINES, *READERS, names=names)
    assert report["broken"] == {}
    assert report["asked"] == []


def test_the_workstation_side_imports_with_torch_alone() -> None:
    # Training must not ask for the export extra, nor either for an engine before it runs one.
    others = [name for name in ENGINES if name != "torch"]
    report = _probe(*others, names=_module_names(workstation=True))
    assert report["broken"] == {}
    assert report["asked"] == []


def test_the_probe_notices_a_heavy_import() -> None:
    report = _probe("json", names=["ldmpir_edge.errors", "sqlite3.dump", "json.tool"])
    assert list(report["broken"]) == ["json.tool"]


def test_help_loads_few_modules() -> None:
    result = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    modules = json.loads(result.stdout.splitlines()[-1])
    heavy = {name.partition(".")[0] for name in modules} & {*ENGINES, *READERS, "numpy", "pydantic"}
    assert not heavy
    assert len(modules) <= MAX_MODULES_OF_HELP


@pytest.mark.parametrize("name", ldmpir_edge.__all__)
def test_the_public_names_exist(name: str) -> None:
    assert getattr(ldmpir_edge, name) is not None


def _probe(*banned: str, names: list[str]) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, ",".join(banned), ",".join(names)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def _module_names(*, workstation: bool = False) -> list[str]:
    """Name every module of one side, from the files themselves."""
    root = Path(ldmpir_edge.__file__).parent
    files = [path.relative_to(root).with_suffix("") for path in sorted(root.rglob("*.py"))]
    parts = [path.parts for path in files if (path.parts[0] in WORKSTATION) is workstation]
    return [".".join(("ldmpir_edge", *part)).removesuffix(".__init__") for part in parts]
