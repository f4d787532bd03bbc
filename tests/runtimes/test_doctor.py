"""The doctor's report against what the system says by other means."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import pytest

from ldmpir_edge.runtimes import cpu, doctor
from ldmpir_edge.runtimes.doctor import examine, this_machine


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_report_is_json_and_names_every_backend() -> None:
    report = examine()
    plain = json.loads(json.dumps(report.to_dict()))
    names = [entry["name"] for entry in plain["backends"]]
    assert names == ["tensorrt", "tensorrt_rtx", "openvino", "onnxruntime", "torch"]
    for entry in report.backends:
        if entry.availability.ok:
            installed = importlib.metadata.version(entry.name)
            assert entry.availability.version.startswith(installed.split("+")[0])
            assert entry.availability.devices
        else:
            assert entry.availability.reason
        # Without an NVIDIA GPU no command brings TensorRT.
        remedy = entry.availability.install_command
        assert remedy.startswith("pip install ") or (
            entry.name.startswith("tensorrt") and not remedy
        )
        probed = entry.availability.ok and entry.name in ("openvino", "onnxruntime")
        assert (entry.conformance is not None) == probed
    assert report.choice.backend in {e.name for e in report.backends if e.availability.ok}


def test_the_machine_is_this_one() -> None:
    machine = this_machine()
    assert machine.architecture == platform.machine()
    nproc = subprocess.run(
        ["nproc", "--all"] if not hasattr(os, "sched_getaffinity") else ["nproc"],
        env={"PATH": os.environ["PATH"]},  # nproc honours OMP_NUM_THREADS, the doctor must not
        capture_output=True,
        check=True,
        text=True,
    )
    assert machine.n_cores == int(nproc.stdout)
    total_kib = int(Path("/proc/meminfo").read_text().split()[1])
    assert 0 < machine.memory_bytes <= total_kib * 1024


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_CGROUP_MEMORY", tmp_path / "memory.max")
    (tmp_path / "memory.max").write_text("1048576\n")
    assert this_machine().memory_bytes == 1048576
    (tmp_path / "memory.max").write_text("max\n")
    assert this_machine().memory_bytes > 1048576


def test_the_processor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Example 9000 @ 2 GHz\nflags\t\t: fpu sse2 avx2 amx_int8\n\n"
        "processor\t: 1\nmodel name\t: Other\n"
    )
    machine = this_machine()
    assert machine.cpu == "Example 9000 @ 2 GHz"
    assert machine.cpu_features == ("amx_int8", "avx2")
    (tmp_path / "cpuinfo").unlink()
    assert this_machine().cpu_features == ()
