"""kill -9, a full disk and a power cut: nothing acknowledged is lost, nothing comes twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from appliance_process import ApplianceProcess, write_config
from queue_under_kill import RESULT, Appliance, content
from running_appliance import QUICK
from small_scans import write_fastmri

from ldmpir_edge.errors import StateError
from ldmpir_edge.serve import state_folder
from ldmpir_edge.serve.queue import JobQueue
from ldmpir_edge.serve.state_folder import StateFolder

SUPPORT = Path(__file__).resolve().parents[1] / "support"


def run_under_kill(folder: Path, n_jobs: int, n_kills: int, seed: int) -> None:
    script = SUPPORT / "queue_under_kill.py"
    subprocess.run(
        [sys.executable, script, folder, *map(str, (n_jobs, n_kills, seed))],
        check=True,
        timeout=600,
    )


def account(folder: Path, n_jobs: int) -> None:
    """Every request has one job, one delivery, and the bytes that it must give."""
    told = dict(line.split() for line in (folder / "acks").read_text().splitlines())
    assert set(told) == set(map(str, range(n_jobs)))
    expected = {
        f"scan-{number}-{told[str(number)][:12]}": hashlib.sha256(content(number)).hexdigest()
        for number in range(n_jobs)
    }
    out = {
        path.name: (path / RESULT).read_text()
        for path in (folder / "out").iterdir()
        if not path.name.startswith(".")
    }
    assert out == expected
    queue = JobQueue(folder / "state" / "queue.sqlite3")
    assert queue.known() == set(told.values())
    assert queue.counts()["done"] == n_jobs
    assert queue.waiting_deliveries() == {}
    queue.close()
    state = StateFolder(folder / "state")
    assert {path.name for path in state.jobs.iterdir()} == set(told.values())
    assert not [*state.incoming.iterdir()]


def test_every_job_is_accounted_for_after_kills(tmp_path: Path) -> None:
    run_under_kill(tmp_path, n_jobs=120, n_kills=8, seed=1)
    account(tmp_path, 120)


@pytest.mark.slow
def test_every_job_is_accounted_for_after_fifty_kills(tmp_path: Path) -> None:
    run_under_kill(tmp_path, n_jobs=800, n_kills=50, seed=2)
    account(tmp_path, 800)


class Program:
    """`ldmpir-edge serve`, killed and started again over one state folder, and its clients."""

    def __init__(self, folder: Path) -> None:
        config = write_config(folder / "appliance.toml", [QUICK])
        self._arguments = (
            *("--config", config, "--state", folder / "state", "--out", folder / "out"),
            *("--http", "127.0.0.1:0"),
        )
        self._scan = (folder / "scan.h5").read_bytes()
        self.told: dict[int, str] = {}
        self.process = ApplianceProcess(*self._arguments)

    def send(self, number: int) -> None:
        """Send a scan as often as it takes until an answer comes back, always by the same key."""
        while number not in self.told:
            try:
                with httpx.Client(base_url=f"http://{self._door()}", timeout=10) as client:
                    answer = client.post(
                        "/v1/reconstructions",
                        files={"scan": (f"{number}.h5", self._scan)},
                        headers={"Idempotency-Key": f"scan {number}"},
                    )
            except (httpx.HTTPError, AssertionError):
                time.sleep(0.05)  # it was killed meanwhile, or before it opened its door
                continue
            if answer.status_code == 202:
                self.told[number] = answer.json()["id"]

    def kill(self) -> None:
        """End the front and the worker at once, and start both again."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        workers = {int(pid) for task in tasks for pid in task.read_text().split()}
        for pid in (self.process.pid, *workers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.end(signal.SIGKILL)
        self.process = ApplianceProcess(*self._arguments)

    def _door(self) -> str:
        process = self.process
        return process.door("http")


@pytest.mark.slow
def test_the_whole_program_killed_fifty_times_accounts_for_every_job(tmp_path: Path) -> None:
    n_jobs, n_kills, n_clients, n_slices = 250, 50, 4, 3
    write_fastmri(tmp_path / "scan.h5", n_slices=n_slices, acceleration=2)
    program = Program(tmp_path)
    rng = np.random.default_rng(3)
    with ThreadPoolExecutor(n_clients) as clients:
        sent = [clients.submit(program.send, number) for number in range(n_jobs)]
        for _ in range(n_kills):
            time.sleep(rng.uniform(0.5, 8.0))
            program.kill()
        for answer in sent:
            answer.result()
    states: dict[str, str] = {}
    with program.process.client() as client:
        until = time.monotonic() + 600
        while len(states) < n_jobs:
            for job_id in set(program.told.values()) - states.keys():
                try:
                    job = client.get(f"/v1/reconstructions/{job_id}").json()
                except httpx.TransportError:
                    continue  # the machine is busy: a connection that rested too long
                delivered = all(not target["waiting"] for target in job["deliveries"])
                if job["state"] in {"done", "fallback", "failed"} and delivered:
                    states[job_id] = job["state"]
            assert time.monotonic() < until, states
            time.sleep(1.1)  # of the requests that a client may make in a minute
    assert program.process.end() == 0

    assert set(program.told) == set(range(n_jobs))
    assert len(set(program.told.values())) == n_jobs
    # A job that met eight kills is not given to the engine again: an image, all the same.
    assert set(states.values()) <= {"done", "fallback"}
    # A kill may leave a hidden temporary behind, which a start sweeps once it is old enough.
    out = [path for path in (tmp_path / "out").iterdir() if path.name[0] != "."]
    delivered_to = {path.name: path for path in out}
    expected = {f"{number}-{job_id[:12]}" for number, job_id in program.told.items()}
    assert set(delivered_to) == expected
    images = [path for folder in delivered_to.values() for path in folder.rglob("*.dcm")]
    assert len(images) == n_slices * n_jobs
    assert all(pydicom.dcmread(path).pixel_array.any() for path in images)
    queue = JobQueue(tmp_path / "state" / "queue.sqlite3")
    cuts = [job.n_cut for job_id in program.told.values() if (job := queue.get(job_id))]
    assert queue.known() == set(program.told.values())
    assert queue.waiting_deliveries() == {}
    queue.close()
    sys.stdout.write(f"{Counter(states.values())}, cuts of a job: {Counter(cuts)}\n")


class Disk:
    """Knows what a power cut leaves: what was flushed, under names that were flushed.

    A file is its inode, so that a rename moves what is flushed already. SQLite flushes by itself,
    unseen from here, and is taken at its word.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._content: dict[int, bytes | dict[str, int]] = {}
        self._flush = os.fsync
        monkeypatch.setattr(os, "fsync", self._record)

    def _record(self, descriptor: int) -> None:
        self._flush(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        inode = os.fstat(descriptor).st_ino
        if path.is_dir():
            self._content[inode] = {entry.name: entry.stat().st_ino for entry in path.iterdir()}
        else:
            self._content[inode] = path.read_bytes()

    def restore(self, folder: Path, place: Path) -> None:
        """Write to `place` what is left of `folder`."""
        self._restore(folder.stat().st_ino, place)

    def _restore(self, inode: int, place: Path) -> None:
        kept = self._content.get(inode, b"")
        if isinstance(kept, bytes):
            place.write_bytes(kept)
            return
        place.mkdir()
        for name, child in kept.items():
            self._restore(child, place / name)


def test_what_was_acknowledged_is_there_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    appliance = Appliance(tmp_path)
    told = {number: appliance.send(number) for number in range(5)}
    after = StateFolder(tmp_path / "after")
    after.root.mkdir()
    disk.restore(appliance.state.jobs, after.jobs)
    for path in appliance.state.root.glob("queue.sqlite3*"):
        shutil.copy(path, after.root)
    queue = JobQueue(after.database)
    assert sorted(queue.recover()) == sorted(told.values())
    for number, job_id in told.items():
        assert (after.payload(job_id) / "scan").read_bytes() == content(number)


FULL_DISK = """
    import os, subprocess, sys
    from pathlib import Path
    from queue_under_kill import Appliance, content
    from ldmpir_edge.errors import OverloadError

    folder = Path(sys.argv[1])
    (folder / "state").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder / "state"], check=True)
    (folder / "state" / "ballast").write_bytes(bytes(6 * 2**20))
    appliance = Appliance(folder)
    told, refused = {}, 0
    for number in range(200):
        try:
            told[number] = appliance.send(number)
        except OverloadError as err:
            refused += 1
            assert "full" in str(err), err
    assert told and refused, (told, refused)
    assert appliance.queue.known() == set(told.values())
    assert not [*appliance.state.incoming.iterdir()]
    assert {path.name for path in appliance.state.jobs.iterdir()} == set(told.values())
    (folder / "state" / "ballast").unlink()
    while appliance.work():
        assert appliance.courier.deliver_next()
    Path(folder / "acks").write_text("".join(f"{n} {i}\\n" for n, i in told.items()))
    print(len(told))
"""


def in_namespace(script: str, folder: Path) -> str:
    """Run Python as root of a user namespace of its own, where it may mount; else skip."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], check=False).returncode
    ):
        pytest.skip("this system gives no user namespaces, so no small disk can be mounted")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", textwrap.dedent(script), folder],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    n_told = int(in_namespace(FULL_DISK, tmp_path))
    told = dict(line.split() for line in (tmp_path / "acks").read_text().splitlines())
    out = {path.name: (path / RESULT).read_text() for path in (tmp_path / "out").iterdir()}
    assert len(out) == n_told
    assert out == {
        f"scan-{number}-{job_id[:12]}": hashlib.sha256(content(int(number))).hexdigest()
        for number, job_id in told.items()
    }


def test_one_process_holds_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_folder, "LOCK_WAIT_S", 0.1)
    folder = StateFolder(tmp_path / "state")
    with folder.hold():
        assert folder.root.stat().st_mode & 0o777 == 0o700
        with pytest.raises(StateError, match="in use"), StateFolder(tmp_path / "state").hold():
            pass
    with folder.hold():
        pass


def test_a_state_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="--state"), StateFolder(tmp_path / "file").hold():
        pass
