"""Time a whole volume against its engine, and watch the memory, in one run.

    python benchmarks/streaming.py [--slices 30] [--threads 2] [--format dicom]

Makes volumes of the sample scan's slices (256 x 256, 8 coils, 4-fold) in a temporary folder.
`engine alone` runs the engine on one prepared slice as often as the volume has slices, before
anything else uses the cores; `engine in stream` is what its runs took while preparation shared
them. Engine and program are warmed up first, so that loading does not count. The peak memory is
that of `ldmpir-edge run` in processes of their own, on 5 slices and on all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from processes import peak_memory_mib, restart_clean

FEW = 5


def make_volume(sample: Path, n_slices: int, target: Path) -> Path:
    """Repeat the slices of the sample scan until there are `n_slices`."""
    import h5py
    import numpy as np

    with h5py.File(sample) as source, h5py.File(target, "w") as file:
        file.attrs.update(source.attrs)
        for name, dataset in source.items():
            if dataset.ndim < 3:
                source.copy(dataset, file, name)
                continue
            chosen = dataset[()][np.arange(n_slices) % len(dataset)]
            file.create_dataset(name, data=chosen, chunks=dataset.chunks)
    return target


def time_engine(reconstructor, scan, n_slices: int, n_threads: int) -> float:
    from ldmpir_edge.physics.engine_input import engine_arrays
    from ldmpir_edge.reconstruct.slices import prepare_slice
    from ldmpir_edge.runtimes import load_engine

    problem = prepare_slice(scan, 0, "mri").problem
    variant = reconstructor.bundle.extract(
        problem.family, reconstructor.n_steps, reconstructor.precision
    )
    inputs = engine_arrays(problem, reconstructor.n_steps)
    with load_engine(variant, reconstructor.backend, n_threads) as engine:
        for _ in range(3):
            engine.run(inputs)
        started = time.perf_counter()
        for _ in range(n_slices):
            engine.run(inputs)
        return time.perf_counter() - started


def stream(reconstructor, path: Path, folder: Path, formats: list[str]) -> dict[str, float]:
    """Reconstruct and write as `ldmpir-edge run` does; give the seconds of the stages."""
    from ldmpir_edge.scans.detect import open_scan
    from ldmpir_edge.scans.write import open_outputs

    started, cpu = time.perf_counter(), time.process_time()
    with (
        open_scan(path) as scan,
        closing(reconstructor.stream(scan)) as slices,
        open_outputs(reconstructor.header(scan), folder, formats) as outputs,
    ):
        for piece in slices:
            outputs.add(piece)
    return {
        **reconstructor.seconds,
        "write": outputs.seconds,
        "wall": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
    }


def peak_memory(path: Path, args: argparse.Namespace) -> float:
    """Return the largest resident size in MiB of `run` on `path`."""
    program = [sys.executable, "-m", "ldmpir_edge.cli", "run", str(path), "--bundle", args.bundle]
    command = [*program, "-o", str(path.parent / "out"), "--format", args.format]
    if args.backend:
        command += ["--backend", args.backend]
    return peak_memory_mib(command)


def measure(args: argparse.Namespace, folder: Path) -> dict:
    import ldmpir_edge
    from ldmpir_edge.scans.detect import open_scan
    from ldmpir_edge.scans.sample import write_sample

    sample = write_sample("mri", folder)
    few = make_volume(sample, FEW, folder / "few.h5")
    path = make_volume(sample, args.slices, folder / "volume.h5")
    reconstructor = ldmpir_edge.load(
        args.bundle, backend=args.backend, n_steps=args.steps, threads=args.threads
    )
    formats = args.format.split(",")
    stream(reconstructor, few, folder / "out", formats)
    with open_scan(path) as scan:
        alone = time_engine(reconstructor, scan, args.slices, args.threads)
    stages = stream(reconstructor, path, folder / "out", formats)
    return {
        "backend": reconstructor.backend,
        "engine_alone_s": alone,
        "stages_s": stages,
        "wall_of_engine_in_stream": stages["wall"] / stages["engine"],
        "wall_of_engine_alone": stages["wall"] / alone,
        "peak_memory_mib": {
            str(n): peak_memory(volume, args) for n, volume in ((FEW, few), (args.slices, path))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="ldmpir-2m")
    parser.add_argument("--backend")
    parser.add_argument("--slices", type=int, default=30)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--format", default="dicom")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    restart_clean()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    result["settings"] = vars(args)
    result["versions"] = {
        name: version(name) for name in ("ldmpir-edge", "numpy", result["backend"])
    }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(
        f"{args.slices} slices of 256x256, 8 coils, {args.steps} steps, fp32, {args.threads} "
        f"threads on {os.cpu_count()} cores, {args.format}; {platform.processor() or 'cpu'}, "
        + ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    )
    stages = result["stages_s"]
    rows = {
        "engine alone": result["engine_alone_s"],
        "engine in stream": stages["engine"],
        **{f"{name} beside it": stages[name] for name in ("prepare", "check", "write")},
        "processor time": stages["cpu"],
        "whole volume": stages["wall"],
    }
    for name, seconds in rows.items():
        print(f"{name:18s} {seconds:7.2f} s   {1000 * seconds / args.slices:6.1f} ms a slice")
    print(
        f"whole volume / engine: {result['wall_of_engine_in_stream']:.2f} in the stream, "
        f"{result['wall_of_engine_alone']:.2f} alone"
    )
    for count, mebibytes in result["peak_memory_mib"].items():
        print(f"peak memory of run, {count} slices: {mebibytes:.0f} MiB")


if __name__ == "__main__":
    main()
