"""Compressed sensing for Cartesian multi-coil MRI, by the field's two toolboxes.

All minimise ½ ‖M F S x − y‖² + λ R(x) over complex images x. The measurement is divided by the
99.5th percentile of |Aᴴy| first, so that one λ serves scans of any scale. They take

    kspace  (C, H, W) complex64, zero where not sampled, centred orthonormal transforms
    csm     (C, H, W) complex64, Σ|S|² is 1 or 0: ‖A‖ ≤ 1, so that a gradient step of 1 is safe
    mask    (W,) or (H, W) float32, 1 where sampled

and return the `(H, W)` float32 magnitude in the unit of `kspace`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ldmpir_edge.physics.cartesian import CartesianOp
from peers.errors import MissingPeerError, library

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it


def sigpy_l1_wavelet(
    kspace: np.ndarray, csm: np.ndarray, mask: np.ndarray, *, lam: float, n_iterations: int
) -> np.ndarray:
    """Run `sigpy.mri.app.L1WaveletRecon` (FISTA, Daubechies-4) with a step of 1.

    The step spares sigpy its 30 power iterations for ‖A‖, which is known. Threads: one (numpy's
    FFT and PyWavelets), whatever the environment says.

    Source: Lustig et al., MRM 58(6), 2007; Beck and Teboulle, SIAM J. Imaging Sci. 2(1), 2009.
    """
    app = library("sigpy.mri").app.L1WaveletRecon
    return _run_sigpy(app, kspace, csm, mask, lam=lam, max_iter=n_iterations, alpha=1)


def sigpy_total_variation(
    kspace: np.ndarray,
    csm: np.ndarray,
    mask: np.ndarray,
    *,
    lam: float,
    n_iterations: int,
    dual_step: float,
) -> np.ndarray:
    """Run `sigpy.mri.app.TotalVariationRecon` (primal-dual hybrid gradient).

    The primal step is 1/9 of the dual one's inverse: ‖(A, ∇)‖² ≤ 9 for ‖A‖ ≤ 1, which sigpy would
    measure. Its default dual step of 1 takes thousands of iterations. Threads: one.

    Source: Block et al., MRM 57(6), 2007; Chambolle and Pock, J. Math. Imaging Vis. 40, 2011.
    """
    app = library("sigpy.mri").app.TotalVariationRecon
    steps = {"sigma": dual_step, "tau": 1 / (9 * dual_step)}
    return _run_sigpy(app, kspace, csm, mask, lam=lam, max_iter=n_iterations, **steps)


def sigpy_cg_sense(
    kspace: np.ndarray, csm: np.ndarray, mask: np.ndarray, *, lam: float, n_iterations: int
) -> np.ndarray:
    """Run `sigpy.mri.app.SenseRecon` (conjugate gradients, λ/2 ‖x‖²). Threads: one.

    Source: Pruessmann et al., MRM 46(4), 2001.
    """
    app = library("sigpy.mri").app.SenseRecon
    return _run_sigpy(app, kspace, csm, mask, lam=lam, max_iter=n_iterations)


def bart_l1_wavelet(
    kspace: np.ndarray, csm: np.ndarray, mask: np.ndarray, *, lam: float, n_iterations: int
) -> np.ndarray:
    """Run BART's `pics -R W` (FISTA, Daubechies-2 with random shifts); see `_run_bart`.

    Source: Uecker et al., "Berkeley Advanced Reconstruction Toolbox", ISMRM 2015.
    """
    return _run_bart(kspace, csm, mask, f"W:3:0:{lam:g}", n_iterations)


def bart_tgv(
    kspace: np.ndarray,
    csm: np.ndarray,
    mask: np.ndarray,
    *,
    lam: float,
    rho: float,
    n_iterations: int,
) -> np.ndarray:
    """Run BART's `pics -R G` (second-order total generalised variation, ADMM); see `_run_bart`.

    With BART's default ρ of 0.5 a hundred iterations stay 5 dB behind those with 0.01.

    Source: Knoll et al., "Second order total generalized variation (TGV) for MRI", MRM 65(2), 2011.
    """
    return _run_bart(kspace, csm, mask, f"G:3:0:{lam:g}", n_iterations, "-u", f"{rho:g}")


def _run_bart(
    kspace: np.ndarray,
    csm: np.ndarray,
    mask: np.ndarray,
    regularisation: str,
    n_iterations: int,
    *more: str,
) -> np.ndarray:
    """Run BART's `pics` as a process.

    A call includes the start of the process and its files, which lie in memory where the system
    has /dev/shm: 20 to 30 ms in all at 256 x 256 x 8. Threads: OpenMP's, `OMP_NUM_THREADS`.

    Raises
    ------
    MissingPeerError
        The `bart` program is not on the path.
    """
    if shutil.which("bart") is None:
        raise MissingPeerError("bart is not on the path: apt-get install bart")
    scale = _bright(kspace, csm, mask)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        _write_cfl(folder / "kspace", mask * kspace / np.float32(scale))
        _write_cfl(folder / "csm", csm)
        # -w 1: the data comes scaled; flags 3: the penalty runs over the two image axes.
        options = ["-d", "0", "-w", "1", "-R", regularisation, "-i", str(n_iterations)]
        subprocess.run(
            ["bart", "pics", *options, *more, "kspace", "csm", "image"],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        image = np.fromfile(folder / "image.cfl", np.complex64)
    return np.abs(image.reshape(csm.shape[-2:], order="F")) * np.float32(scale)


def _run_sigpy(
    app: Any, kspace: np.ndarray, csm: np.ndarray, mask: np.ndarray, lam: float, **options: Any
) -> np.ndarray:
    scale = _bright(kspace, csm, mask)
    measured = kspace / np.float32(scale)
    image = app(measured, csm, lam, weights=mask, show_pbar=False, **options).run()
    return np.asarray(np.abs(image) * np.float32(scale), np.float32)


def _bright(kspace: np.ndarray, csm: np.ndarray, mask: np.ndarray) -> float:
    return float(np.percentile(np.abs(CartesianOp(csm, mask).adjoint(kspace)), 99.5))


def _write_cfl(path: Path, coils: np.ndarray) -> None:
    """Write `(C, H, W)` in BART's order: readout, phase encode, slice, coil; first axis fastest."""
    array = coils.transpose(1, 2, 0)[:, :, None].astype(np.complex64)
    path.with_suffix(".hdr").write_text(
        "# Dimensions\n" + " ".join(str(n) for n in (*array.shape, *[1] * 12)) + "\n"
    )
    path.with_suffix(".cfl").write_bytes(array.tobytes(order="F"))
