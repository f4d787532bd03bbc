"""Measure how MRI quality falls with acceleration, beside tuned compressed sensing.

    python benchmarks/acceleration.py [--bundle ldmpir-2m] [-o results.json]

Eight coils, random phase-encode lines about a centre of 0.32 W / R, held-out slices: the scans of
`quality.py` at other accelerations. A peer takes the parameters that `tune_peers.py` chose for the
nearer of R = 4 and R = 8, by the ratio; the file says which.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import quality

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.report.metrics import ImageScores, score
from ldmpir_edge.runtimes import load_engine

ACCELERATIONS = (2, 3, 4, 6, 8, 10)
TUNED_AT = {4: "MRI 8 coils, R=4 equispaced", 8: "MRI 8 coils, R=8 random"}
SEED = 1


def nearest_tuned(acceleration: float) -> int:
    """Return at which acceleration the parameters for this one were tuned."""
    return min(TUNED_AT, key=lambda tuned: abs(math.log(tuned / acceleration)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="ldmpir-2m")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--slices", type=int, default=4, help="at each acceleration")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    engines = {
        n: load_engine(bundle.extract("cartesian1d", n, "fp32"), args.backend, os.cpu_count())
        for n in args.steps
    }
    table: dict[str, dict[str, Any]] = {}
    for acceleration in ACCELERATIONS:
        tuned_at = nearest_tuned(acceleration)
        rows: dict[str, list[ImageScores]] = defaultdict(list)
        for k, image in enumerate(quality.images("mr", args.slices)):
            rng = np.random.default_rng([SEED, k])
            scan, task, reference = quality.mri(8, acceleration, "random")(image, "mr", rng)
            prepared = prepare_slice(scan, 0, task)
            shown = {"classical": prepared.to_scan(prepared.problem.x1)}
            for n, engine in engines.items():
                planes = engine.run(engine_arrays(prepared.problem, n))["image"][0]
                shown[f"ours, {n} steps"] = prepared.to_scan(planes)
            shown |= quality.peer_images(TUNED_AT[tuned_at], scan, task)
            for method, pixels in shown.items():
                rows[method].append(score(pixels, reference, "mr"))
        table[str(acceleration)] = {
            "peers tuned at": tuned_at,
            "methods": {method: quality.summary(scores) for method, scores in rows.items()},
        }
        cells = "   ".join(
            f"{m} {v['psnr_db']:.2f}" for m, v in table[str(acceleration)]["methods"].items()
        )
        print(f"R = {acceleration:2d}   {cells}", flush=True)
    if args.output:
        document = {
            "bundle": bundle.manifest.model.id,
            "version": bundle.manifest.model.version,
            "data": str(quality.DATA.name) + "/test" if quality.DATA.exists() else "phantom",
            "slices": args.slices,
            "seed": SEED,
            "results": table,
        }
        args.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
