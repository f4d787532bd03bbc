"""The worker's process: jobs through it, and what happens when it dies, hangs or is stopped."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from threading import Timer

import pydicom
import pytest
from running_appliance import QUICK, running, send, wait, wait_delivered
from small_scans import write_deadly_ismrmrd, write_fastmri, write_sinogram

from ldmpir_edge.errors import BundleError
from ldmpir_edge.serve import supervisor
from ldmpir_edge.serve.appliance import Appliance
from ldmpir_edge.serve.config import Route, load_config
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.work import Order
from ldmpir_edge.serve.worker_process import WorkerProcess

N_SLICES = 30
"""Enough that a job is still running when it is looked at."""


def worker_pid(appliance: Appliance) -> int:
    until = time.monotonic() + 60
    while appliance.supervisor.not_ready or appliance.supervisor._worker is None:
        assert time.monotonic() < until, appliance.supervisor.not_ready
        time.sleep(0.01)
    return appliance.supervisor._worker.pid


def comments(folder: Path) -> list[str]:
    return [str(pydicom.dcmread(p).ImageComments) for p in sorted(folder.rglob("*.dcm"))]


def test_jobs_are_reconstructed_and_delivered(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "knee.h5", n_slices=2, acceleration=2)
    write_sinogram(tmp_path / "head.h5")
    (tmp_path / "no.h5").write_bytes(b"no scan")
    with running(tmp_path) as appliance:
        jobs = [wait(appliance, send(appliance, tmp_path / f"{n}.h5")) for n in ("knee", "head")]
        failed = wait(appliance, send(appliance, tmp_path / "no.h5"))
        wait_delivered(appliance)
    assert [job.state for job in jobs] == ["done", "done"]
    assert (failed.state, failed.report) == ("failed", {"error": "ScanFormatError"})
    out = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(out) == {f"{job.stem}-{job.id[:12]}" for job in jobs}
    assert [p.name for p in sorted(out[f"knee-{jobs[0].id[:12]}"].rglob("*.dcm"))] == [
        "0001.dcm",
        "0002.dcm",
    ]
    modes = {path.stat().st_mode & 0o077 for path in tmp_path.glob("*/**/*")}
    assert modes == {0}


def test_a_file_that_would_end_the_worker_is_refused_at_once(tmp_path: Path) -> None:
    write_deadly_ismrmrd(tmp_path / "a.h5")
    with running(tmp_path) as appliance:
        pid = worker_pid(appliance)
        job = wait(appliance, send(appliance, tmp_path / "a.h5"))
        assert worker_pid(appliance) == pid
    assert (job.state, job.attempts) == ("failed", 1)
    assert job.report == {"error": "ScanFormatError"}


def test_a_worker_that_dies_costs_the_model_and_no_image(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", n_slices=N_SLICES, acceleration=2)
    write_fastmri(tmp_path / "b.h5", acceleration=2)
    with running(tmp_path) as appliance:
        pid = worker_pid(appliance)
        unlucky = send(appliance, tmp_path / "a.h5")
        next_one = send(appliance, tmp_path / "b.h5")
        wait(appliance, unlucky, "running")
        os.kill(pid, signal.SIGKILL)
        first, second = wait(appliance, unlucky), wait(appliance, next_one)
        wait_delivered(appliance)
        assert worker_pid(appliance) != pid
    assert (first.state, first.attempts) == ("fallback", 2)
    assert "ended by signal 9" in str(first.reason)
    assert second.state == "done"
    (delivered,) = (tmp_path / "out").glob("a-*")
    assert len(comments(delivered)) == N_SLICES
    assert all("ended by signal 9" in text for text in comments(delivered))


def test_a_disk_without_room_for_a_folder_makes_a_job_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FULL_DISK_PAUSE_S", 0.1)
    order, refusals = supervisor.Supervisor._order, [OSError(errno.ENOSPC, "No space left")] * 2

    def full_at_first(self: supervisor.Supervisor, job: Job, route: Route) -> Order:
        if refusals:
            raise refusals.pop()
        return order(self, job, route)

    monkeypatch.setattr(supervisor.Supervisor, "_order", full_at_first)
    write_fastmri(tmp_path / "a.h5", acceleration=2)
    with running(tmp_path) as appliance:
        job = wait(appliance, send(appliance, tmp_path / "a.h5"))
        assert appliance.supervisor.is_alive
    assert (job.state, job.n_lost, refusals) == ("done", 0, [])


def test_messages_that_arrive_together_are_all_heard(tmp_path: Path) -> None:
    """A worker held up in the middle of its answers, so that they reach the front at once."""
    write_fastmri(tmp_path / "a.h5", n_slices=8, acceleration=2)
    with running(tmp_path) as appliance:
        worker_pid(appliance)
        worker = appliance.supervisor._worker
        assert worker is not None
        heard, received = worker.has_message, worker.receive

        def slowly(timeout_s: float) -> bool:
            time.sleep(0.5)
            return heard(timeout_s)

        worker.has_message, worker.receive = slowly, received  # type: ignore[method-assign]
        started = time.monotonic()
        assert wait(appliance, send(appliance, tmp_path / "a.h5")).state == "done"
        assert time.monotonic() - started < 30


def test_a_worker_that_hangs_is_replaced_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LEAST_STALL_S", 6.0)
    monkeypatch.setattr(supervisor, "STALL_S", 6.0)
    write_fastmri(tmp_path / "a.h5", n_slices=N_SLICES, acceleration=2)
    with running(tmp_path, routes=[{**QUICK, "deadline_s": 60}]) as appliance:
        pid = worker_pid(appliance)
        job_id = send(appliance, tmp_path / "a.h5")
        wait(appliance, job_id, "running")
        os.kill(pid, signal.SIGSTOP)
        job = wait(appliance, job_id)
    assert job.state == "fallback"
    assert "silent for 6 s" in str(job.reason)
    assert job.due is not None
    assert job.finished is not None
    assert job.finished < job.due


def test_a_late_job_is_not_hurried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of no time is no time: its classical image would never be made."""
    monkeypatch.setattr(supervisor, "LEAST_STALL_S", 0.0)
    asked: list[Order] = []
    ordered = WorkerProcess.order

    def slowly(worker: WorkerProcess, order: Order) -> None:
        asked.append(order)
        os.kill(worker.pid, signal.SIGSTOP)
        ordered(worker, order)
        Timer(2.0, os.kill, (worker.pid, signal.SIGCONT)).start()

    monkeypatch.setattr(WorkerProcess, "order", slowly)
    write_fastmri(tmp_path / "a.h5", acceleration=2)
    with running(tmp_path, routes=[{**QUICK, "deadline_s": 0.01}]) as appliance:
        job = wait(appliance, send(appliance, tmp_path / "a.h5"))
    assert (job.state, job.n_lost) == ("fallback", 0)
    assert asked[0].remaining_s is not None
    assert asked[0].remaining_s < 0


def test_a_job_whose_route_is_gone_is_routed_again_by_its_label(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", n_slices=N_SLICES, acceleration=2)
    brain = {**QUICK, "name": "brain", "label": "brain*", "formats": ["npy"]}
    with running(tmp_path, routes=[brain, {**QUICK, "name": "rest"}]) as appliance:
        worker_pid(appliance)
        job_id = send(appliance, tmp_path / "a.h5", label="brain-1")
        wait(appliance, job_id, "running")
    renamed = {**brain, "name": "head"}
    with running(tmp_path, routes=[renamed, {**QUICK, "name": "rest"}]) as appliance:
        assert wait(appliance, job_id).report["outputs"] == ["image.npy"]


def test_a_stopped_appliance_goes_on_where_it_was(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", n_slices=N_SLICES, acceleration=2)
    with running(tmp_path) as appliance:
        pid = worker_pid(appliance)
        job_id = send(appliance, tmp_path / "a.h5")
        wait(appliance, job_id, "running")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not [*(tmp_path / "out").glob("*")]
    with running(tmp_path) as appliance:
        job = wait(appliance, job_id)
        wait_delivered(appliance)
    assert (job.state, job.n_lost, job.n_cut) == ("done", 0, 0)


def test_a_job_that_takes_its_worker_with_it_every_time_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOST", 2)
    write_fastmri(tmp_path / "a.h5", n_slices=N_SLICES, acceleration=2)
    with running(tmp_path) as appliance:
        job_id = send(appliance, tmp_path / "a.h5")
        for attempt in (1, 2):
            worker = worker_pid(appliance)
            while (job := wait(appliance, job_id, "running", "failed")).attempts != attempt:
                time.sleep(0.01)
            os.kill(worker, signal.SIGKILL)
            while job.state == "running" and job.attempts == attempt:
                job = wait(appliance, job_id, "queued", "running", "failed")
        job = wait(appliance, job_id)
    assert job.state == "failed"
    assert "2 attempts were cut short" in str(job.reason)


def test_a_bundle_that_is_not_signed_keeps_the_appliance_from_starting(tmp_path: Path) -> None:
    (tmp_path / "bad.ldmpir").write_bytes(b"no bundle")
    routes = [{"name": "a", "bundle": str(tmp_path / "bad.ldmpir")}]
    config = load_config(None, {"state": tmp_path / "state", "routes": routes})
    with pytest.raises(BundleError), Appliance(config):
        pass
    assert not (tmp_path / "state").exists()


def test_delivered_jobs_are_kept_for_a_while(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", acceleration=2)
    with running(tmp_path, limits={"min_free_bytes": 0, "keep_hours": 24}) as appliance:
        job = wait(appliance, send(appliance, tmp_path / "a.h5"))
        wait_delivered(appliance)
        appliance.keep_house()
        assert appliance.supervisor.result(job).is_dir()
    with running(tmp_path, limits={"min_free_bytes": 0, "keep_hours": 0}) as appliance:
        appliance.keep_house()
        assert appliance.queue.get(job.id) is None
        assert not [*appliance.folder.jobs.iterdir()]
