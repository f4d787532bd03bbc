"""The appliance side is light: importing it brings no engine, torch or heavy reader."""

from __future__ import annotations

import json
import subprocess
import sys

APPLIANCE = ("bundle", "runtimes", "scans", "report", "cli")
HEAVY = (
    *("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda"),
    *("matplotlib", "pydicom"),
)

PROBE = """
import importlib, json, pkgutil, sys
names = sys.argv[1].split(",")
for name in names:
    importlib.import_module("ldmpir_edge." + name)
for name in ("bundle", "runtimes"):
    package = sys.modules["ldmpir_edge." + name]
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(json.dumps(sorted(sys.modules)))
"""


def test_the_appliance_side_imports_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, ",".join(APPLIANCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    modules = json.loads(result.stdout)
    assert "ldmpir_edge.runtimes.torch_backend" in modules
    assert not set(HEAVY) & set(modules)
