"""Classical image restoration: denoising, inpainting, enlargement.

`image` is `(H, W)` float32 in the scan's unit (any for MR, HU for CT), and so is the answer.
"""

from __future__ import annotations

import numpy as np

from ldmpir_edge.physics.superresolution import BlurDecimateOp
from peers.errors import library
from peers.fista import fista_tv


def bm3d(image: np.ndarray, noise_level: float, *, strength: float = 1.0) -> np.ndarray:
    """Denoise by BM3D for white noise of `strength` times `noise_level`.

    The authors' own program, for non-commercial use only. Threads: its own, one a core.

    Source: Dabov et al., IEEE Trans. Image Process. 16(8), 2007; Mäkinen et al., ibid. 29, 2020.
    """
    remedy = "pip install bm3d, where its licence (non-commercial use) allows it"
    denoise = library("bm3d", remedy).bm3d
    low, span = _range(image)
    unit = ((image - low) / span).astype(np.float64)
    smooth = denoise(unit, strength * noise_level / span)
    return np.asarray(smooth * span + low, np.float32)


def non_local_means(image: np.ndarray, noise_level: float, *, strength: float = 0.8) -> np.ndarray:
    """Denoise by scikit-image's fast non-local means, h = `strength` times `noise_level`.

    Patches of 5 x 5, searched 13 x 13. Threads: one.

    Source: Buades et al., CVPR 2005; Darbon et al., ISBI 2008.
    """
    denoise = library("skimage.restoration").denoise_nl_means
    low, span = _range(image)
    sigma = noise_level / span
    unit = (image - low) / span
    options = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    smooth = denoise(unit, h=strength * sigma, sigma=sigma, **options)
    return np.asarray(smooth * span + low, np.float32)


def total_variation(image: np.ndarray, noise_level: float, *, strength: float = 0.5) -> np.ndarray:
    """Denoise by scikit-image's TV, its weight `strength` times `noise_level`. Threads: one.

    Source: Chambolle, J. Math. Imaging Vis. 20, 2004.
    """
    denoise = library("skimage.restoration").denoise_tv_chambolle
    low, span = _range(image)
    unit = (image - low) / span
    smooth = denoise(unit, weight=strength * noise_level / span, eps=1e-5, max_num_iter=500)
    return np.asarray(smooth * span + low, np.float32)


def biharmonic(image: np.ndarray) -> np.ndarray:
    """Fill the pixels that are NaN by scikit-image's biharmonic inpainting. Threads: one.

    Source: Damelin and Hoang, Int. J. Math. Math. Sci., 2018.
    """
    fill = library("skimage.restoration").inpaint_biharmonic
    missing = np.isnan(image)
    return np.asarray(fill(np.where(missing, 0, image), missing), np.float32)


def bicubic(image: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge by cubic convolution (Keys, IEEE TASSP 29(6), 1981), Pillow's. Threads: one."""
    return _resize(image, factor, "BICUBIC")


def lanczos(image: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge by Pillow's Lanczos window of three lobes (Duchon, 1979). Threads: one."""
    return _resize(image, factor, "LANCZOS")


def tv_known_blur(image: np.ndarray, factor: int, *, lam: float, n_iterations: int) -> np.ndarray:
    """Enlarge by TV with the operator that made the coarse image: ours is given it, too.

    From cubic interpolation, by `peers.fista`, in units of the image's range. Threads: BLAS's.
    """
    low, span = _range(image)
    coarse = ((image - low) / span).astype(np.float32)
    shape = (factor * image.shape[0], factor * image.shape[1])
    op = BlurDecimateOp(shape, factor)
    norm = float(np.linalg.norm(op.left, 2) * np.linalg.norm(op.right, 2)) ** 2
    fine = fista_tv(
        op.forward,
        op.adjoint,
        coarse,
        bicubic(coarse, factor),
        norm,
        lam=lam,
        n_iterations=n_iterations,
    )
    return np.asarray(fine * span + low, np.float32)


def _range(image: np.ndarray) -> tuple[float, float]:
    return float(image.min()), float(np.ptp(image))


def _resize(image: np.ndarray, factor: int, filter_name: str) -> np.ndarray:
    pillow = library("PIL.Image")
    height, width = image.shape
    picture = pillow.fromarray(np.ascontiguousarray(image, np.float32))
    kind = getattr(pillow.Resampling, filter_name)
    return np.array(picture.resize((width * factor, height * factor), kind))
