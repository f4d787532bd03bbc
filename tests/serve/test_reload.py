"""The shipped bundle replaced while jobs run: by a tampered file, a wrong model, a right one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import numpy as np
import pytest
from running_appliance import QUICK, WAIT_S, running, send, wait, wait_delivered
from small_scans import write_fastmri

from ldmpir_edge.bundle import (
    Archive,
    describe_entries,
    find_bundle,
    generate_key,
    load_signing_key,
    write_bundle,
)


def sign_again(path: Path, key: Path, changes: Mapping[str, bytes], version: str) -> None:
    """Write the shipped bundle with other entries and another version, signed by `key`."""
    archive = Archive(find_bundle("ldmpir-2m"))
    files = {name: archive.read(name) for name in archive.manifest.entries} | changes
    model = archive.manifest.model.model_copy(update={"version": version})
    manifest = archive.manifest.model_copy(
        update={"entries": describe_entries(files), "model": model}
    )
    write_bundle(path, manifest, files, load_signing_key(key))


def other_weights() -> dict[str, bytes]:
    """Give the fp32 weights, each a twentieth larger."""
    archive = Archive(find_bundle("ldmpir-2m"))
    names = {name for v in archive.manifest.variants if v.precision == "fp32" for name in v.weights}
    return {
        name: (np.frombuffer(archive.read(name), "<f4") * np.float32(1.05)).tobytes()
        for name in names
    }


@pytest.mark.slow
def test_jobs_go_on_while_the_shipped_bundle_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    monkeypatch.setenv("LDMPIR_TRUSTED_KEYS", str(keys))
    generate_key(tmp_path / "key.pem").rename(keys / "ours.pem")
    path = tmp_path / "served.ldmpir"
    shutil.copy(find_bundle("ldmpir-2m"), path)
    wrong, right, tampered = (tmp_path / f"{name}.new" for name in ("wrong", "right", "tampered"))
    sign_again(wrong, tmp_path / "key.pem", other_weights(), "9.0.0")
    sign_again(right, tmp_path / "key.pem", {}, "9.0.1")
    data = bytearray(right.read_bytes())
    data[len(data) // 2] ^= 1
    tampered.write_bytes(data)
    write_fastmri(tmp_path / "a.h5", n_slices=3, acceleration=2)
    routes = [{**QUICK, "bundle": str(path)}]
    jobs: list[str] = []

    with running(tmp_path, http={"listen": "127.0.0.1:0"}, routes=routes) as appliance:

        def work_until(done: Callable[[], bool]) -> None:
            until = time.monotonic() + 2 * WAIT_S
            while not done():
                assert time.monotonic() < until, appliance.supervisor.engines
                jobs.append(send(appliance, tmp_path / "a.h5"))
                wait(appliance, jobs[-1], "running", "done", "fallback", "failed")

        def serving(key: str) -> str:
            (engine,) = appliance.supervisor.engines
            return str(engine[key])

        def page() -> str:
            return httpx.get(f"http://{appliance.open_doors['http']}/").text

        work_until(lambda: appliance.supervisor.not_ready is None)
        old = serving("bundle_sha256")
        tampered.replace(path)
        work_until(lambda: serving("bundle_not_taken") != "None")
        assert serving("bundle_sha256") == old
        refused = serving("bundle_not_taken")
        assert "the new file is not taken" in page()

        wrong.replace(path)
        work_until(lambda: serving("bundle_not_taken") != refused)
        assert serving("bundle_sha256") == old
        assert "it failed its golden pair" in serving("bundle_not_taken")
        assert "it failed its golden pair" in page()
        assert appliance.supervisor.not_ready is None

        right.replace(path)
        work_until(lambda: serving("bundle_sha256") != old)
        assert (serving("bundle_version"), serving("bundle_not_taken")) == ("9.0.1", "None")
        assert "not taken" not in page()
        new = serving("bundle_sha256")
        jobs.append(send(appliance, tmp_path / "a.h5"))
        ended = [wait(appliance, job_id) for job_id in jobs]
        wait_delivered(appliance)

    assert {job.state for job in ended} == {"done"}
    digests = [job.report["bundle_sha256"] for job in ended]
    n_old = digests.count(old)
    assert digests == [old] * n_old + [new] * (len(jobs) - n_old)
    assert digests[-1] == new
    assert len([*(tmp_path / "out").iterdir()]) == len(jobs)
