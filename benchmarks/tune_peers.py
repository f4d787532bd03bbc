"""Tune the methods that ldmpir-edge is measured against, on training slices.

    python benchmarks/tune_peers.py [--only CASE ...] [--peers NAME ...] [--model models/ldmpir-2m]

For each case of `quality.py` and each peer: the grid of its parameters at a middling number of
iterations; then, for the best of them, how many iterations it needs, doubled for as long as that
gains 0.05 dB, up to four times. What is chosen is the smallest number within 0.05 dB of the best
tried: more would only make a peer look slow. Criterion: mean PSNR over training slices of patients
that no test has seen. `peers/tuned.json` keeps every value tried; cases and peers not named stay as
they are in it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import quality
from peers import DDS, PEERS, TUNED, MissingPeerError, measurement

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.physics.problem import Modality, Task
from ldmpir_edge.reconstruct.slices import PreparedSlice, prepare_slice
from ldmpir_edge.report.metrics import psnr

TOLERANCE_DB = 0.05
MOST_DOUBLINGS = 4
SEED = 7
FOLDERS = {"mr": ("mri", "btp0*-post.npz"), "ct": ("ct", "*.npz")}
CT_ORDER = ("nysbu-A002304.", "lidc0001", "nysbu-A027284.", "lungdx-a0001", "nysbu-A046441.")
"""Chest and abdomen, one patient each."""


@dataclass(frozen=True)
class Search:
    """What to try: `grid` at `iterations[at]`, then the best of it at each of `iterations`."""

    grid: dict[str, tuple[float, ...]] = field(default_factory=dict)
    iterations: tuple[int, ...] = ()
    at: int = -1


SEARCHES: dict[str, Search] = {
    "sigpy CG-SENSE": Search({"lam": (1e-3, 1e-2, 3e-2, 1e-1)}, (5, 10, 20, 40), at=2),
    "sigpy L1-wavelet": Search({"lam": (3e-4, 1e-3, 3e-3)}, (25, 50, 100, 200, 300), at=3),
    "sigpy TV": Search(
        {"lam": (3e-4, 1e-3, 3e-3), "dual_step": (0.003, 0.01, 0.03)}, (50, 100, 200, 300), at=1
    ),
    "BART pics L1-wavelet": Search({"lam": (3e-4, 1e-3, 3e-3)}, (30, 50, 100, 200, 300), at=2),
    "BART pics TGV": Search({"lam": (1e-3, 3e-3, 1e-2), "rho": (0.01, 0.03)}, (50, 100, 200), at=1),
    "astra SIRT": Search({}, (25, 50, 100, 200)),
    "astra CGLS": Search({}, (3, 5, 10, 20)),
    "FISTA-TV": Search({"lam": (3e-5, 1e-4, 3e-4, 1e-3)}, (40, 80, 160, 320), at=2),
    "TV, known blur": Search({"lam": (1e-6, 1e-5, 1e-4, 1e-3)}, (50, 100, 200), at=1),
    "BM3D": Search({"strength": (0.8, 1.0, 1.25, 1.5)}),
    "non-local means": Search({"strength": (0.4, 0.6, 0.8, 1.0, 1.2)}),
    "TV": Search({"strength": (0.2, 0.35, 0.5, 0.75, 1.0)}),
    DDS: Search({"lam": (0.02, 0.1), "t_last": (0.02, 0.25), "eta": (0.0, 0.85)}),
}

SLICES = {
    "MRI 8 coils, R=4 equispaced": 5,
    "MRI 8 coils, R=8 random": 5,
    "CT 60 views, parallel": 4,
    "CT 60 views, fan": 2,
    "denoise MR, 5 %": 5,
    "denoise CT, 100 HU": 5,
    "MRI 1 coil, R=4 random": 5,
    "CT 360 views, 10^4 photons": 2,
    "super-resolve MR, x2": 3,
}
"""Cases, with the slices that their running time allows."""
DDS_CASES = ("MRI 8 coils, R=4 equispaced", "MRI 8 coils, R=8 random", "CT 60 views, parallel")

Run = Callable[..., tuple[float, float]]
"""Maps parameters to mean PSNR in dB and seconds a slice."""


def training_slices(modality: Modality, n: int) -> Iterator[np.ndarray]:
    """Yield one slice each of `n` volumes of the training set."""
    folder, pattern = FOLDERS[modality]
    files = sorted((quality.DATA / folder / "train").glob(pattern))
    if modality == "ct":
        files = [path for part in CT_ORDER for path in files if path.name.startswith(part)]
    if len(files) < n:
        raise SystemExit(f"{n} training volumes wanted below {quality.DATA}, {len(files)} found")
    for k, path in enumerate(files[:n]):
        stack = np.load(path)["slices"]
        yield stack[int((0.35 + 0.4 * k / n) * len(stack))].astype(np.float32)


def search(run: Run, wanted: Search) -> dict[str, Any]:
    """Try the grid, then the iterations; return the choice and everything tried."""
    tried: list[dict[str, Any]] = []

    def attempt(**parameters: float) -> float:
        decibels, seconds = run(**parameters)
        tried.append(
            {**parameters, "psnr_db": round(decibels, 3), "seconds_a_slice": round(seconds, 2)}
        )
        return decibels

    counts = wanted.iterations
    extra = {"n_iterations": counts[wanted.at]} if counts else {}
    grid = [
        dict(zip(wanted.grid, values, strict=True))
        for values in itertools.product(*wanted.grid.values())
    ]
    scores = [attempt(**point, **extra) for point in grid] if wanted.grid else [0.0]
    best = grid[int(np.argmax(scores))]
    chosen, decibels = best, max(scores)
    if counts:
        by_count = {n: attempt(**best, n_iterations=n) for n in counts}
        for _ in range(MOST_DOUBLINGS):
            *_, before, last = sorted(by_count)
            if by_count[last] - by_count[before] <= TOLERANCE_DB:
                break
            by_count[2 * last] = attempt(**best, n_iterations=2 * last)
        enough = min(n for n in by_count if by_count[n] >= max(by_count.values()) - TOLERANCE_DB)
        chosen, decibels = {**best, "n_iterations": enough}, by_count[enough]
    return {"chosen": chosen, "psnr_db": round(decibels, 3), "tried": tried}


def peer_runs(
    task: Task, modality: Modality, cases: list[quality.Case], model: Path, *, with_dds: bool
) -> dict[str, Run]:
    """Bind each tunable peer to the slices of a case."""

    def mean(one: Callable[[int], np.ndarray]) -> tuple[float, float]:
        started = time.perf_counter()
        images = [one(k) for k in range(len(cases))]
        seconds = (time.perf_counter() - started) / len(cases)
        marks = [psnr(im, case[2], modality) for im, case in zip(images, cases, strict=True)]
        return float(np.mean(marks)), seconds

    given = [measurement(scan, task) for scan, _, _ in cases]
    runs: dict[str, Run] = {}
    for name, peer in PEERS[task].items():
        if name in SEARCHES:
            runs[name] = lambda peer=peer, **p: mean(lambda k: peer(**given[k], **p))
    if with_dds:
        prepared = [prepare_slice(scan, 0, task) for scan, _, _ in cases]
        runs[DDS] = lambda **p: mean(lambda k: run_dds(prepared[k], model, p))
    return runs


def run_dds(prepared: PreparedSlice, model: Path, parameters: dict[str, Any]) -> np.ndarray:
    from peers.dds import dds, load_step

    # Slices of a case differ in the columns sampled, and an engine is compiled for one number.
    key = (model, prepared.problem.family, *(t.shape for t in prepared.problem.tables.values()))
    if key not in _steps:
        _steps[key] = load_step(model, prepared.problem, "openvino", 2)
    return prepared.to_scan(dds(prepared.problem, _steps[key], **parameters))


_steps: dict[tuple[Any, ...], Any] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SLICES, default=list(SLICES))
    parser.add_argument("--peers", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--model", type=Path, default=Path("models/ldmpir-2m"), help="for DDS")
    args = parser.parse_args()
    document = json.loads(TUNED.read_text()) if TUNED.exists() else {"cases": {}}
    document["tolerance_db"] = TOLERANCE_DB
    for case in args.only:
        modality, make = quality.CASES[case]
        n, number = SLICES[case], list(quality.CASES).index(case)
        made = [
            make(image, modality, np.random.default_rng([SEED, number, k]))
            for k, image in enumerate(training_slices(modality, n))
        ]
        runs = peer_runs(made[0][1], modality, made, args.model, with_dds=case in DDS_CASES)
        rows = document["cases"].setdefault(case, {})
        for name in (name for name in runs if name in args.peers):
            try:
                rows[name] = {"training_slices": n, **search(runs[name], SEARCHES[name])}
            except MissingPeerError as err:
                print(f"{case:30s} {name:22s} skipped: {err}", flush=True)
                continue
            print(
                f"{case:30s} {name:22s} {rows[name]['psnr_db']:.2f} dB  {rows[name]['chosen']}",
                flush=True,
            )
            with atomic_file(TUNED) as temporary:
                temporary.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
