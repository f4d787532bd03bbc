"""Time the preparation of one multi-coil slice by stage, and its coil maps against sigpy's.

    python benchmarks/preparation.py [--size 320] [--coils 15] [--repeats 30] [--slices 10] [--json]

From the file to the engine's inputs: reading (uncompressed, in the page cache), mask, whitening,
compression, coil maps, CG-SENSE. Medians of wall clock and of processor time: with one thread for
BLAS and FFT, which is what `ldmpir-edge run` prepares with beside the engine, and with --threads.
Stages are timed from outside, at the functions' names, less what they call of other stages.

Coil maps: `estimate_coil_maps` and `sigpy.mri.app.EspiritCalib` on the same calibration data; then
the whole preparation with the maps of each, on simulated scans of held-out slices: PSNR of CG-SENSE
and, unless --bundle is "none", of the reconstruction. The phase of coil maps is free, and the
network gives other images for other phases: sigpy's maps are given the phase of ours.
Data as in benchmarks/quality.py: ../shared/data/mri/test where it is, else the head phantom.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import h5py
import numpy as np
import scipy.fft
from engines import median_seconds
from processes import restart_clean
from quality import DATA, MemoryKspace, images, mri
from scipy import ndimage
from threadpoolctl import threadpool_limits

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.physics import mri_problem
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.mri_problem import build_mri_problem
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.report.metrics import score
from ldmpir_edge.runtimes import load_engine
from ldmpir_edge.scans import prepare_mri as preparation
from ldmpir_edge.scans.coil_compression import compress_rows
from ldmpir_edge.scans.coil_maps import estimate_coil_maps
from ldmpir_edge.scans.detect import open_scan

STAGES: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
    "mask and calibration lines": (preparation, ("sampled_positions", "central_block")),
    "whitening": (preparation, ("noise_covariance", "whitening_factor", "whiten")),
    "coil compression": (preparation, ("compression_matrix", "compress")),
    "readout transform": (preparation, ("centred_fft", "centred_ifft")),
    "coil maps": (preparation, ("estimate_coil_maps",)),
    "CG-SENSE": (mri_problem, ("reweighted_sense",)),
}
ACCELERATION = 4
NOISE = 0.01
WARM_UP = 3
SIGPY_REPEATS = 3

Times = dict[str, tuple[float, float]]


class Stopwatch:
    """Adds up what each stage takes, less the stages inside it: wall and processor seconds."""

    def __init__(self) -> None:
        self.spent: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
        self._running: list[str] = []
        self._since = np.zeros(2)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Put what is spent inside down to `name`."""
        self._credit()
        self._running.append(name)
        yield
        self._credit()
        self._running.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make every call of `function` part of a stage."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return call

    def _credit(self) -> None:
        now = np.array([time.perf_counter(), time.process_time()])
        if self._running:
            self.spent[self._running[-1]] += now - self._since
        self._since = now


def simulate(size: int, n_coils: int) -> tuple[MemoryKspace, np.ndarray]:
    """Scan the first test image at `size` x `size`; a noise scan goes with it."""
    image = next(iter(images("mr", 1)))
    rng = np.random.default_rng(0)
    resized = ndimage.zoom(image, size / image.shape[0], order=1, grid_mode=True, mode="nearest")
    scan, _, _ = mri(n_coils, ACCELERATION, "equispaced")(resized, "mr", rng)
    noise = rng.standard_normal((n_coils, 8192)) + 1j * rng.standard_normal((n_coils, 8192))
    return scan, (NOISE * noise).astype(np.complex64)


def write_scan(path: Path, scan: MemoryKspace, **compression: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=scan.samples[None], **compression)
        file["mask"] = scan.mask
    return path


def prepare_once(path: Path, noise: np.ndarray) -> dict[str, np.ndarray]:
    """Give the (wall, processor) seconds of each stage."""
    watch = Stopwatch()
    with contextlib.ExitStack() as stack:
        scan = stack.enter_context(open_scan(path))
        for name, (module, functions) in STAGES.items():
            for function in functions:
                timed = watch.timed(name, getattr(module, function))
                stack.enter_context(mock.patch.object(module, function, timed))
        with watch.stage("reading"):
            kspace = scan.kspace(0)
        with watch.stage("gathering, scattering, scale"):
            measured = preparation.prepare_mri(kspace, scan.mask, noise, scan.recon_matrix)
        with watch.stage("coil compression by rows"):
            data, csm = compress_rows(measured.data, measured.csm)
        with watch.stage("normal equations, tables"):
            build_mri_problem(
                data,
                csm,
                measured.mask,
                measured.noise_level,
                hybrid=measured.is_hybrid,
            )
    return watch.spent


def time_stages(path: Path, noise: np.ndarray, repeats: int, n_threads: int) -> Times:
    """Give the median (wall, processor) seconds of each stage and of all together."""
    with threadpool_limits(n_threads, user_api="blas"), scipy.fft.set_workers(n_threads):
        runs = [prepare_once(path, noise) for _ in range(WARM_UP + repeats)][WARM_UP:]
    rows = {name: [run[name] for run in runs] for name in runs[0]}
    rows["in all"] = [sum(run.values()) for run in runs]
    return {
        name: (statistics.median(t[0] for t in times), statistics.median(t[1] for t in times))
        for name, times in rows.items()
    }


def time_reading(path: Path, repeats: int) -> float:
    with open_scan(path) as scan:
        return median_seconds(lambda: scan.kspace(0), repeats, warm_up=0)


def sigpy_maps(block: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Estimate maps from the block that `estimate_coil_maps` is given, with sigpy's defaults."""
    from sigpy.mri.app import EspiritCalib
    from sigpy.util import resize

    width = min(24, *block.shape[1:])
    kspace = resize(block, (len(block), *shape))
    return EspiritCalib(kspace, calib_width=width, show_pbar=False).run()


def sigpy_maps_in_our_phase(block: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    theirs, ours = sigpy_maps(block, shape), estimate_coil_maps(block, shape)
    turn = np.exp(1j * np.angle(np.sum(theirs.conj() * ours, axis=0)))
    return (theirs * turn).astype(np.complex64)


def time_maps(scan: MemoryKspace, repeats: int, n_threads: int) -> dict[str, float]:
    """Give the median wall seconds of each method on the calibration block of one scan."""
    with mock.patch.object(preparation, "estimate_coil_maps", wraps=estimate_coil_maps) as spy:
        prepare_slice(scan, 0, "mri")
    block, shape = spy.call_args.args
    with threadpool_limits(n_threads, user_api="blas"):
        estimate_coil_maps(block, shape)
        return {
            "ours": median_seconds(lambda: estimate_coil_maps(block, shape), repeats, warm_up=0),
            "sigpy": median_seconds(lambda: sigpy_maps(block, shape), SIGPY_REPEATS, warm_up=0),
        }


def compare_quality(
    n_coils: int, n_slices: int, bundle: str, n_steps: int
) -> dict[str, dict[str, float]]:
    """Give the mean PSNR in dB with the maps of each method, over scans of test slices."""
    methods = {"ours": estimate_coil_maps, "sigpy": sigpy_maps_in_our_phase}
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    engine: Any = None
    if bundle != "none":
        variant = open_bundle(bundle).extract("cartesian1d", n_steps, "fp32")
        engine = load_engine(variant, "onnxruntime", os.cpu_count())
    for k, image in enumerate(images("mr", n_slices)):
        rng = np.random.default_rng([1, k])
        scan, _, reference = mri(n_coils, ACCELERATION, "equispaced")(image, "mr", rng)
        for name, method in methods.items():
            with mock.patch.object(preparation, "estimate_coil_maps", method):
                prepared = prepare_slice(scan, 0, "mri")
            shown = {"CG-SENSE": prepared.problem.x1}
            if engine:
                output = engine.run(engine_arrays(prepared.problem, n_steps))
                shown[f"{n_steps} steps"] = output["image"][0]
            for what, planes in shown.items():
                rows[name][what].append(score(prepared.to_scan(planes), reference, "mr").psnr)
    return {
        name: {what: round(float(np.mean(values)), 3) for what, values in row.items()}
        for name, row in rows.items()
    }


def as_text(document: dict[str, Any]) -> str:
    settings, maps = document["settings"], document["maps_s"]
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    size, n_threads = settings["size"], settings["threads"]
    lines = [
        f"{size} x {size}, {settings['coils']} coils, R = {ACCELERATION}, median of "
        f"{settings['repeats']}; {document['data']}; {document['machine']}; {versions}"
    ]
    for n, times in document["stages_wall_and_cpu_s"].items():
        lines.append(f"{f'threads: {n}':28s}  wall ms  cpu ms")
        lines += [f"  {name:28s} {1e3 * w:6.1f}  {1e3 * c:6.1f}" for name, (w, c) in times.items()]
    lines += [
        f"reading with gzip-compressed chunks: {1e3 * document['reading_gzip_s']:.1f} ms",
        f"coil maps alone, threads: {n_threads}: ours {1e3 * maps['ours']:.1f} ms, sigpy "
        f"{1e3 * maps['sigpy']:.0f} ms (median of {SIGPY_REPEATS}): {document['maps_ratio']} x",
    ]
    for name, row in document["maps_psnr_db"].items():
        cells = "   ".join(f"{what} {psnr:.2f} dB" for what, psnr in row.items())
        lines.append(f"maps of {name:6s} {cells}   (mean of {settings['slices']} slices)")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--coils", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--slices", type=int, default=10, help="for the quality of the maps")
    parser.add_argument("--bundle", default="ldmpir-2m", help='"none": CG-SENSE alone')
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    restart_clean()
    scan, noise = simulate(args.size, args.coils)
    with tempfile.TemporaryDirectory() as folder:
        plain = write_scan(Path(folder) / "plain.h5", scan)
        by_coil = {"chunks": (1, 1, *scan.samples.shape[1:]), "shuffle": True}
        packed = write_scan(
            Path(folder) / "packed.h5", scan, compression="gzip", compression_opts=1, **by_coil
        )
        stages = {n: time_stages(plain, noise, args.repeats, n) for n in sorted({1, args.threads})}
        unpacking = time_reading(packed, args.repeats)
    maps = time_maps(scan, args.repeats, args.threads)
    document = {
        "settings": vars(args),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("numpy", "scipy", "h5py", "sigpy")},
        "data": "shared/data/mri/test" if DATA.exists() else "generated head phantom",
        "stages_wall_and_cpu_s": stages,
        "reading_gzip_s": unpacking,
        "maps_s": maps,
        "maps_ratio": round(maps["sigpy"] / maps["ours"]),
        "maps_psnr_db": compare_quality(args.coils, args.slices, args.bundle, args.steps),
    }
    print(json.dumps(document, indent=1) if args.json else as_text(document))


if __name__ == "__main__":
    main()
