"""Time the preparation of one multi-coil slice by stage, and its coil maps against sigpy's.

    python benchmarks/preparation.py [--size 320] [--coils 15] [--repeats 30] [--slices 4] [--json]

From the file to the engine's inputs: reading (uncompressed, in the page cache), mask, whitening,
compression, coil maps, CG-SENSE. Medians of wall clock and of processor time, once with one thread
for BLAS and FFT, as `ldmpir-edge run` prepares beside the engine, and once with --threads. Stages
are timed from outside, at the functions' names, and hold what the functions they call do not.

Coil maps: `estimate_coil_maps` and `sigpy.mri.app.EspiritCalib` (its defaults, and without its
crop) on the same calibration data; then the whole preparation with the maps of each, on simulated
scans of held-out slices: PSNR of CG-SENSE and, unless --bundle is "none", of the reconstruction.
Data as in benchmarks/quality.py: ../shared/data/mri/test where it is, else the head phantom.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
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
from quality import DATA, MemoryKspace, images, mri
from scipy import ndimage
from threadpoolctl import threadpool_limits

from ldmpir_edge.physics import mri_problem
from ldmpir_edge.physics.mri_problem import build_mri_problem
from ldmpir_edge.reconstruct.slices import PreparedSlice, prepare_slice
from ldmpir_edge.report.metrics import score
from ldmpir_edge.scans import prepare_mri as preparation
from ldmpir_edge.scans.coil_maps import estimate_coil_maps
from ldmpir_edge.scans.detect import open_scan

STAGES: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
    "mask and calibration lines": (preparation, ("sampled_positions", "central_block")),
    "whitening": (preparation, ("noise_covariance", "whitening_factor", "whiten")),
    "coil compression": (preparation, ("compression_matrix", "compress")),
    "readout transform": (preparation, ("centred_fft", "centred_ifft")),
    "coil maps": (preparation, ("estimate_coil_maps",)),
    "CG-SENSE": (mri_problem, ("cg_sense",)),
}
ACCELERATION = 4
NOISE = 0.01
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
        self._credit()
        self._running.append(name)
        yield
        self._credit()
        self._running.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
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
    """A slice of `size` x `size` from the first test image, and a noise scan to go with it."""
    image = next(iter(images("mr", 1)))
    rng = np.random.default_rng(0)
    resized = ndimage.zoom(image, size / image.shape[0], order=1, grid_mode=True, mode="nearest")
    scan, _, _ = mri(n_coils, ACCELERATION, "equispaced")(resized, "mr", rng)
    noise = rng.standard_normal((n_coils, 8192)) + 1j * rng.standard_normal((n_coils, 8192))
    return scan, (NOISE * noise).astype(np.complex64)


def write_scan(folder: Path, scan: MemoryKspace, compression: str | None = None) -> Path:
    """Write a fastMRI file of one slice, a chunk a coil if compressed."""
    path = folder / f"{compression}.h5"
    options = {"chunks": (1, 1, *scan.samples.shape[1:]), "compression_opts": 1, "shuffle": True}
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "kspace",
            data=scan.samples[None],
            compression=compression,
            **(options if compression else {}),
        )
        file["mask"] = scan.mask
    return path


def prepare_once(path: Path, noise: np.ndarray) -> Stopwatch:
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
        with watch.stage("normal equations and tables"):
            build_mri_problem(
                measured.data,
                measured.csm,
                measured.mask,
                measured.noise_level,
                hybrid=measured.is_hybrid,
            )
    return watch


def time_stages(path: Path, noise: np.ndarray, repeats: int, n_threads: int) -> Times:
    """Median (wall, processor) seconds of each stage and of all together."""
    with threadpool_limits(n_threads, user_api="blas"), scipy.fft.set_workers(n_threads):
        for _ in range(3):
            prepare_once(path, noise)
        runs = [prepare_once(path, noise).spent for _ in range(repeats)]
    rows = {name: [run[name] for run in runs] for name in runs[0]}
    rows["in all"] = [sum(run.values()) for run in runs]
    return {
        name: (statistics.median(t[0] for t in times), statistics.median(t[1] for t in times))
        for name, times in rows.items()
    }


def time_reading(path: Path, repeats: int) -> float:
    times = []
    with open_scan(path) as scan:
        for _ in range(repeats):
            started = time.perf_counter()
            scan.kspace(0)
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def sigpy_maps(block: np.ndarray, shape: tuple[int, int], **options: float) -> np.ndarray:
    """Sigpy's ESPIRiT on the calibration block that `estimate_coil_maps` is given."""
    from sigpy.mri.app import EspiritCalib
    from sigpy.util import resize

    width = min(24, *block.shape[1:])
    kspace = resize(block, (len(block), *shape))
    return EspiritCalib(kspace, calib_width=width, show_pbar=False, **options).run()


def sigpy_maps_uncropped(block: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return sigpy_maps(block, shape, crop=0)


METHODS = {
    "ours": estimate_coil_maps,
    "sigpy": sigpy_maps,
    "sigpy, crop=0": sigpy_maps_uncropped,
}


def prepare_with(method: Callable[..., np.ndarray], scan: MemoryKspace) -> PreparedSlice:
    with mock.patch.object(preparation, "estimate_coil_maps", method):
        return prepare_slice(scan, 0, "mri")


def time_maps(scan: MemoryKspace, repeats: int, n_threads: int) -> dict[str, float]:
    """Median wall seconds of each method on the calibration block of one scan."""
    with mock.patch.object(
        preparation, "estimate_coil_maps", side_effect=estimate_coil_maps
    ) as spy:
        prepare_slice(scan, 0, "mri")
    (block, shape), _ = spy.call_args
    result = {}
    with threadpool_limits(n_threads, user_api="blas"), scipy.fft.set_workers(n_threads):
        for name, n in (("ours", repeats), ("sigpy", SIGPY_REPEATS)):
            METHODS[name](block, shape)
            times = []
            for _ in range(n):
                started = time.perf_counter()
                METHODS[name](block, shape)
                times.append(time.perf_counter() - started)
            result[name] = statistics.median(times)
    return result


def compare_quality(
    n_coils: int, n_slices: int, bundle: str, n_steps: int
) -> dict[str, dict[str, float]]:
    """Mean PSNR in dB of each method's images, over simulated scans of test slices."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    engine: Any = None
    for k, image in enumerate(images("mr", n_slices)):
        rng = np.random.default_rng([1, k])
        scan, _, reference = mri(n_coils, ACCELERATION, "equispaced")(image, "mr", rng)
        for name, method in METHODS.items():
            prepared = prepare_with(method, scan)
            problem = prepared.problem
            shown = {"CG-SENSE": problem.x1}
            if bundle != "none":
                from ldmpir_edge.bundle import open_bundle
                from ldmpir_edge.physics.engine_input import engine_arrays
                from ldmpir_edge.runtimes import load_engine

                if engine is None:
                    variant = open_bundle(bundle).extract(problem.family, n_steps, "fp32")
                    engine = load_engine(variant, "onnxruntime", os.cpu_count())
                output = engine.run(engine_arrays(problem, n_steps))["image"][0]
                shown[f"reconstruction, {n_steps} steps"] = output
            for what, planes in shown.items():
                rows[name][what].append(score(prepared.to_scan(planes), reference, "mr").psnr)
    return {
        name: {what: round(float(np.mean(values)), 3) for what, values in row.items()}
        for name, row in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--coils", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--slices", type=int, default=4, help="for the quality of the maps")
    parser.add_argument("--bundle", default="ldmpir-2m", help='"none": CG-SENSE alone')
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    # Old OpenBLAS settings of the workplace slow a current numpy.
    foreign = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}
    if foreign & os.environ.keys():
        environment = {k: v for k, v in os.environ.items() if k not in foreign}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)  # noqa: S606

    scan, noise = simulate(args.size, args.coils)
    stages: dict[int, Times] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = write_scan(Path(folder), scan), write_scan(Path(folder), scan, "gzip")
        unpacking = time_reading(packed, args.repeats)
        for n_threads in sorted({1, args.threads}):
            stages[n_threads] = time_stages(plain, noise, args.repeats, n_threads)
    maps = time_maps(scan, args.repeats, args.threads)
    quality = compare_quality(args.coils, args.slices, args.bundle, args.steps)
    document = {
        "settings": vars(args),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("numpy", "scipy", "h5py", "sigpy")},
        "data": "shared/data/mri/test" if DATA.exists() else "generated head phantom",
        "stages_wall_and_cpu_s": stages,
        "reading_gzip_s": unpacking,
        "maps_s": maps,
        "maps_psnr_db": quality,
    }
    print(json.dumps(document, indent=1) if args.json else as_text(document))


def as_text(document: dict[str, Any]) -> str:
    settings, maps = document["settings"], document["maps_s"]
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    lines = [
        f"{settings['size']}x{settings['size']}, {settings['coils']} coils, R={ACCELERATION}, "
        f"median of {settings['repeats']}; {document['data']}; {document['machine']}; {versions}"
    ]
    for n_threads, times in document["stages_wall_and_cpu_s"].items():
        lines.append(f"{n_threads} thread(s)                 wall ms   cpu ms")
        lines += [f"  {name:28s} {1e3 * w:7.1f}  {1e3 * c:7.1f}" for name, (w, c) in times.items()]
    lines += [
        f"reading, gzip-compressed chunks: {1e3 * document['reading_gzip_s']:.1f} ms",
        f"coil maps, {settings['threads']} thread(s): ours {1e3 * maps['ours']:.1f} ms, sigpy "
        f"{1e3 * maps['sigpy']:.0f} ms (median of {SIGPY_REPEATS}), "
        f"{maps['sigpy'] / maps['ours']:.0f} x",
    ]
    for name, row in document["maps_psnr_db"].items():
        cells = "   ".join(f"{what} {psnr:.2f} dB" for what, psnr in row.items())
        lines.append(f"maps of {name:14s} {cells}   ({settings['slices']} slices)")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
