"""A process that takes, works on and delivers jobs, and is killed by SIGKILL again and again.

Run as `python queue_under_kill.py FOLDER N_JOBS N_KILLS SEED`: the last run is left to finish.
What a client was told is appended to FOLDER/acks, which survives the process as its client would.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from ldmpir_edge.atomic import flush_file, flush_folder
from ldmpir_edge.serve.config import load_config
from ldmpir_edge.serve.courier import Courier, FolderTarget
from ldmpir_edge.serve.intake import Intake
from ldmpir_edge.serve.jobs import Delivery, Job
from ldmpir_edge.serve.metrics import Metrics
from ldmpir_edge.serve.parent_process import die_with_parent
from ldmpir_edge.serve.queue import JobQueue
from ldmpir_edge.serve.state_folder import StateFolder

N_CLIENTS = 3
RESULT = "sum"


def content(number: int) -> bytes:
    """The scan that client request `number` sends."""
    draws = random.Random(number)  # noqa: S311 - a scan is no secret
    return draws.randbytes(draws.randrange(1, 40_000))


def origin(number: int) -> str:
    return f"request {number}"


class Appliance:
    """Queue, intake and courier as the appliance has them, with a worker that hashes."""

    def __init__(self, folder: Path) -> None:
        config = load_config(
            None, {"state": folder / "state", "limits": {"max_jobs": 10**6, "min_free_bytes": 0}}
        )
        self.state = StateFolder(folder / "state")
        hold = self.state.hold()
        hold.__enter__()
        self.hold = hold
        self.queue = JobQueue(self.state.database)
        self.state.sweep(self.queue.known(), self.queue.recover())
        self.metrics = Metrics()
        self.intake = Intake(config, self.state, self.queue, self.metrics)
        target = FolderTarget(folder / "out")
        self.courier = Courier("out", target, self.queue, self.result, self.metrics)

    def result(self, job: Job) -> Path:
        return self.state.attempt(job.id, job.attempts)

    def send(self, number: int) -> str:
        data = content(number)
        with self.intake.open("http", origin=origin(number)) as incoming:
            with incoming.file() as stream:
                for start in range(0, len(data), 4096):
                    incoming.write(stream, data[start : start + 4096])
            return incoming.accept(f"scan-{number}.h5")

    def work(self) -> bool:
        job = self.queue.claim()
        if job is None:
            return False
        result = self.result(job)
        result.mkdir()
        data = (self.state.payload(job.id) / "scan").read_bytes()
        (result / RESULT).write_text(hashlib.sha256(data).hexdigest())
        flush_file(result / RESULT)
        flush_folder(result)
        self.queue.finish(job.id, "done", n_bytes=64, deliveries=[Delivery(job.id, "out", "")])
        self.courier.wake()
        return True


def run(folder: Path, n_jobs: int) -> None:
    """Send what was not acknowledged yet, and work until all is delivered."""
    appliance = Appliance(folder)
    appliance.courier.start()
    acks = os.open(folder / "acks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    told = {line.split()[0] for line in (folder / "acks").read_text().splitlines()}
    left = [number for number in range(n_jobs) if str(number) not in told]

    def client(numbers: list[int]) -> None:
        for number in numbers:
            os.write(acks, f"{number} {appliance.send(number)}\n".encode())

    clients = [
        threading.Thread(target=client, args=(left[i::N_CLIENTS],)) for i in range(N_CLIENTS)
    ]
    for thread in clients:
        thread.start()
    while any(thread.is_alive() for thread in clients) or appliance.queue.load()[0]:
        if not appliance.work():
            time.sleep(0.001)
    appliance.courier.stop()


def main() -> None:
    folder, n_jobs, n_kills, seed = Path(sys.argv[1]), *map(int, sys.argv[2:])
    draws = random.Random(seed)  # noqa: S311 - nor is a moment
    script = os.getpid()
    for _ in range(n_kills):
        # A fork of this process, which has one thread: what it imports is imported once.
        pid = os.fork()
        if pid == 0:
            die_with_parent(script)
            run(folder, n_jobs)
            signal.pause()  # a kill finds it idle
        time.sleep(draws.uniform(0.01, 0.25))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "it ended before it was killed"
    run(folder, n_jobs)


if __name__ == "__main__":
    main()
