"""The published methods that ldmpir-edge is measured against, behind one way of calling.

    image = PEERS[task][name](**measurement(scan, task), **tuned(case, name))

`measurement` gives a peer what ours gets and nothing else: the same k-space with the same coil
maps, the same sinogram, the same noise level. It is not a peer's work and is not to be timed.
Peers answer on the scale of the ground truth (magnitude, HU) and take their threads from
`OMP_NUM_THREADS`, set before Python starts, as ours does. One that is not installed raises
`MissingPeerError` when it is called. The sampler with the network is in `peers.dds`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ldmpir_edge.physics.fourier import centred_fft
from ldmpir_edge.physics.image_problem import build_denoise_problem
from ldmpir_edge.physics.problem import Task
from ldmpir_edge.reconstruct.slices import resolve_factor
from ldmpir_edge.scans.model import ImageScan, KspaceScan, Scan, SinogramScan
from ldmpir_edge.scans.prepare_mri import prepare_mri
from peers.ct import cgls, fista_tv, sirt
from peers.errors import MissingPeerError
from peers.image import (
    bicubic,
    biharmonic,
    bm3d,
    lanczos,
    non_local_means,
    total_variation,
    tv_known_blur,
)
from peers.mri import (
    bart_l1_wavelet,
    bart_tgv,
    sigpy_cg_sense,
    sigpy_l1_wavelet,
    sigpy_total_variation,
)

__all__ = ["DDS", "NOTHING_TO_TUNE", "PEERS", "MissingPeerError", "measurement", "tuned"]

DDS = "DDS, 50 steps"
"""Name of `peers.dds` in tables, which is not in `PEERS`: it takes a problem and the network."""

NOTHING_TO_TUNE = frozenset({"biharmonic", "bicubic", "Lanczos"})

TUNED = Path(__file__).with_name("tuned.json")

TUNED_AS = {
    "MRI 8 coils, R=4 random": "MRI 8 coils, R=4 equispaced",
    "MRI 8 coils, R=8 equispaced": "MRI 8 coils, R=8 random",
    "MRI 8 coils, partial Fourier 5/8": "MRI 8 coils, R=4 equispaced",
    "CT 120 views, parallel": "CT 60 views, parallel",
    "CT 120 views, fan": "CT 60 views, fan",
    "CT 240 views over 120 degrees": "CT 60 views, parallel",
    "denoise MR, 2.5 %": "denoise MR, 5 %",
    "denoise MR, 10 %": "denoise MR, 5 %",
    "denoise MR, Rician 2.5 %": "denoise MR, 5 %",
    "denoise MR, Rician 5 %": "denoise MR, 5 %",
    "denoise MR, Rician 10 %": "denoise MR, 5 %",
    "denoise CT, FBP of 720 views, 2.5 x 10^4 photons": "denoise CT, 100 HU",
    "super-resolve CT, x2": "super-resolve MR, x2",
    "super-resolve MR, x4": "super-resolve MR, x2",
    "super-resolve CT, x4": "super-resolve MR, x2",
}
"""Cases that take the parameters of one like them. Denoisers' are shares of the noise level."""

Peer = Callable[..., np.ndarray]

PEERS: dict[Task, dict[str, Peer]] = {
    "mri": {
        "sigpy CG-SENSE": sigpy_cg_sense,
        "sigpy L1-wavelet": sigpy_l1_wavelet,
        "sigpy TV": sigpy_total_variation,
        "BART pics L1-wavelet": bart_l1_wavelet,
        "BART pics TGV": bart_tgv,
    },
    "ct": {"astra SIRT": sirt, "astra CGLS": cgls, "FISTA-TV": fista_tv},
    "denoise": {"BM3D": bm3d, "non-local means": non_local_means, "TV": total_variation},
    "inpaint": {"biharmonic": biharmonic},
    "super-resolve": {
        "bicubic": bicubic,
        "Lanczos": lanczos,
        "TV, known blur": tv_known_blur,
    },
}


def measurement(scan: Scan, task: Task, factor: int | None = None) -> dict[str, Any]:
    """Return the keyword arguments that every peer of `task` takes, for slice 0 of a scan.

    MRI: `kspace` (C, H, W), `csm` of the product's own estimation, `mask`, on the grid and in the
    unit of the scan (one without a noise scan: nothing is whitened). CT: `sinogram`, `geometry`,
    `image_shape`, `pixel_spacing_mm`, `mu_water_per_mm`. Images: `image`, and the `noise_level`
    that the product estimates, or the `factor` of super-resolution; a magnitude to be denoised is
    freed of its Rician bias as for the product's own network.
    """
    if isinstance(scan, KspaceScan):
        made = prepare_mri(scan.kspace(0), scan.mask, scan.noise_samples, scan.recon_matrix)
        kspace = centred_fft(made.data, (1,)) if made.is_hybrid else made.data
        return {"kspace": kspace.astype(np.complex64), "csm": made.csm, "mask": made.mask}
    if isinstance(scan, SinogramScan):
        return {
            "sinogram": scan.sinogram(0),
            "geometry": scan.geometry,
            "image_shape": scan.recon_matrix,
            "pixel_spacing_mm": scan.pixel_spacing_mm,
            "mu_water_per_mm": scan.mu_water_per_mm,
        }
    assert isinstance(scan, ImageScan)  # noqa: S101 - there is no fourth kind of scan
    image = scan.image(0, missing=task == "inpaint")
    if task == "denoise":
        made = build_denoise_problem(image, scan.info.modality)
        height, width = image.shape
        return {
            "image": made.b[0, :height, :width] * made.scale + made.offset,
            "noise_level": made.noise_level * made.scale,
        }
    if task == "super-resolve":
        return {"image": image, "factor": resolve_factor(task, factor)}
    return {"image": image}


def tuned(case: str, name: str) -> dict[str, Any]:
    """Return the parameters that `tune_peers.py` chose for a peer in a case, or one like it.

    Empty for a peer that has nothing to tune.
    """
    cases = json.loads(TUNED.read_text())["cases"]
    chosen: dict[str, Any] = cases.get(TUNED_AS.get(case, case), {}).get(name, {}).get("chosen", {})
    return chosen
