"""Time the exported engine against eager PyTorch on one multi-coil slice, in one run.

    python benchmarks/latency.py [--size 256] [--coils 8] [--steps 4] [--repeats 15]

Prints medians and their ratio to PyTorch; versions and threads are stated. Each engine has a
process of its own, one after the other, so that their thread pools do not fight. The last line is
the peak memory of `ldmpir-edge run` on a scan of that size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from processes import clean_environment, peak_memory_mib

BACKENDS = ("torch", "onnxruntime", "openvino")


def make_inputs(size: int, n_coils: int, n_steps: int) -> dict:
    from problems import mri_problem

    from ldmpir_edge.physics.engine_input import engine_arrays

    return engine_arrays(mri_problem(size, n_coils), n_steps)


def time_backend(name: str, args: argparse.Namespace) -> dict[str, float]:
    from ldmpir_edge.bundle import open_bundle
    from ldmpir_edge.runtimes import get_backend

    inputs = make_inputs(args.size, args.coils, args.steps)
    variant = open_bundle(args.bundle).extract("cartesian1d", args.steps, "fp32")
    started = time.perf_counter()
    with get_backend(name).load(variant, args.threads) as engine:
        engine.run(inputs)
        first = time.perf_counter() - started
        times = []
        for _ in range(args.repeats):
            started = time.perf_counter()
            engine.run(inputs)
            times.append(time.perf_counter() - started)
    return {"first_s": first, "median_s": statistics.median(times), "min_s": min(times)}


def peak_memory_of_run(backend: str) -> float:
    """Return the largest resident size in MiB of `run` on the sample scan."""
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "ldmpir_edge.cli"]
        subprocess.run([*program, "sample", "mri", "-o", folder], check=True, capture_output=True)
        scan = str(Path(folder) / "sample-mri.h5")
        command = [*program, "run", scan, "-o", folder, "--format", "npy", "--backend", backend]
        return peak_memory_mib(command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="ldmpir-2m")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, help="JSON file of the results")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(time_backend(args.only, args)))
        return
    environment = clean_environment()
    results = {}
    for name in BACKENDS:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        results[name] = json.loads(done.stdout.splitlines()[-1])
    reference = results["torch"]["median_s"]
    print(
        f"{args.size}x{args.size}, {args.coils} coils, {args.steps} steps, fp32, "
        f"{args.threads} threads, median of {args.repeats}; {platform.processor() or 'cpu'}, "
        + ", ".join(f"{n} {version(n)}" for n in BACKENDS)
    )
    for name, row in results.items():
        row["speed_of_torch"] = reference / row["median_s"]
        print(
            f"{name:12s} {row['median_s']:.3f} s   {row['speed_of_torch']:.2f} x PyTorch   "
            f"(first {row['first_s']:.2f} s)"
        )
    memory = {name: peak_memory_of_run(name) for name in ("onnxruntime", "openvino")}
    for name, mebibytes in memory.items():
        print(f"peak memory of run, {name}: {mebibytes:.0f} MiB")
    if args.output:
        document = {
            "settings": {k: str(v) for k, v in vars(args).items() if k not in {"only", "output"}},
            "versions": {name: version(name) for name in BACKENDS},
            "latency": results,
            "peak_memory_mib": memory,
        }
        args.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
