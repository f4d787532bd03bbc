"""Time how long `ldmpir-edge` takes to start: its help, and a cold `run` to the first image.

    python benchmarks/startup.py [--kind mri] [--bundle ldmpir-2m] [--repeats 10] [--json FILE]

Every figure is of a fresh process, from before it starts. `run` reconstructs the sample scan with
OpenVINO once with an empty cache and then with the caches that this left; the stages are timed
inside a process that does what `run --format npy` does for the first slice. Modules are read
from the disk's cache: what is cold is the process, not the machine.
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

from processes import clean_environment

PROGRAM = [sys.executable, "-m", "ldmpir_edge.cli"]
COMMANDS = ("", "run", "sample", "models", "inspect", "doctor", "train", "export")

STAGES = """
import json, sys, time
scan, bundle, backend, started = *sys.argv[1:4], float(sys.argv[4])
seconds, last = {}, started
def stage(name):
    global last
    now = time.monotonic()
    seconds[name], last = now - last, now
stage("python")
import ldmpir_edge.cli.app
stage("command line")
import ldmpir_edge.scans.write
stage("writers")
from ldmpir_edge.reconstruct import load
from ldmpir_edge.scans.detect import open_scan
stage("readers, physics")
reconstructor = load(bundle, backend=backend)
stage("bundle verified")
with open_scan(scan) as opened:
    # The first slice alone: of more, the next is prepared meanwhile and nothing adds up.
    object.__setattr__(opened, "n_slices", 1)
    stage("scan opened")
    result = reconstructor(opened)
seconds.update(reconstructor.seconds)
seconds["first image"] = time.monotonic() - started
print(json.dumps(seconds))
"""


def wall(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - started


def time_help(repeats: int, environment: dict[str, str]) -> dict[str, float]:
    return {
        f"{command} --help".strip(): statistics.median(
            wall([*PROGRAM, *command.split(), "--help"], environment) for _ in range(repeats)
        )
        for command in COMMANDS
    }


def time_stages(args: argparse.Namespace, scan: Path, environment: dict[str, str]) -> dict:
    command = [sys.executable, "-c", STAGES, str(scan), args.bundle, args.backend]
    done = subprocess.run(
        [*command, str(time.monotonic())],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


def time_run(args: argparse.Namespace, environment: dict[str, str]) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**environment, "XDG_CONFIG_HOME": str(folder / "config")}
        command = [*PROGRAM, "sample", args.kind, "-o", name, "--json"]
        done = subprocess.run(command, check=True, capture_output=True, env=environment)
        scan = Path(json.loads(done.stdout)["outputs"][0])
        run = [*PROGRAM, "run", str(scan), "-o", name, "--format", "npy"]
        run += ["--bundle", args.bundle, "--backend", args.backend]
        rows: dict = {}
        for row in ("empty", "warm"):
            stages, whole = [], []
            for repeat in range(args.repeats):
                caches = [folder / f"{kind}-{repeat if row == 'empty' else 0}" for kind in "ab"]
                cold = [{**environment, "LDMPIR_CACHE_DIR": str(cache)} for cache in caches]
                stages.append(time_stages(args, scan, cold[0]))
                whole.append(wall(run, cold[1]))
            rows[row] = {
                "stages": {n: statistics.median(s[n] for s in stages) for n in stages[0]},
                "whole_run_s": statistics.median(whole),
            }
        blobs = [path.stat().st_size for path in (folder / "a-0" / "compiled").glob("*")]
        rows["compiled_bytes"] = blobs
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="ldmpir-2m")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--kind", default="mri", help="of the sample scan, as `sample` names it")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    environment = clean_environment()
    helps = time_help(args.repeats, environment)
    runs = time_run(args, environment)
    print(
        f"median of {args.repeats} processes, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {args.backend} {version(args.backend)}"
    )
    for command, seconds in helps.items():
        print(f"{command:16s} {seconds:.3f} s")
    print(f"\nrun on sample {args.kind}, cache  {'empty':>9s} {'warm':>9s}")
    for name, seconds in runs["empty"]["stages"].items():
        print(f"  {name:26s} {seconds:7.3f} s {runs['warm']['stages'][name]:7.3f} s")
    empty, warm = (runs[row]["whole_run_s"] for row in ("empty", "warm"))
    print(f"  {'all slices, written':26s} {empty:7.3f} s {warm:7.3f} s")
    print(f"compiled models: {', '.join(f'{n / 1e6:.1f} MB' for n in runs['compiled_bytes'])}")
    if args.json:
        document = {
            "settings": {k: str(v) for k, v in vars(args).items() if k != "json"},
            "versions": {name: version(name) for name in ("numpy", "typer", args.backend)},
            "help_s": helps,
            "run": runs,
        }
        args.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
