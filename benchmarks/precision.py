"""What int8 and fp16 buy on the CPU engines, in one run.

    python benchmarks/precision.py [--sizes 256 320] [--repeats 21] [-o results.json]

For one multi-coil slice (8 coils, R = 4, 4 steps) prints the engine's median time in each precision
of the shipped bundle, and the network's share of it: the time less that of the same graph without
the network. All graphs of one engine run in turns. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

from processes import restart_clean

REPOSITORY = Path(__file__).resolve().parents[1]
PRECISIONS = ("fp32", "fp16", "int8")


def measure(size: int, args: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    import ceiling
    from engines import ENGINES, interleaved_medians, runner
    from problems import mri_problem

    from ldmpir_edge.bundle import open_bundle
    from ldmpir_edge.physics.engine_input import engine_arrays

    weights = REPOSITORY / "models" / "ldmpir-2m" / "weights.safetensors"
    bundle = open_bundle(args.bundle)
    inputs = engine_arrays(mri_problem(size), args.steps)
    paths = {
        precision: bundle.extract("cartesian1d", args.steps, precision).graph
        for precision in PRECISIONS
    }
    paths["physics"] = ceiling.ablated(folder, weights, mri_problem(64), args.steps)["network"]
    results: dict[str, dict[str, float]] = {}
    for engine in ENGINES:
        calls = {name: runner(engine, path, inputs, args.threads) for name, path in paths.items()}
        seconds = interleaved_medians(calls, args.repeats)
        results[engine] = seconds
        print(f"{size} x {size}, {engine}")
        network = {name: seconds[name] - seconds["physics"] for name in PRECISIONS}
        for name in PRECISIONS:
            print(
                f"  {name}  {1e3 * seconds[name]:6.1f} ms, {seconds['fp32'] / seconds[name]:.2f} x"
                f"   network {1e3 * network[name]:6.1f} ms, {network['fp32'] / network[name]:.2f} x"
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="ldmpir-2m")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    restart_clean()
    versions = {name: version(name) for name in ("openvino", "onnxruntime")}
    print(f"{args.threads} threads, {versions}")
    with tempfile.TemporaryDirectory() as folder:
        results = {size: measure(size, args, Path(folder)) for size in args.sizes}
    if args.output:
        document = {"threads": args.threads, "versions": versions, "seconds": results}
        args.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
