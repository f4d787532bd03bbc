"""How near the engine is to what this machine can do, and to its peers, in one run.

    python benchmarks/speed.py [-o results.json] [--plot scaling.png] [--skip-peers]

Prints, for one multi-coil slice (256 x 256, 8 coils, R = 4, 4 steps, fp32):

- the practical ceiling: GFLOP/s of a large GEMM and of 3 x 3 convolutions in each engine library;
- operations, bytes and time of the network and of the physics beside the time that the operations
  need at the ceiling (the better of the two kernels); parts are timed as graphs of their own;
- nodes of the exported graph, and what the engines make of them;
- the same slice and a 60-view CT slice by iterative peers, on the same threads (peers/);
- scaling over matrix size, coils, steps, batch, threads and views, with the fitted exponent.

Run it on an idle machine. Scans: ../shared/data where it is, else the generated phantom.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

from processes import restart_clean

REPOSITORY = Path(__file__).resolve().parents[1]
PEER_CASES = ("MRI 8 coils, R=4 equispaced", "CT 60 views, parallel")
PEER_REPEATS = 3
SIRT_ITERATIONS = 200


def engine_section(args: argparse.Namespace, folder: Path) -> dict:
    """Ceiling, parts and graphs of one multi-coil slice."""
    import ceiling
    from engines import ENGINES, interleaved_medians, runner
    from problems import mri_problem

    from ldmpir_edge.physics.engine_input import engine_arrays

    weights = REPOSITORY / "models" / "ldmpir-2m" / "weights.safetensors"
    paths = ceiling.ablated(folder, weights, mri_problem(64), args.steps)
    inputs = engine_arrays(mri_problem(256), args.steps)
    rates = ceiling.calibrate(folder, args.threads, args.repeats)
    whole = ceiling.cost(paths["whole"], inputs)
    costs = {"whole": whole}
    for part in ceiling.PARTS:
        without = ceiling.cost(paths[part], inputs)
        costs[part] = {unit: whole[unit] - without[unit] for unit in whole}
    print("\nceiling (GFLOP/s)")
    for engine, row in rates.items():
        print(f"  {engine:12s} " + "   ".join(f"{k} {v:.0f}" for k, v in row.items()))
    seconds: dict[str, dict[str, float]] = {}
    for engine in ENGINES:
        calls = {part: runner(engine, path, inputs, args.threads) for part, path in paths.items()}
        # In turns, so that a drift of the machine meets all parts alike.
        medians = interleaved_medians(calls, args.repeats)
        row = {part: medians["whole"] - medians[part] for part in ceiling.PARTS}
        row["whole"] = medians["whole"]
        best = max(rates[engine].values())
        print(f"  {engine}: GFLOP, GB, ms, ms at the ceiling of {best:.0f} GFLOP/s, ratio")
        for part, spent in row.items():
            cost = costs[part]
            least = cost["gflop"] / best
            print(
                f"    {part:18s} {cost['gflop']:6.2f} {cost['gbyte']:6.2f} {1e3 * spent:7.1f} "
                f"{1e3 * least:7.1f} {spent / least:6.2f}"
            )
        physics = row["data consistency"] + row["Krylov features"]
        row["physics_share"] = physics / row["whole"]
        row["over_ceiling"] = row["whole"] * best / whole["gflop"]
        print(f"    physics: {100 * row['physics_share']:.0f} % of the engine's time")
        seconds[engine] = row
    graphs = {
        "exported": ceiling.exported_graph(paths["whole"]),
        "openvino": ceiling.executed_by_openvino(paths["whole"], inputs, args.threads),
        "onnxruntime": ceiling.executed_by_onnxruntime(paths["whole"], folder, args.threads),
    }
    for name, row in graphs.items():
        print(f"  {name}: {json.dumps(row)}")
    return {"ceiling_gflops": rates, "cost": costs, "seconds": seconds, "graphs": graphs}


def peers_section(args: argparse.Namespace) -> dict:
    """Ours beside the iterative peers: seconds a slice and PSNR on the same slices."""
    import numpy as np
    from engines import median_seconds
    from peers import DDS, PEERS, MissingPeerError, measurement, tuned
    from peers.dds import dds, load_step
    from quality import CASES, images

    from ldmpir_edge.bundle import open_bundle
    from ldmpir_edge.physics.engine_input import engine_arrays
    from ldmpir_edge.reconstruct.slices import prepare_slice
    from ldmpir_edge.report.metrics import score
    from ldmpir_edge.runtimes import load_engine

    bundle = open_bundle(args.bundle)
    folder = REPOSITORY / "models" / "ldmpir-2m"
    results: dict[str, dict] = {}
    for case in PEER_CASES:
        modality, make = CASES[case]
        number = list(CASES).index(case)
        marks: dict[str, list[tuple[float, float]]] = {}
        for k, image in enumerate(images(modality, args.peer_slices)):
            scan, task, reference = make(image, modality, np.random.default_rng([0, number, k]))
            prepared = prepare_slice(scan, 0, task)
            problem = prepared.problem
            variant = bundle.extract(problem.family, args.steps, "fp32")
            engine = load_engine(variant, "openvino", args.threads)
            arrays = engine_arrays(problem, args.steps)
            methods = {
                f"ours, {args.steps} steps (engine)": lambda e=engine, a=arrays, p=prepared: (
                    p.to_scan(e.run(a)["image"][0])
                )
            }
            if chosen := tuned(case, DDS):
                step = load_step(folder, problem, "openvino", args.threads)
                methods[DDS] = lambda s=step, p=prepared, c=chosen: p.to_scan(
                    dds(p.problem, s, **c)
                )
            given = measurement(scan, task)
            for name, peer in PEERS[task].items():
                chosen = tuned(case, name)
                if name == "astra SIRT":
                    chosen = {"n_iterations": SIRT_ITERATIONS}
                if chosen:
                    methods[name] = lambda f=peer, g=given, c=chosen: f(**g, **c)
                else:
                    print(f"  {name}: not tuned for {case}; run benchmarks/tune_peers.py")
            for name, call in methods.items():
                try:
                    found = score(call(), reference, modality).psnr
                except MissingPeerError as err:
                    print(f"  {name}: {err}")
                    continue
                repeats = args.repeats if name.startswith("ours") else PEER_REPEATS
                marks.setdefault(name, []).append((median_seconds(call, repeats), found))
            ready = median_seconds(lambda s=scan, t=task: prepare_slice(s, 0, t), args.repeats)
            marks.setdefault("ours: preparation", []).append((ready, float("nan")))
            engine.close()
        ours = float(np.mean([s for s, _ in marks[f"ours, {args.steps} steps (engine)"]]))
        results[case] = {}
        print(f"\n{case}")
        for name, values in marks.items():
            seconds, psnr = (float(np.mean(column)) for column in zip(*values, strict=True))
            results[case][name] = {"seconds": seconds, "psnr_db": psnr, "ratio": seconds / ours}
            print(f"  {name:26s} {seconds:8.3f} s  {seconds / ours:7.1f} x  {psnr:6.2f} dB")
    return results


def scaling_section(args: argparse.Namespace) -> dict:
    """Seconds of the engine against each size alone, and the exponent of a power law."""
    import numpy as np
    from engines import median_seconds
    from latency import make_inputs
    from quality import ct, images

    from ldmpir_edge.bundle import open_bundle
    from ldmpir_edge.physics.engine_input import engine_arrays
    from ldmpir_edge.physics.normal import BATCHED_TABLES
    from ldmpir_edge.reconstruct.slices import prepare_slice
    from ldmpir_edge.runtimes import get_backend

    bundle = open_bundle(args.bundle)
    repeats = max(5, args.repeats // 3)

    def seconds(family: str, inputs: dict, n_steps: int, threads: int) -> float:
        variant = bundle.extract(family, n_steps, "fp32")
        with get_backend("openvino").load(variant, threads) as engine:
            return median_seconds(lambda: engine.run(inputs), repeats)

    def mri(size=256, coils=8, steps=args.steps, batch=1, threads=args.threads) -> float:
        inputs = make_inputs(size, coils, steps)
        batched = {"b", "x1", "noise_level", "condition", "noise", *BATCHED_TABLES}
        inputs = {k: np.repeat(v, batch, axis=0) if k in batched else v for k, v in inputs.items()}
        return seconds("cartesian1d", inputs, steps, threads)

    def views(n: int) -> float:
        image = next(iter(images("ct", 1)))
        scan, task, _ = ct(n, 1e6)(image, "ct", np.random.default_rng(0))
        problem = prepare_slice(scan, 0, task).problem
        return seconds(problem.family, engine_arrays(problem, args.steps), args.steps, args.threads)

    axes = {
        "matrix size": ((128, 192, 256, 384, 512), lambda n: mri(size=n)),
        "coils": ((1, 2, 4, 8, 16), lambda n: mri(coils=n)),
        "steps": ((1, 4, 8), lambda n: mri(steps=n)),
        "batch": ((1, 2, 4), lambda n: mri(batch=n)),
        "threads": (tuple(range(1, args.threads + 1)), lambda n: mri(threads=n)),
        "views": ((30, 60, 120, 240), views),
    }
    results = {}
    print("\nscaling, OpenVINO")
    for name, (sizes, measure) in axes.items():
        times = [measure(n) for n in sizes]
        exponent = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
        results[name] = {"at": list(sizes), "seconds": times, "exponent": exponent}
        cells = "  ".join(f"{n}: {1e3 * t:.0f} ms" for n, t in zip(sizes, times, strict=True))
        print(f"  {name:12s} {cells}   ~ n^{exponent:.2f}", flush=True)
    return results


def plot(scaling: dict, path: Path) -> None:
    """Draw time against each size, in multiples of the smallest."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(9, 5), layout="constrained")
    for axis, (name, row) in zip(axes.flat, scaling.items(), strict=True):
        axis.loglog(row["at"], [1e3 * t for t in row["seconds"]], "o-")
        axis.set(title=f"{name}: n^{row['exponent']:.2f}", xlabel=name, ylabel="ms")
        axis.set_xticks(row["at"], [str(n) for n in row["at"]])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="ldmpir-2m")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--skip-peers", action="store_true")
    parser.add_argument("--peer-slices", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="figure of the scaling curves")
    parser.add_argument("-o", "--output", type=Path, help="JSON file of the results")
    args = parser.parse_args()
    restart_clean(OMP_NUM_THREADS=str(args.threads))
    versions = {n: version(n) for n in ("openvino", "onnxruntime", "torch", "numpy", "scipy")}
    print(
        f"{platform.machine()}, {args.threads} threads, median of {args.repeats}; "
        + ", ".join(f"{k} {v}" for k, v in versions.items())
    )
    document = {"threads": args.threads, "repeats": args.repeats, "versions": versions}
    with tempfile.TemporaryDirectory() as folder:
        document["engine"] = engine_section(args, Path(folder))
    if not args.skip_peers:
        document["peers"] = peers_section(args)
    document["scaling"] = scaling_section(args)
    if args.plot:
        plot(document["scaling"], args.plot)
    if args.output:
        args.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
