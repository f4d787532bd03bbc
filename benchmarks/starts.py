"""Time the preparation of CT and of images to be denoised, beside the engine.

    python benchmarks/starts.py [--repeats 9] [--threads 2] [-o results.json]

In turns, for each scan: its whole preparation, in one thread as `ldmpir-edge run` prepares, and the
engine. Tables of a scan's geometry are made once, before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import numpy as np
import quality
from engines import interleaved_medians
from processes import restart_clean
from scipy import ndimage

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.runtimes import load_engine

CASES = (
    ("CT 60 views, parallel", 1),
    ("CT 60 views, parallel", 2),
    ("CT 120 views, parallel", 1),
    ("CT 240 views over 120 degrees", 1),
    ("CT 360 views, 10^4 photons", 1),
    ("CT 60 views, fan", 1),
    ("denoise CT, 100 HU", 1),
    ("denoise CT, 100 HU", 2),
)
"""With how many times as fine a grid as `quality.py`'s 256 x 256."""
N_STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="ldmpir-2m")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    restart_clean(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    bundle = open_bundle(args.bundle)
    image = next(quality.images("ct", 1))
    rows = []
    for name, finer in CASES:
        _, make = (quality.CASES | quality.FURTHER_CASES)[name]
        grid = ndimage.zoom(image, finer, order=1, mode="nearest", grid_mode=True)
        scan, task, reference = make(grid, "ct", np.random.default_rng(0))

        def prepare(scan=scan, task=task) -> object:
            return prepare_slice(scan, 0, task)

        problem = prepare_slice(scan, 0, task).problem
        variant = bundle.extract(problem.family, N_STEPS, "fp32")
        with load_engine(variant, args.backend, args.threads) as engine:
            inputs = engine_arrays(problem, N_STEPS)
            seconds = interleaved_medians(
                {
                    "preparation": prepare,
                    "engine": lambda engine=engine, inputs=inputs: engine.run(inputs),
                },
                args.repeats,
            )
        size = reference.shape[0]
        rows.append({"case": name, "size": size, **{k: round(v, 4) for k, v in seconds.items()}})
        print(
            f"{name:32s} {size}²: preparation {1e3 * seconds['preparation']:.0f} ms, "
            f"{seconds['preparation'] / seconds['engine']:.2f} of the engine's "
            f"{1e3 * seconds['engine']:.0f}",
            flush=True,
        )
    if args.output:
        about = {"threads": args.threads, "cpu": platform.processor(), "repeats": args.repeats}
        args.output.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
