"""The normal operators of the five engine families, in real arithmetic.

ONNX has no complex arithmetic, so an image is two real planes `(B, 2, H, W)`. These functions
are the single definition that the classical estimates, training, export and the reference
check share: they take numpy arrays and torch tensors alike, and use only operations that every
engine has (MatMul, elementwise, Gather).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from array_api_compat import array_namespace

from ldmpir_edge.physics.linear_op import Array
from ldmpir_edge.physics.problem import Family

Tables = Mapping[str, Array]


def gram_cartesian1d(x: Array, tables: Tables) -> Array:
    """Apply Σ_c S̄_c ((S_c x) Fᴴ F), the readout axis having cancelled; see `gram_halves`."""
    return unfold_rows(gram_halves(fold_rows(x, tables), tables))


def fold_rows(x: Array, tables: Tables) -> Array:
    """Lay the mirrored right half of each row behind the left: `(B, 2, H, W)` → `(B, 4, H, W/2)`.

    The planes are the real and imaginary left halves, then the right ones.
    """
    xp = array_namespace(x)
    half = tables["cos"].shape[0]
    return xp.concat([x[..., :half], xp.flip(x[..., half:], axis=-1)], axis=1)


def unfold_rows(x: Array) -> Array:
    """Undo `fold_rows`."""
    xp = array_namespace(x)
    return xp.concat([x[:, :2], xp.flip(x[:, 2:], axis=-1)], axis=-1)


def gram_halves(x: Array, tables: Tables) -> Array:
    """Apply the normal operator of `cartesian1d` to folded rows, `(B, 4, H, W/2)`.

    F is the DFT to the sampled phase-encode columns, taken about the middle of the row: the
    phase that this puts on each column cancels in FᴴF. About the middle, cosines are even and
    sines odd, so that the even part of a row meets the cosines alone and the odd part the sines
    alone, each on half the row: half the multiplications of a DFT about any other point.

    Tables: `csm_halves` (B, 4, C, H, W/2), the real and imaginary maps of the left half, then of
    the mirrored right half; `cos` and `sin` (W/2, n), the DFT of the left half.
    """
    xp = array_namespace(x)
    maps, cos, sin = tables["csm_halves"], tables["cos"], tables["sin"]
    l_re, l_im, r_re, r_im = maps[:, 0], maps[:, 1], maps[:, 2], maps[:, 3]
    left_re, left_im = _times_maps(x[:, :2], l_re, l_im)
    right_re, right_im = _times_maps(x[:, 2:], r_re, r_im)
    k_re = (left_re + right_re) @ cos + (left_im - right_im) @ sin
    k_im = (left_im + right_im) @ cos - (left_re - right_re) @ sin
    # And back: the even part from the cosines, the odd one from the sines.
    cos, sin = cos.T, sin.T
    even_re, even_im, odd_re, odd_im = k_re @ cos, k_im @ cos, k_im @ sin, k_re @ sin
    left = _combine(even_re - odd_re, even_im + odd_im, l_re, l_im)
    right = _combine(even_re + odd_re, even_im - odd_im, r_re, r_im)
    return xp.concat([left, right], axis=1)


def gram_separable(x: Array, tables: Tables) -> Array:
    """Apply Σ_c S̄_c Lᴴ(M ⊙ L(S_c x)R)Rᴴ.

    Tables: `csm` (B, C, 2, H, W); `left` (m, H, 2); `right` (W, n, 2); `mask` (B, m, n).
    """
    csm, mask = tables["csm"], tables["mask"][:, None]
    left_re, left_im = tables["left"][..., 0], tables["left"][..., 1]
    right_re, right_im = tables["right"][..., 0], tables["right"][..., 1]
    s_re, s_im = csm[:, :, 0], csm[:, :, 1]
    re, im = _times_maps(x, s_re, s_im)
    re, im = re @ right_re - im @ right_im, re @ right_im + im @ right_re
    re, im = left_re @ re - left_im @ im, left_re @ im + left_im @ re
    re, im = re * mask, im * mask
    re, im = left_re.T @ re + left_im.T @ im, left_re.T @ im - left_im.T @ re
    re, im = re @ right_re.T + im @ right_im.T, im @ right_re.T - re @ right_im.T
    return _combine(re, im, s_re, s_im)


def gram_pointwise(x: Array, tables: Tables) -> Array:
    """Apply M ⊙ x. Table: `mask` (B, H, W), 1 at known pixels."""
    return x * tables["mask"][:, None]


def gram_toeplitz(x: Array, tables: Tables) -> Array:
    """Convolve the real plane with a point-spread kernel on the doubled grid.

    Attenuation is real: the imaginary plane is not measured, and comes back as zero.

    Tables: `kernel` (2H, W+1), the kernel's real half spectrum with the weights of the
    half spectrum and the scale of the inverse transform folded in; `dft_h` (2H, H, 2) and
    `dft_w` (W, W+1, 2), the zero-padded DFT blocks.
    """
    kernel = tables["kernel"]
    h_re, h_im = tables["dft_h"][..., 0], tables["dft_h"][..., 1]
    w_re, w_im = tables["dft_w"][..., 0], tables["dft_w"][..., 1]
    real = x[:, :1]
    re, im = real @ w_re, real @ w_im
    re, im = (h_re @ re - h_im @ im) * kernel, (h_re @ im + h_im @ re) * kernel
    re, im = h_re.T @ re + h_im.T @ im, h_re.T @ im - h_im.T @ re
    return _with_zero_imaginary(re @ w_re.T + im @ w_im.T)


def gram_rays(x: Array, tables: Tables) -> Array:
    """Apply AᵀF A by Gather alone, to the real plane of square images.

    The imaginary plane comes back as zero, as in `gram_toeplitz`.

    Tables: see `ldmpir_edge.physics.rays.ray_tables`, which makes them.
    """
    xp = array_namespace(x)
    # A product with zero in place of zeros_like, and indexing in place of take and reshape: each
    # of those traces as a dozen shape operations, in every application of the operator.
    image = x[:, 0]
    edge = image[..., :1] * 0
    rows = xp.concat([edge, image, edge], axis=-1)
    columns = xp.concat([edge, xp.matrix_transpose(image), edge], axis=-1)
    flat = xp.reshape(xp.concat([rows, columns], axis=-2), (x.shape[0], -1))
    # Differences of the image, not of what was gathered: a hundred times fewer.
    slope = flat[:, 1:] - flat[:, :-1]
    index, fraction = tables["forward_index"], tables["forward_fraction"]
    samples = flat[:, index] + fraction * slope[:, index]
    sinogram = xp.sum(samples, axis=-1) * tables["forward_weight"]
    kernel = tables["filter"]
    views = xp.reshape(sinogram, (x.shape[0], -1, kernel.shape[0]))
    filtered = xp.reshape(views @ kernel, (x.shape[0], -1))
    padded = xp.concat([filtered, filtered[..., :1] * 0], axis=-1)
    gathered = padded[:, tables["adjoint_index"]]
    pixels = xp.sum(gathered * tables["adjoint_weight"], axis=-1)
    return _with_zero_imaginary(xp.reshape(pixels, (x.shape[0], 1, x.shape[2], x.shape[3])))


def _with_zero_imaginary(real: Array) -> Array:
    return array_namespace(real).concat([real, real * 0], axis=1)


def _times_maps(x: Array, s_re: Array, s_im: Array) -> tuple[Array, Array]:
    re, im = x[:, None, 0], x[:, None, 1]
    return re * s_re - im * s_im, re * s_im + im * s_re


def _combine(re: Array, im: Array, s_re: Array, s_im: Array) -> Array:
    xp = array_namespace(re)
    combined_re = xp.sum(s_re * re + s_im * im, axis=1)
    combined_im = xp.sum(s_re * im - s_im * re, axis=1)
    return xp.stack([combined_re, combined_im], axis=1)


NORMAL_OPERATORS: dict[Family, Callable[[Array, Tables], Array]] = {
    "cartesian1d": gram_cartesian1d,
    "separable": gram_separable,
    "pointwise": gram_pointwise,
    "toeplitz": gram_toeplitz,
    "rays": gram_rays,
}

SOLVER_OPERATORS = {**NORMAL_OPERATORS, "cartesian1d": gram_halves}
"""What conjugate gradients apply: to images laid out by `to_solver`, so that rows are folded once
a solution and not once an iteration."""

TABLES: dict[Family, tuple[str, ...]] = {
    "cartesian1d": ("csm_halves", "cos", "sin", "density", "all_cos", "all_sin"),
    "separable": ("csm", "left", "right", "mask"),
    "pointwise": ("mask",),
    "toeplitz": ("kernel", "dft_h", "dft_w"),
    "rays": (
        "forward_index",
        "forward_fraction",
        "forward_weight",
        "adjoint_index",
        "adjoint_weight",
        "filter",
    ),
}


def to_solver(x: Array, family: Family, tables: Tables) -> Array:
    """Lay out an image `(B, 2, H, W)` for `SOLVER_OPERATORS`; inner products stay as they are."""
    return fold_rows(x, tables) if family == "cartesian1d" else x


def from_solver(x: Array, family: Family) -> Array:
    """Undo `to_solver`."""
    return unfold_rows(x) if family == "cartesian1d" else x


BATCHED_TABLES = frozenset({"csm", "csm_halves", "density", "mask"})
"""Tables with a batch axis; the others depend on the geometry alone and are shared."""


def batch_of_one(tables: Tables) -> dict[str, Array]:
    """Give the tables of one problem the batch axis that the normal operators expect."""
    return {name: t[None] if name in BATCHED_TABLES else t for name, t in tables.items()}
