"""An appliance inside the test's process, with its worker, that scans can be handed to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ldmpir_edge.serve.appliance import Appliance
from ldmpir_edge.serve.config import load_config
from ldmpir_edge.serve.jobs import Job

QUICK = {"name": "quick", "backend": "onnxruntime", "steps": [1]}
WAIT_S = 60.0


@contextmanager
def running(root: Path, **settings: Any) -> Iterator[Appliance]:
    """Run an appliance in `root`, with one step and ONNX Runtime unless told."""
    given: Mapping[str, Any] = {
        "state": root / "state",
        "out": root / "out",
        "limits": {"min_free_bytes": 0},
        "routes": [QUICK],
        **settings,
    }
    with Appliance(load_config(None, given)) as appliance:
        yield appliance


def send(appliance: Appliance, path: Path, **told: Any) -> str:
    """Hand in a file as a door does."""
    with appliance.intake.open("http", **told) as incoming:
        with incoming.file() as stream:
            incoming.write(stream, path.read_bytes())
        return incoming.accept(path.name)


def wait(appliance: Appliance, job_id: str, *states: str) -> Job:
    """Wait until a job is in one of the states, which are those of its end unless named."""
    wanted = states or ("done", "fallback", "failed")
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        job = appliance.queue.get(job_id)
        if job is not None and job.state in wanted:
            return job
        time.sleep(0.01)
    raise AssertionError(f"after {WAIT_S:g} s the job is {job}; {appliance.supervisor.not_ready}")


def wait_delivered(appliance: Appliance) -> None:
    """Wait until nothing is left to do."""
    until = time.monotonic() + WAIT_S
    while appliance.queue.load() != (0, 0):
        assert time.monotonic() < until, appliance.queue.waiting_deliveries()
        time.sleep(0.01)
