"""Fine-tune on five scans of a shift that the base never saw, and measure on others.

    python benchmarks/finetune.py [--shifts chest head …] [--losses …] -o results.json

Each shift adapts on five slices and is measured on twelve others with the reference that only this
script knows: PSNR and SSIM of the base, of the self-supervised default and of supervised
fine-tuning on the same five (the ceiling). Forgetting: quality.CASES before and after.
What the results file holds already is not run again: an interrupted run goes on.

Brain shifts adapt on one patient (btp10) and measure on another (btp11). Chest and head have one
patient each: other slices of the same one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import CASES, DATA, Case, MemoryImage, MemoryKspace, ct, images
from scipy import ndimage

from ldmpir_edge.export.gate import reference_image
from ldmpir_edge.finetuning.loop import Finetuner
from ldmpir_edge.finetuning.recipe import FinetuneRecipe
from ldmpir_edge.finetuning.scans import SiteScans, SiteSlice, read_slice
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.weights import load_weights
from ldmpir_edge.physics.fourier import centred_fft, centred_ifft
from ldmpir_edge.physics.masks import column_mask
from ldmpir_edge.physics.noise import add_gaussian
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.report.metrics import score
from ldmpir_edge.scans.coils import random_phase, simulate_coil_maps
from ldmpir_edge.scans.model import ScanInfo

MODEL = Path(__file__).resolve().parents[1] / "models" / "ldmpir-2m"
N_STEPS = 4
SEED = 7


def ring(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Eight loops around the object, as in training."""
    return simulate_coil_maps(shape, 8, rng)


def plane(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Twelve loops in a plane on one side of the object, as a spine array's; none in training."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    away, radius = rng.uniform(1.05, 1.2), 0.25
    shift = rng.uniform(-0.1, 0.1)
    maps = []
    for k in range(12):
        place = -0.9 + 1.8 * (k % 6) / 5
        depth = (-0.25 if k < 6 else 0.25) + shift
        squared = (x - place) ** 2 + (y - away) ** 2 + depth**2
        phase = np.arctan2(y - away, x - place) + rng.uniform(0, 2 * np.pi)
        maps.append(radius**2 / (squared + radius**2) ** 1.5 * np.exp(1j * phase))
    stack = np.stack(maps)
    return (stack / np.sqrt(np.sum(np.abs(stack) ** 2, axis=0)).mean()).astype(np.complex64)


def equispaced(width: int, rng: np.random.Generator) -> np.ndarray:
    return column_mask(width, 4, round(0.08 * width), "equispaced", rng)


def gaussian_density(width: int, rng: np.random.Generator) -> np.ndarray:
    """R = 6 with columns of Gaussian density; training knows equispaced and uniform ones."""
    mask = np.zeros(width, np.float32)
    mask[(width - 16) // 2 : (width + 16) // 2] = 1
    radius = np.abs(np.arange(width) - width / 2) / (width / 2)
    density = np.exp(-((radius / 0.35) ** 2) / 2) * (mask == 0)
    chosen = rng.choice(width, round(width / 6) - 16, replace=False, p=density / density.sum())
    mask[chosen] = 1
    return mask


def mri(
    maps_of: Callable[..., np.ndarray], mask_of: Callable[..., np.ndarray]
) -> Callable[..., Case]:
    def make(image: np.ndarray, rng: np.random.Generator) -> Case:
        scaled = image / np.percentile(image, 99.5)
        fine = np.maximum(ndimage.zoom(scaled, 2, order=3, mode="nearest", grid_mode=True), 0)
        shape = fine.shape
        maps = maps_of(shape, rng)
        full = centred_fft(maps * fine * random_phase(shape, rng), (-2, -1)).astype(np.complex64)
        rows, columns = ((n - n // 2) // 2 for n in shape)
        full = full[:, rows : rows + shape[0] // 2, columns : columns + shape[1] // 2]
        reference = np.sqrt(np.sum(np.abs(centred_ifft(full, (-2, -1))) ** 2, axis=0))
        mask = mask_of(full.shape[-1], rng)
        scan = MemoryKspace(
            path=Path("memory.h5"),
            files=(),
            n_slices=1,
            info=ScanInfo("mr"),
            n_coils=len(maps),
            recon_matrix=reference.shape,
            rows_are_phase=False,
            mask=mask.astype(bool),
            samples=(mask * add_gaussian(full, 0.01, rng)).astype(np.complex64),
        )
        return scan, "mri", reference.astype(np.float32)

    return make


def strong_noise(image: np.ndarray, rng: np.random.Generator) -> Case:
    """30 % of the bright end; training stops at 15 %."""
    noisy = add_gaussian(image, 0.3 * float(np.percentile(image, 99.5)), rng)
    scan = MemoryImage(
        path=Path("memory.npy"),
        files=(),
        n_slices=1,
        info=ScanInfo("mr"),
        shape=image.shape,
        pixels=noisy.astype(np.float32),
    )
    return scan, "denoise", image


def chest() -> tuple[list[np.ndarray], list[np.ndarray]]:
    stack = np.load(DATA / "mri/test/seg3d-thorax.npz")["slices"]
    places = np.linspace(2, 41, 17).round().astype(int)

    def view(k: int) -> np.ndarray:
        smooth = ndimage.gaussian_filter(stack[k].astype(np.float32), 1.0)
        return np.maximum(ndimage.zoom(smooth, 0.4, order=3, grid_mode=True, mode="nearest"), 0)

    adapt = places[::4]
    return [view(k) for k in adapt], [view(k) for k in places if k not in adapt]


def head() -> tuple[list[np.ndarray], list[np.ndarray]]:
    stack = np.load(DATA / "ct/test/ge-head.npz")["slices"].astype(np.float32)
    return [stack[k] for k in range(4, 25, 5)], [
        stack[k] for k in (3, 6, 7, 11, 12, 13, 16, 17, 18, 21, 22, 23)
    ]


def brain() -> tuple[list[np.ndarray], list[np.ndarray]]:
    def spread(name: str, n: int) -> list[np.ndarray]:
        stack = np.load(DATA / f"mri/test/{name}.npz")["slices"]
        return [
            stack[int(k)].astype(np.float32)
            for k in np.linspace(0.25 * len(stack), 0.8 * len(stack) - 1, n)
        ]

    return (
        spread("btp10-post", 3) + spread("btp10-pre", 2),
        spread("btp11-post", 6) + spread("btp11-pre", 6),
    )


SHIFTS: dict[str, tuple[str, Callable[..., Any], Callable[..., Case]]] = {
    "coils": ("12 coils on one side, R=4", brain, mri(plane, equispaced)),
    "head": (
        "GE head CT, 60 views",
        head,
        lambda image, rng: ct(60, 1e6)(image, "ct", rng),
    ),
    "noise": ("denoise MR, 30 %", brain, strong_noise),
    "mask": ("R=6, Gaussian density", brain, mri(ring, gaussian_density)),
    "chest": ("chest MR, R=4", chest, mri(ring, equispaced)),
}


def scores(model: LdmPir, cases: list[Case]) -> list[tuple[float, float]]:
    rows = []
    for scan, task, reference in cases:
        prepared = prepare_slice(scan, 0, task)
        planes = reference_image(model, prepared.problem, N_STEPS)
        marks = score(prepared.to_scan(planes), reference, prepared.problem.modality)
        rows.append((marks.psnr, marks.ssim))
    return rows


def site(cases: list[Case], loss: str) -> SiteScans:
    entries, digests = [], []
    for scan, _, reference in cases:
        entry = read_slice(scan, 0, "equivariant")
        if loss == "supervised":
            entry = SiteSlice(entry.measured, reference, entry.rss_scale)
        entries.append(entry)
        digests.append(hashlib.sha256(reference.tobytes()).hexdigest())
    return SiteScans(tuple(entries), tuple(sorted(digests)))


def forgetting(base: LdmPir, tuned: LdmPir | None, before: dict[str, float]) -> dict[str, float]:
    """Return the PSNR of each of quality.CASES; with `tuned` its change."""
    change = {}
    for number, (name, (modality, make)) in enumerate(CASES.items()):
        cases = [
            make(image, modality, np.random.default_rng([0, number, k]))
            for k, image in enumerate(images(modality, 2))
        ]
        mean = float(np.mean([p for p, _ in scores(tuned or base, cases)]))
        change[name] = round(mean - before.get(name, 0.0), 2)
    return change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shifts", nargs="+", default=list(SHIFTS), choices=list(SHIFTS))
    parser.add_argument("--losses", nargs="+", default=["equivariant", "supervised"])
    parser.add_argument("--updates", type=int, default=FinetuneRecipe().n_updates)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    weights = args.model / "weights.safetensors"
    base = load_weights(weights)
    head = {
        "model": tomllib.loads((args.model / "model.toml").read_text())["version"],
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "updates": args.updates,
        "machine": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }
    document: dict[str, Any] = {**head, "shifts": {}, "benchmark_before": {}}
    if args.output.exists():
        document = json.loads(args.output.read_text())
        if any(document[key] != head[key] for key in ("weights_sha256", "updates")):
            parser.error(f"{args.output} is of other weights or updates; name another file")

    def save() -> None:
        args.output.write_text(json.dumps(document, indent=1) + "\n")

    if not document["benchmark_before"]:
        document["benchmark_before"] = forgetting(base, None, {})
        save()
    for loss in args.losses:
        for name in args.shifts:
            title, sources, make = SHIFTS[name]
            entry = document["shifts"].setdefault(name, {"title": title})
            if loss in entry:
                continue
            adapt, test = sources()
            number = list(SHIFTS).index(name)
            seen, unseen = (
                [
                    make(i, np.random.default_rng([SEED, number, part, k]))
                    for k, i in enumerate(group)
                ]
                for part, group in enumerate((adapt, test))
            )
            before = scores(base, unseen)
            started = time.perf_counter()
            recipe = FinetuneRecipe(loss=loss, n_updates=args.updates, n_steps=N_STEPS)
            with tempfile.TemporaryDirectory() as folder:
                finetuner = Finetuner(base, site(seen, loss), recipe, Path(folder) / "c.pt")
                outcome = finetuner.run(lambda update, ratio: None)
            seconds = time.perf_counter() - started
            after = scores(outcome.model, unseen)
            gains = [a[0] - b[0] for a, b in zip(after, before, strict=True)]
            entry["base"] = {
                "psnr_db": round(float(np.mean([p for p, _ in before])), 2),
                "ssim": round(float(np.mean([s for _, s in before])), 4),
            }
            entry[loss] = {
                "psnr_gain_db": round(float(np.mean(gains)), 2),
                "psnr_gain_db_worst": round(min(gains), 2),
                "ssim_gain": round(
                    float(np.mean([a[1] - b[1] for a, b in zip(after, before, strict=True)])), 4
                ),
                "improved": outcome.improved,
                "held_out": round(outcome.held_out, 4),
                "held_out_looks": [round(ratio, 4) for ratio in finetuner.ratios],
                "updates": outcome.n_updates,
                "seconds": round(seconds),
                "forgetting_db": forgetting(base, outcome.model, document["benchmark_before"])
                if outcome.improved
                else {},
            }
            save()
            print(name, loss, json.dumps(entry[loss]), flush=True)


if __name__ == "__main__":
    main()
