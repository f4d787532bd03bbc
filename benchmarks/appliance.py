"""Measure the appliance: throughput, memory, start and the overhead of a job.

    python benchmarks/appliance.py [throughput start overhead memory] [--folder DIR]

Each part is a process `ldmpir-edge serve` with the shipped bundle, spoken to from this one, and
adds its figures to `benchmarks/results/appliance.json`.

- `throughput`: four MRD clients at once, each with 25 slices of 256 x 256, 8 coils, 4-fold;
  beside it a loaded `Reconstructor` that writes DICOM from the same four scans one after another,
  as `run` does, two before and two after.
- `start`: from the start of the process to `/readyz`, with all doors' engines, with an empty cache
  of compiled engines and with a warm one.
- `overhead`: MRD scans of one slice, one at a time: from the client's close to its last image,
  less what `run` does too (preparing, engine, checks, writing DICOM).
- `memory`: front and worker over 2,000 jobs of 64 x 64 by HTTP, once all engines are loaded: they
  are between jobs otherwise, and would be taken for growth.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

from processes import restart_clean

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
RESULTS = ROOT / "benchmarks" / "results" / "appliance.json"
PARTS = ("throughput", "start", "overhead", "memory")

N_CLIENTS, N_SLICES = 4, 25
N_STARTS = 3
N_SINGLE = 40
RUN_STAGES = ("prepare", "load", "engine", "check", "write")
REST_S = 0.2
"""A scanner sends while it measures; when it closes, what it sent before has been received."""

N_JOBS, N_FIRST = 2000, 200
AT_ONCE = 4
MIB = 2**20


def make_scan(folder: Path, n_slices: int) -> Path:
    """Write an ISMRMRD file of the sample's slices, repeated and each scaled differently."""
    import h5py
    import numpy as np

    from ldmpir_edge.scans import sample_files
    from ldmpir_edge.scans.sample import write_sample

    path = folder / f"scan-{n_slices}.h5"
    if not path.exists():
        with h5py.File(write_sample("mri", folder)) as file:
            kspace, mask = file["kspace"][()], file["mask"][()] > 0
        kspace = kspace[np.arange(n_slices) % len(kspace)]
        kspace = kspace * np.linspace(1.0, 1.2, n_slices, dtype=np.float32)[:, None, None, None]
        rng = np.random.default_rng(0)
        noise = 0.01 * rng.standard_normal((8, 8 * kspace.shape[2], 2), np.float32)
        noise = noise.view(np.complex64)[..., 0]
        sample_files.write_ismrmrd(path, kspace.astype(np.complex64), mask, noise)
    return path


def message_bytes(path: Path) -> bytes:
    """Give all that a client sends for a scan, before the clock runs."""
    from mrd_client import MrdClient, read_file, send_scan

    written = bytearray()
    client = MrdClient.__new__(MrdClient)
    client.send = written.extend
    send_scan(client, *read_file(path))
    return bytes(written)


@contextmanager
def serving(folder: Path, *doors: str, cache: Path | None = None):
    """Run the appliance with a fresh state folder and the doors named."""
    from appliance_process import ApplianceProcess

    if cache is not None:
        os.environ["LDMPIR_CACHE_DIR"] = str(cache)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        flags = [word for door in doors for word in (f"--{door}", "127.0.0.1:0")]
        process = ApplianceProcess("--state", f"{name}/state", "--out", f"{name}/out", *flags)
        try:
            yield process
        finally:
            process.end()


def finished(process) -> list[dict]:
    """Give the log's records of the jobs that ended."""
    records = [json.loads(line) for line in process.lines if line.startswith("{")]
    return [record for record in records if record["event"] == "job finished"]


def exchange(address: str, messages: bytes, rest_s: float = 0.0) -> tuple[float, list]:
    """Send a scan and take its images; give the seconds from the close, sent after a rest."""
    from mrd_client import MrdClient

    with MrdClient(address) as client:
        client.send(messages[:-2])
        time.sleep(rest_s)
        sent = time.perf_counter()
        client.send(messages[-2:])
        answer = client.receive()
    if not answer.closed or answer.texts:
        raise RuntimeError(f"the appliance said: {answer.texts}")
    return time.perf_counter() - sent, answer.images


def run_batch(reconstructor, path: Path, n_scans: int, folder: Path) -> float:
    """Reconstruct and write scans one after another; give the seconds."""
    from ldmpir_edge.scans.detect import open_scan
    from ldmpir_edge.scans.write import open_outputs

    started = time.perf_counter()
    for number in range(n_scans):
        with (
            open_scan(path) as scan,
            closing(reconstructor.stream(scan)) as slices,
            open_outputs(reconstructor.header(scan), folder / f"{number}", ["dicom"]) as outputs,
        ):
            for piece in slices:
                outputs.add(piece)
    return time.perf_counter() - started


def throughput(folder: Path) -> dict:
    import ldmpir_edge

    path, single = make_scan(folder, N_SLICES), make_scan(folder, 1)
    messages, warm_up = message_bytes(path), message_bytes(single)
    reconstructor = ldmpir_edge.load("ldmpir-2m")
    run_batch(reconstructor, single, 1, folder / "out")
    batches = [run_batch(reconstructor, path, N_CLIENTS // 2, folder / "out")]
    with serving(folder, "mrd", "http") as process:
        process.wait_ready()
        address = process.door("mrd")
        exchange(address, warm_up)
        answers: dict[int, list] = {}

        def client(number: int) -> None:
            answers[number] = exchange(address, messages)[1]

        threads = [threading.Thread(target=client, args=(n,)) for n in range(N_CLIENTS)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
    batches.append(run_batch(reconstructor, path, N_CLIENTS // 2, folder / "out"))
    order = [[image.slice for image in answers.get(n, ())] for n in range(N_CLIENTS)]
    records = finished(process)[1:]
    stages = [record["seconds"] for record in records]
    return {
        "n_slices": N_CLIENTS * N_SLICES,
        "all_returned_in_order": order == [list(range(N_SLICES))] * N_CLIENTS,
        "n_fallbacks": sum(record.get("n_fallbacks", 0) for record in records),
        "backend": reconstructor.backend,
        "batch_s": batches,
        "appliance_s": seconds,
        "share_of_batch": sum(batches) / seconds,
        "appliance_stages_s": {n: sum(stage[n] for stage in stages) for n in stages[0]},
    }


def start(folder: Path) -> dict:
    def to_ready(cache: Path) -> float:
        started = time.perf_counter()
        with serving(folder, "mrd", "dicom", "http", cache=cache) as process:
            process.wait_ready()
            return time.perf_counter() - started

    with tempfile.TemporaryDirectory(dir=folder) as name:
        cold = to_ready(Path(name))
        warm = [to_ready(Path(name)) for _ in range(N_STARTS)]
    return {"cold_s": cold, "warm_s": warm, "median_warm_s": statistics.median(warm)}


def overhead(folder: Path) -> dict:
    messages = message_bytes(make_scan(folder, 1))
    with serving(folder, "mrd", "http") as process:
        process.wait_ready()
        address = process.door("mrd")
        exchange(address, messages)
        latencies = [exchange(address, messages, REST_S)[0] for _ in range(N_SINGLE)]
    seconds = [record["seconds"] for record in finished(process)][-N_SINGLE:]
    own = [sum(s.get(n, 0.0) for n in RUN_STAGES) for s in seconds]
    beside = [1000 * (latency - spent) for latency, spent in zip(latencies, own, strict=True)]
    return {
        "n_jobs": N_SINGLE,
        "median_latency_ms": 1000 * statistics.median(latencies),
        "median_overhead_ms": statistics.median(beside),
        "overhead_ms": [round(value, 1) for value in beside],
        "median_stages_ms": {
            name: 1000 * statistics.median(s[name] for s in seconds) for name in seconds[0]
        },
    }


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def memory(folder: Path) -> dict:
    from ldmpir_edge.scans.sample import write_mri_slice

    write_mri_slice(folder / "small.h5", 64, 4)
    scan = (folder / "small.h5").read_bytes()
    path = "/v1/reconstructions"
    sizes: dict[int, dict[str, float]] = {}
    with serving(folder, "http") as process, process.client() as client:
        process.wait_ready()
        while client.get("/readyz").json()["untested"]:
            time.sleep(0.5)
        children = Path(f"/proc/{process.pid}/task")
        (worker,) = {
            int(pid)
            for task in children.iterdir()
            for pid in (task / "children").read_text().split()
        }
        waiting: list[str] = []
        for number in range(1, N_JOBS + 1):
            while len(waiting) >= AT_ONCE:
                state = client.get(f"{path}/{waiting[0]}").json()["state"]
                if state in {"queued", "running"}:
                    time.sleep(0.01)
                    continue
                if state != "done":
                    raise RuntimeError(f"job {waiting[0]} is {state}")
                waiting.pop(0)
            answer = client.post(path, files={"scan": (f"{number}.h5", scan)})
            while answer.status_code == 429:  # the rate that a client may have
                time.sleep(0.5)
                answer = client.post(path, files={"scan": (f"{number}.h5", scan)})
            waiting.append(answer.json()["id"])
            if number % 100 == 0:
                front, engines = resident_mib(process.pid), resident_mib(worker)
                sizes[number] = {"front_mib": front, "worker_mib": engines}
                print(
                    f"{number:5d} jobs: front {front:.1f} MiB, worker {engines:.1f} MiB", flush=True
                )
    total = {number: sum(size.values()) for number, size in sizes.items()}
    return {
        "n_jobs": N_JOBS,
        "resident_mib": sizes,
        "growth_after_first": total[N_JOBS] / total[N_FIRST] - 1,
    }


def summary(part: str, figures: dict) -> str:
    if part == "throughput":
        batch = sum(figures["batch_s"])
        seconds = figures["appliance_s"]
        return (
            f"{figures['n_slices']} slices from {N_CLIENTS} clients: {seconds:.2f} s, "
            f"as a batch {batch:.2f} s: {100 * figures['share_of_batch']:.0f} % (at least 90 %), "
            f"{'all returned in order' if figures['all_returned_in_order'] else 'NOT all in order'}"
        )
    if part == "start":
        return (
            f"start to ready: {figures['median_warm_s']:.2f} s (below 5 s), "
            f"{figures['cold_s']:.2f} s where the engines are not compiled yet"
        )
    if part == "overhead":
        return (
            f"a job of one slice: {figures['median_latency_ms']:.0f} ms, of which "
            f"{figures['median_overhead_ms']:.1f} ms are the appliance's (below 30 ms)"
        )
    return (
        f"memory over {figures['n_jobs']} jobs: {100 * figures['growth_after_first']:+.1f} % after "
        f"the first {N_FIRST} (below 5 %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, help="keep the scans there for the next part")
    args = parser.parse_args()
    restart_clean()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for part in args.parts:
            figures = globals()[part](folder)
            document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            document[part] = {
                "date": time.strftime("%Y-%m-%d"),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "versions": {n: version(n) for n in ("ldmpir-edge", "openvino", "numpy")},
                **figures,
            }
            print(summary(part, figures), flush=True)
            RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
