"""The program as an engineer starts it, and as a power cut ends it."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import threading
import time
from pathlib import Path

import httpx
import pydicom
import pytest
from appliance_process import ApplianceProcess, write_config
from command_line import ldmpir_edge
from running_appliance import QUICK
from small_scans import write_fastmri

OK, IN_USE = 0, 61


def folders(root: Path) -> tuple[object, ...]:
    config = write_config(root / "a.toml", [QUICK])
    return ("--config", config, "--state", root / "state", "--out", root / "out")


def wait_idle(client: httpx.Client) -> None:
    until = time.monotonic() + 600
    while "ldmpir_undelivered_jobs 0.0" not in client.get("/metrics").text:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_appliance_starts_serves_and_stops(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", acceleration=2)
    process = ApplianceProcess(*folders(tmp_path), "--http", "127.0.0.1:0")
    process.wait_ready()
    with process.client() as client:
        scan = {"scan": ("Doe^Jane.h5", (tmp_path / "a.h5").read_bytes())}
        assert client.post("/v1/reconstructions", files=scan).status_code == 202
        wait_idle(client)
    second = ldmpir_edge("serve", *folders(tmp_path), "--http", "127.0.0.1:0")
    second.assert_refused(IN_USE, "in use by another process")
    workers = children(process.pid)
    assert len(workers) == 1
    assert process.end() == OK
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert len([*(tmp_path / "out").rglob("*.dcm")]) == 1
    records = [json.loads(line) for line in process.lines]
    assert {"door open", "engines loaded", "job received", "job finished", "delivered"} <= {
        record["event"] for record in records
    }
    assert all({"timestamp", "level", "logger", "event"} <= set(record) for record in records)
    assert not [line for line in process.lines if "Doe" in line or "Jane" in line]


def test_a_door_that_cannot_open_is_said_in_one_line(tmp_path: Path) -> None:
    flags = ("--state", tmp_path / "state", "--http", "192.0.2.1:8080")
    ldmpir_edge("serve", "--state", tmp_path / "state").assert_refused(2, "no door is open")
    ldmpir_edge("serve", *flags).assert_refused(2, "can be reached from other machines")
    (tmp_path / "a.toml").write_text('[http]\nlisten = "192.0.2.1:8080"\npeers = ["192.0.2.0/24"]')
    ldmpir_edge("serve", "--config", tmp_path / "a.toml", "--state", tmp_path / "s").assert_refused(
        2, "cannot listen on 192.0.2.1:8080"
    )


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue  # it ended meanwhile
        if parent == str(pid):
            found.append(int(path.parent.name))
    return found


def run_under_kill(root: Path, n_jobs: int, n_kills: int, seed: int) -> dict[int, str]:
    """Send jobs from three clients to an appliance that is killed; gives the ids by number."""
    draws = random.Random(seed)  # noqa: S311 - moments are no secret
    write_fastmri(root / "a.h5", acceleration=2)
    scan = (root / "a.h5").read_bytes()
    told: dict[int, str] = {}

    def send(client: httpx.Client, numbers: list[int]) -> None:
        for number in numbers:
            files = {"scan": (f"scan-{number}.h5", scan)}
            try:
                answer = client.post(
                    "/v1/reconstructions", files=files, headers={"Idempotency-Key": str(number)}
                )
            except httpx.TransportError:
                return
            if answer.status_code == 202:
                told[number] = answer.json()["id"]

    for kill in range(n_kills + 1):
        process = ApplianceProcess(*folders(root), "--http", "127.0.0.1:0")
        with process.client() as client:
            left = [number for number in range(n_jobs) if number not in told]
            if kill < n_kills:
                left = left[: n_jobs // n_kills + 5]
            threads = [threading.Thread(target=send, args=(client, left[i::3])) for i in range(3)]
            for thread in threads:
                thread.start()
            if kill < n_kills:
                if draws.random() < 0.7:  # else while it starts
                    process.wait_ready()
                time.sleep(draws.uniform(0.0, 2.0))
                workers = children(process.pid)
                process.end(signal.SIGKILL)
            for thread in threads:
                thread.join()
            if kill < n_kills:
                until = time.monotonic() + 10
                while any(_running(pid) for pid in workers):
                    assert time.monotonic() < until, "the worker outlived its front"
                    time.sleep(0.01)
            else:
                wait_idle(client)
                assert process.end() == OK
    return told


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def account(root: Path, told: dict[int, str], n_jobs: int) -> None:
    assert set(told) == set(range(n_jobs))
    assert len(set(told.values())) == n_jobs
    delivered = {path.name for path in (root / "out").iterdir() if path.name[0] != "."}
    assert delivered == {f"scan-{number}-{job_id[:12]}" for number, job_id in told.items()}
    pixels = set()
    for name in delivered:
        (image,) = (root / "out" / name).rglob("*.dcm")
        pixels.add(hashlib.sha256(pydicom.dcmread(image).PixelData).hexdigest())
    assert len(pixels) <= 2  # the model's image, and the classical one of a job cut short twice
    assert not [*(root / "state" / "incoming").iterdir()]


def test_kills_lose_nothing_and_deliver_nothing_twice(tmp_path: Path) -> None:
    account(tmp_path, run_under_kill(tmp_path, n_jobs=12, n_kills=2, seed=3), 12)


@pytest.mark.slow
def test_fifty_kills_lose_nothing_and_deliver_nothing_twice(tmp_path: Path) -> None:
    account(tmp_path, run_under_kill(tmp_path, n_jobs=250, n_kills=50, seed=4), 250)
