"""Measure a bundle on held-out slices that it has never seen, beside the classical image.

    python benchmarks/quality.py [--bundle ldmpir-2m] [--steps 1 4 8] [--peers] [-o results.json]

Data: ../shared/data/*/test where it is, else the generated head phantom. Measurements are
simulated on a grid twice as fine as the one reconstructed, and go through the product's own
preparation (coil maps, noise level), so nothing is told to the model that a scan would not tell.
PSNR and SSIM: magnitude with the reference's maximum as range for MRI; [-1000, 1000] HU for CT.
Means over slices with 95 % bootstrap intervals, and 5th percentiles: few slices, of few patients,
say less about the next patient than the intervals do.

"Classical" is what the appliance falls back to: least squares with priors of magnitude (MRI) and of
few edges, non-local means, or the biharmonic filling. With
--peers, the published methods that `tune_peers.py` has tuned for a case on training slices (or for
one like it: `peers.TUNED_AS`; or that have nothing to tune) run, too. `--peers-from` takes the
numbers of those with the same parameters from an earlier run where the untreated images score the
same, since they do not hang on the bundle, and runs the others, and those of denoising.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.fourier import centred_fft, centred_ifft
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.masks import column_mask, partial_fourier
from ldmpir_edge.physics.noise import add_gaussian, add_poisson_gaussian
from ldmpir_edge.physics.problem import Modality, Task
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.physics.superresolution import BlurDecimateOp
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.report.metrics import ImageScores, score
from ldmpir_edge.runtimes import load_engine
from ldmpir_edge.scans.coils import random_phase, simulate_coil_maps
from ldmpir_edge.scans.model import ImageScan, KspaceScan, Scan, ScanInfo, SinogramScan

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MU_WATER = 0.0192
SIZE = 256
N_BOOTSTRAP = 2000
BASELINES = ("untreated", "classical")


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryKspace(KspaceScan):
    samples: np.ndarray

    def _read_kspace(self, index: int) -> np.ndarray:
        return self.samples


@dataclass(frozen=True, eq=False, kw_only=True)
class MemorySinogram(SinogramScan):
    samples: np.ndarray

    def _read_sinogram(self, index: int) -> np.ndarray:
        return self.samples


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryImage(ImageScan):
    pixels: np.ndarray

    def _read_image(self, index: int) -> np.ndarray:
        return self.pixels


Case = tuple[Scan, Task, np.ndarray]


def mri(
    n_coils: int, acceleration: float, kind: str, fourier_share: float = 1.0
) -> Callable[..., Case]:
    def make(image: np.ndarray, modality: Modality, rng: np.random.Generator) -> Case:
        scaled = image / np.percentile(image, 99.5)
        fine = np.maximum(ndimage.zoom(scaled, 2, order=3, mode="nearest", grid_mode=True), 0)
        shape = fine.shape
        maps = simulate_coil_maps(shape, n_coils, rng) if n_coils > 1 else np.ones((1, *shape))
        full = centred_fft(maps * fine * random_phase(shape, rng), (-2, -1)).astype(np.complex64)
        rows, columns = ((n - n // 2) // 2 for n in shape)
        full = full[:, rows : rows + shape[0] // 2, columns : columns + shape[1] // 2]
        reference = np.sqrt(np.sum(np.abs(centred_ifft(full, (-2, -1))) ** 2, axis=0))
        width = full.shape[-1]
        mask = column_mask(width, acceleration, round(0.32 * width / acceleration), kind, rng)
        mask = partial_fourier(mask, fourier_share)
        kspace = (mask * add_gaussian(full, 0.01, rng)).astype(np.complex64)
        scan = MemoryKspace(
            path=Path("memory.h5"),
            files=(),
            n_slices=1,
            info=ScanInfo("mr"),
            n_coils=n_coils,
            recon_matrix=reference.shape,
            rows_are_phase=False,
            mask=mask.astype(bool),
            samples=kspace,
        )
        return scan, "mri", reference.astype(np.float32)

    return make


def ct(
    n_views: int, photons: float, kind: str = "parallel", share_of_turn: float = 1.0
) -> Callable[..., Case]:
    def make(image: np.ndarray, modality: Modality, rng: np.random.Generator) -> Case:
        # The slice as it is plays the finer grid; its 2 x 2 means are the reference.
        n, h = image.shape[0], 0.8
        fan = kind != "parallel"
        geometry = RadonGeometry(
            kind=kind,
            angles_rad=np.arange(n_views) * share_of_turn * (2 if fan else 1) * np.pi / n_views,
            n_detectors=int(0.71 * n * (1.3 if fan else 1)) + 8,
            detector_spacing_mm=2 * h * (2 if fan else 1),
            **({"source_origin_mm": 600.0, "origin_detector_mm": 600.0} if fan else {}),
        )
        attenuation = np.maximum(image / 1000 + 1, 0).astype(np.float32) * np.float32(MU_WATER)
        y, x = np.mgrid[:n, :n] - (n - 1) / 2
        attenuation *= np.hypot(y, x) < n / 2
        ideal = RadonOp(geometry, (n, n), h).forward(attenuation)
        hu = attenuation / MU_WATER * 1000 - 1000
        reference = hu.reshape(n // 2, 2, n // 2, 2).mean((1, 3)).astype(np.float32)
        scan = MemorySinogram(
            path=Path("memory.h5"),
            files=(),
            n_slices=1,
            info=ScanInfo("ct"),
            geometry=geometry,
            recon_matrix=reference.shape,
            pixel_spacing_mm=2 * h,
            photons=photons,
            mu_water_per_mm=MU_WATER,
            samples=add_poisson_gaussian(ideal, photons, 5.0, rng).astype(np.float32),
        )
        return scan, "ct", reference

    return make


def image_task(
    task: Task,
    noise: float = 0.05,
    *,
    rician: bool = False,
    columns: bool = False,
    factor: int = 2,
) -> Callable[..., Case]:
    def make(image: np.ndarray, modality: Modality, rng: np.random.Generator) -> Case:
        unit = 2000.0 if modality == "ct" else float(np.percentile(image, 99.5))
        reference = image.astype(np.float32)
        if modality == "ct":
            n = image.shape[0] // 2
            reference = reference.reshape(n, 2, n, 2).mean((1, 3))
        if task == "denoise" and rician:
            pixels = np.abs(add_gaussian(reference.astype(np.complex64), noise * unit, rng))
        elif task == "denoise":
            pixels = add_gaussian(reference, noise * unit, rng)
        elif columns:
            pixels = reference.copy()
            pixels[:, rng.random(reference.shape[1]) < 0.1] = np.nan
        elif task == "inpaint":
            pixels = np.where(rng.random(reference.shape) < 0.3, np.nan, reference)
        else:
            pixels = BlurDecimateOp(reference.shape, factor).forward(reference.astype(np.float64))
        return image_scan(pixels, modality), task, reference

    return make


def low_dose_image(n_views: int, photons: float) -> Callable[..., Case]:
    """Denoise what filtered back-projection makes of a scan: its noise is not white."""

    def make(image: np.ndarray, modality: Modality, rng: np.random.Generator) -> Case:
        scan, task, reference = ct(n_views, photons)(image, modality, rng)
        prepared = prepare_slice(scan, 0, task)
        pixels = prepared.to_scan(prepared.unreconstructed)
        return image_scan(pixels, modality), "denoise", reference

    return make


def image_scan(pixels: np.ndarray, modality: Modality) -> Scan:
    return MemoryImage(
        path=Path("memory.npy"),
        files=(),
        n_slices=1,
        info=ScanInfo(modality),
        shape=pixels.shape,
        pixels=pixels.astype(np.float32),
    )


CASES: dict[str, tuple[Modality, Callable[..., Case]]] = {
    "MRI 8 coils, R=4 equispaced": ("mr", mri(8, 4, "equispaced")),
    "MRI 8 coils, R=8 random": ("mr", mri(8, 8, "random")),
    "MRI 1 coil, R=4 random": ("mr", mri(1, 4, "random")),
    "CT 60 views, parallel": ("ct", ct(60, 1e6)),
    "CT 60 views, fan": ("ct", ct(60, 1e6, "fan-equidistant")),
    "CT 360 views, 10^4 photons": ("ct", ct(360, 1e4)),
    "denoise MR, 5 %": ("mr", image_task("denoise")),
    "denoise CT, 100 HU": ("ct", image_task("denoise")),
    "inpaint MR, 30 % missing": ("mr", image_task("inpaint")),
    "super-resolve MR, x2": ("mr", image_task("super-resolve")),
}
"""Of each kind of task, which other scripts go through, too."""
FURTHER_CASES: dict[str, tuple[Modality, Callable[..., Case]]] = {
    "MRI 8 coils, R=4 random": ("mr", mri(8, 4, "random")),
    "MRI 8 coils, R=8 equispaced": ("mr", mri(8, 8, "equispaced")),
    "MRI 8 coils, partial Fourier 5/8": ("mr", mri(8, 1, "equispaced", 5 / 8)),
    "CT 120 views, parallel": ("ct", ct(120, 1e6)),
    "CT 120 views, fan": ("ct", ct(120, 1e6, "fan-equidistant")),
    "CT 240 views over 120 degrees": ("ct", ct(240, 1e6, share_of_turn=2 / 3)),
    "denoise MR, 2.5 %": ("mr", image_task("denoise", 0.025)),
    "denoise MR, 10 %": ("mr", image_task("denoise", 0.1)),
    "denoise MR, Rician 2.5 %": ("mr", image_task("denoise", 0.025, rician=True)),
    "denoise MR, Rician 5 %": ("mr", image_task("denoise", 0.05, rician=True)),
    "denoise MR, Rician 10 %": ("mr", image_task("denoise", 0.1, rician=True)),
    "denoise CT, FBP of 720 views, 2.5 x 10^4 photons": ("ct", low_dose_image(720, 2.5e4)),
    "inpaint CT, 30 % missing": ("ct", image_task("inpaint")),
    "super-resolve CT, x2": ("ct", image_task("super-resolve")),
    "inpaint CT, 10 % of detector columns missing": ("ct", image_task("inpaint", columns=True)),
    "super-resolve MR, x4": ("mr", image_task("super-resolve", factor=4)),
    "super-resolve CT, x4": ("ct", image_task("super-resolve", factor=4)),
}


def images(modality: Modality, n: int) -> Iterator[np.ndarray]:
    folder = DATA / ("mri" if modality == "mr" else "ct") / "test"
    wanted = "btp1*.npz" if modality == "mr" else "*.npz"
    files = sorted(folder.glob(wanted))
    if modality == "ct":
        # The head is out of distribution on purpose; it is a case of its own.
        files = [path for path in files if "head" not in path.name]
    if files:
        for k in range(n):
            stack = np.load(files[k % len(files)])["slices"]
            fraction = 0.3 + 0.5 * (k // len(files) + 0.5) / max(1, -(-n // len(files)))
            yield stack[int(fraction * len(stack))].astype(np.float32)
        return
    from ldmpir_edge.scans.phantom import head_phantom, rasterise

    for k in range(n):
        size = SIZE if modality == "mr" else 2 * SIZE
        ellipses = head_phantom(np.random.default_rng(k), 0.1 * k)
        yield rasterise(ellipses, (size, size), "mr" if modality == "mr" else "hu")


def enlargement(scan: Scan, task: Task, reference: np.ndarray) -> int | None:
    """Return the factor of a case of super-resolution, and None for the others."""
    return reference.shape[0] // scan.image_shape[0] if task == "super-resolve" else None


def peer_images(
    case: str,
    scan: Scan,
    task: Task,
    factor: int | None = None,
    known: Collection[str] = (),
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and image of the published methods that are ready for a case, but for `known`."""
    from peers import NOTHING_TO_TUNE, PEERS, MissingPeerError, measurement, tuned

    given = measurement(scan, task, factor)
    is_magnitude = (
        task == "denoise" and scan.info.modality == "mr" and not (scan.image(0) < 0).any()
    )
    for name, peer in PEERS[task].items():
        parameters = tuned(case, name)
        if name not in known and (parameters or name in NOTHING_TO_TUNE):
            try:
                image = peer(**given, **parameters)
                yield name, np.maximum(image, 0) if is_magnitude else image
            except MissingPeerError as err:
                print(f"  {name}: {err}")


def summary(scores: Sequence[ImageScores]) -> dict[str, Any]:
    """Return means over slices with 95 % bootstrap intervals, 5th percentiles, and every slice."""
    both = np.array([(one.psnr, one.ssim) for one in scores])
    draws = np.random.default_rng(0).integers(len(both), size=(N_BOOTSTRAP, len(both)))
    low, high = np.percentile(both[draws].mean(axis=1), (2.5, 97.5), axis=0)
    table: dict[str, Any] = {}
    for column, (name, digits) in enumerate((("psnr_db", 2), ("ssim", 4))):
        values = both[:, column]
        table[name] = round(float(values.mean()), digits)
        table[f"{name}_interval"] = [round(float(end[column]), digits) for end in (low, high)]
        table[f"{name}_p5"] = round(float(np.percentile(values, 5)), digits)
        table[f"{name}_slices"] = [round(float(value), digits) for value in values]
    return table


def earlier_peers(case: str, now: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of an earlier run for the methods that would do the same again.

    None of them where that run lacks the case or its untreated images score otherwise: its scans or
    their preparation were others. None for denoising, where they take what the preparation makes of
    the untreated image, and are quick. Not those that are tuned otherwise now.
    """
    from peers import tuned

    if not earlier or case.startswith("denoise"):
        return {}
    a, b = (run[BASELINES[0]]["psnr_db_slices"] for run in (now, earlier))
    if len(a) != len(b) or not np.allclose(a, b, atol=0.02):
        return {}
    return {
        method: numbers
        for method, numbers in earlier.items()
        if numbers.get("parameters") == tuned(case, method) and method not in BASELINES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="ldmpir-2m")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--slices", type=int, default=4, help="of each case")
    published = parser.add_mutually_exclusive_group()
    published.add_argument("--peers", action="store_true", help="run the tuned published methods")
    published.add_argument("--peers-from", type=Path, help="results of a run with --peers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    earlier = json.loads(args.peers_from.read_text())["results"] if args.peers_from else {}
    table: dict[str, dict[str, Any]] = {}
    engines: dict[tuple[str, int], Any] = {}
    for number, (name, (modality, make)) in enumerate((CASES | FURTHER_CASES).items()):
        rows: dict[str, list[ImageScores]] = defaultdict(list)
        cases: list[Case] = []
        for k, image in enumerate(images(modality, args.slices)):
            rng = np.random.default_rng([args.seed, number, k])
            scan, task, reference = make(image, modality, rng)
            cases.append((scan, task, reference))
            prepared = prepare_slice(scan, 0, task, enlargement(scan, task, reference))
            problem = prepared.problem
            shown = dict(zip(BASELINES, (prepared.unreconstructed, problem.x1), strict=True))
            for n_steps in args.steps:
                key = (problem.family, n_steps)
                if key not in engines:
                    variant = bundle.extract(problem.family, n_steps, "fp32")
                    engines[key] = load_engine(variant, args.backend, os.cpu_count())
                planes = engines[key].run(engine_arrays(problem, n_steps))["image"][0]
                shown[f"ours, {n_steps} steps"] = planes
            for method, planes in shown.items():
                rows[method].append(score(prepared.to_scan(planes), reference, modality))
        table[name] = {method: summary(scores) for method, scores in rows.items()}
        if args.peers or earlier:
            from peers import tuned

            peers = earlier_peers(name, table[name], earlier.get(name, {}))
            rows.clear()
            for scan, task, reference in cases:
                factor = enlargement(scan, task, reference)
                for method, peer_image in peer_images(name, scan, task, factor, peers.keys()):
                    rows[method].append(score(peer_image, reference, modality))
            for method, scores in rows.items():
                peers[method] = {**summary(scores), "parameters": tuned(name, method)}
            table[name] |= peers
        cells = "   ".join(
            f"{method} {m['psnr_db']:.2f} dB {m['ssim']:.3f}" for method, m in table[name].items()
        )
        print(f"{name:30s} {cells}", flush=True)
    if args.output:
        document = {
            "bundle": bundle.manifest.model.id,
            "version": bundle.manifest.model.version,
            "data": str(DATA.name) + "/test" if DATA.exists() else "phantom",
            "slices_per_case": args.slices,
            "seed": args.seed,
            "results": table,
        }
        args.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
