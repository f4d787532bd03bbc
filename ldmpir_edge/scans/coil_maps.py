"""Coil sensitivity maps from autocalibration lines: ESPIRiT, and Walsh where lines are few.

ESPIRiT is the default: its maps come from the null space of the calibration data, so they follow
the true sensitivities up to the object's edge without needing a body-coil image, and it is what
clinical and research pipelines compare against. Its kernels need a calibration block of some
eight lines or more; below that, the adaptive combination of Walsh on a low-resolution image still
gives usable, though smoother, maps.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ldmpir_edge.errors import ShapeError
from ldmpir_edge.scans.interpolation import upsample

MIN_ESPIRIT_LINES = 8
_KERNEL = 5
_MAX_CALIBRATION = 24
_KNOTS = 44
# Relative singular value below which a calibration direction is noise (Uecker 2014 uses 0.02).
_SINGULAR_THRESHOLD = 0.02
# Over the median noise eigenvalue: clears the upper Marchenko-Pastur edge for these patch counts.
_NOISE_MARGIN = 6.0
_WALSH_WIDTH = 1.5
_BACKGROUND = 0.01
# Outside the object the largest eigenvalue drops: BART crops at 0.8, sigpy at 0.95.
_SUPPORT_EIGENVALUE = 0.9
# Of the calibration image's maximum: what is this bright is signal, whatever its eigenvalue.
_SUPPORT_BRIGHTNESS = 0.1
_SUPPORT_MARGIN = 2
_EDGE_POWER = 4
_MIN_STRENGTH = 0.03
# Squared 7 times, a matrix keeps 0.1 % of an eigenvector whose eigenvalue is 95 % of the largest.
_SQUARINGS = 7
_TINY = 1e-12


def estimate_coil_maps(
    calibration_kspace: NDArray[np.complex64], shape: tuple[int, int]
) -> NDArray[np.complex64]:
    """Estimate sensitivity maps from a fully sampled centred block of k-space.

    The eigen-decomposition of the calibration Gram matrix gives the signal space; its projector,
    a trigonometric polynomial in the image domain, is evaluated on a coarse grid, where the
    dominant eigenvector of each C×C matrix is the map. Weighted by their eigenvalues (small
    outside the object) the vectors are interpolated by a cubic spline and renormalised.

    With ESPIRiT the maps are zero outside the object's support, which is a prior worth 1 to 2 dB:
    signal can only come from where the eigenvalue says that there is some. The support errs on the
    large side: it has what is bright in the calibration image, no holes, and a margin of 2 pixels.

    Parameters
    ----------
    calibration_kspace
        `(C, kx, ky)` complex, k = 0 at index n // 2 of both axes.
    shape
        `(H, W)` of the maps, both at least the block's size.

    Returns
    -------
        `(C, H, W)` complex64; sum over coils of |S|² is 1 within the support and 0 outside. The
        phase is relative to the strongest virtual coil, whose phase is zero. A single coil has
        the map 1, and Walsh's maps have a norm of 1, everywhere.

    Raises
    ------
    ShapeError
        The block is not three-dimensional or is larger than `shape`.

    Source: Uecker et al., MRM 71(3), 2014; Walsh et al., MRM 43(5), 2000.
    """
    if calibration_kspace.ndim != 3 or 0 in calibration_kspace.shape:
        raise ShapeError(
            f"calibration k-space has shape {calibration_kspace.shape}; give (coils, kx, ky)"
        )
    if calibration_kspace.shape[1] > shape[0] or calibration_kspace.shape[2] > shape[1]:
        raise ShapeError(
            f"calibration block {calibration_kspace.shape[1:]} is larger than the maps {shape}"
        )
    n_coils = calibration_kspace.shape[0]
    if n_coils == 1:
        return np.ones((1, *shape), np.complex64)
    block = _centre(calibration_kspace, _MAX_CALIBRATION)
    power = float(np.sqrt(np.mean(np.abs(block) ** 2)))
    if power == 0.0:
        return np.full((n_coils, *shape), 1.0 / np.sqrt(n_coils), np.complex64)
    block = (block / power).astype(np.complex64)
    images = _calibration_images(block, shape)
    if min(block.shape[1:]) < MIN_ESPIRIT_LINES:
        # Walsh's strengths follow the brightness, and would cut away what is faint.
        return _interpolate(*_dominant_eigenvectors(_walsh_matrices(images)), shape)
    values, vectors = _dominant_eigenvectors(_espirit_matrices(block, shape))
    maps = _interpolate(values, vectors, shape)
    maps *= _support(values, images, shape)
    return maps


def _espirit_matrices(
    block: NDArray[np.complex64], shape: tuple[int, int]
) -> NDArray[np.complex64]:
    """Evaluate the image-domain projector of ESPIRiT: `(h, w, C, C)` on the coarse grid."""
    n_coils = block.shape[0]
    windows = sliding_window_view(block, (_KERNEL, _KERNEL), axis=(1, 2))
    patches = windows.transpose(1, 2, 0, 3, 4).reshape(-1, n_coils * _KERNEL**2)
    values, vectors = np.linalg.eigh(patches.conj().T @ patches)
    # The lower half of the spectrum holds noise only: it sets the floor when data are noisy.
    floor = _NOISE_MARGIN * float(np.median(values[: len(values) // 2]))
    threshold = max(_SINGULAR_THRESHOLD**2 * float(values[-1]), floor)
    signal = vectors[:, values > min(threshold, 0.5 * float(values[-1]))]
    axes = (n_coils, _KERNEL, _KERNEL)
    projector = (signal.conj() @ signal.T).reshape(*axes, *axes)
    # A patch reproduces each of its samples from all of them; averaging the k² ways in which a
    # sample is reproduced leaves one convolution kernel for each pair of coils.
    lags = np.zeros((n_coils, n_coils, 2 * _KERNEL - 1, 2 * _KERNEL - 1), np.complex64)
    for row in range(_KERNEL):
        for column in range(_KERNEL):
            rows = slice(_KERNEL - 1 - row, 2 * _KERNEL - 1 - row)
            columns = slice(_KERNEL - 1 - column, 2 * _KERNEL - 1 - column)
            lags[:, :, rows, columns] += projector[:, row, column]
    lags /= _KERNEL**2
    offsets = np.arange(1 - _KERNEL, _KERNEL)
    phase_rows = _phases(shape[0], offsets, -1.0)
    phase_columns = _phases(shape[1], offsets, -1.0)
    local = phase_rows @ (lags @ phase_columns.T)
    return np.asarray(local.transpose(2, 3, 0, 1), np.complex64)


def _calibration_images(
    block: NDArray[np.complex64], shape: tuple[int, int]
) -> NDArray[np.complex64]:
    """Return the coils' low-resolution images, `(C, h, w)` on the coarse grid."""
    windows = [np.hamming(size + 2)[1:-1] for size in block.shape[1:]]
    tapered = (block * np.outer(*windows)).astype(np.complex64)
    rows, columns = (
        _phases(size, np.arange(n) - n // 2, 1.0)
        for size, n in zip(shape, block.shape[1:], strict=True)
    )
    images: NDArray[np.complex64] = rows @ (tapered @ columns.T)
    return images


def _walsh_matrices(images: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Average the coil covariance of low-resolution images `(C, h, w)`: `(h, w, C, C)`."""
    from scipy.ndimage import gaussian_filter  # slow to import, and needed by this fallback only

    covariance = images[:, None] * images[None, :].conj()
    covariance = gaussian_filter(
        covariance.real, (0, 0, _WALSH_WIDTH, _WALSH_WIDTH), mode="nearest"
    ) + 1j * gaussian_filter(covariance.imag, (0, 0, _WALSH_WIDTH, _WALSH_WIDTH), mode="nearest")
    power = np.trace(covariance).real
    # Close to a projector where there is signal, and to zero in the background.
    local = covariance / (power + _BACKGROUND * power.max())
    return np.asarray(local.transpose(2, 3, 0, 1), np.complex64)


def _phases(size: int, frequencies: NDArray[np.intp], sign: float) -> NDArray[np.complex64]:
    """Evaluate exp(sign 2πi k r / size) at the knots r (from the centre): `(knots, k)`."""
    positions = np.linspace(0.0, size - 1.0, min(size, _KNOTS)) - size // 2
    angles = sign * 2.0 * np.pi / size * np.outer(positions, frequencies)
    return np.asarray(np.exp(1j * angles), np.complex64)


def _support(
    values: NDArray[np.float32], images: NDArray[np.complex64], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Say where there can be signal, `(H, W)`, from eigenvalues and images on the coarse grid."""
    low = norm_over_coils(images)
    eigenvalue, brightness = upsample(np.stack([values, low / low.max()]), shape)
    inside = (eigenvalue > _SUPPORT_EIGENVALUE) | (brightness > _SUPPORT_BRIGHTNESS)
    for _ in range(_SUPPORT_MARGIN):
        inside = _grown(inside)
    # What has signal on all four sides is taken as inside: that closes holes and some bays.
    either = np.logical_or.accumulate
    enclosed: NDArray[np.bool_] = np.logical_and.reduce(
        [
            either(inside, axis=0),
            either(inside, axis=1),
            either(inside[::-1], axis=0)[::-1],
            either(inside[:, ::-1], axis=1)[:, ::-1],
        ]
    )
    return enclosed


def _grown(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add the four neighbours of every pixel."""
    grown = inside.copy()
    grown[1:] |= inside[:-1]
    grown[:-1] |= inside[1:]
    grown[:, 1:] |= inside[:, :-1]
    grown[:, :-1] |= inside[:, 1:]
    return grown


def _interpolate(
    values: NDArray[np.float32], maps: NDArray[np.complex64], shape: tuple[int, int]
) -> NDArray[np.complex64]:
    """Align the phase of vectors `(h, w, C)`, interpolate and normalise them: `(C, H, W)`."""
    strength = np.clip(values, _MIN_STRENGTH, 1.0)
    # Eigenvectors have a free phase. It is fixed against the combination of coils that is
    # strongest over the object, since a physical coil can vanish inside it and leave a vortex.
    weighted = maps * strength[..., None]
    mean_projector = np.einsum("hwc,hwd->cd", weighted, weighted.conj())
    reference = np.linalg.eigh(mean_projector)[1][:, -1]
    projection = maps @ reference.conj()
    maps = maps * np.exp(-1j * np.angle(projection))[..., None]
    # Outside the object the eigenvalue drops and the vector is arbitrary: weigh it down, so that
    # the spline does not carry it across the edge.
    knots = (maps * strength[..., None] ** _EDGE_POWER).transpose(2, 0, 1)
    full = np.asarray(upsample(knots, shape), np.complex64)
    norm = np.maximum(norm_over_coils(full), np.float32(_TINY))
    parts = full.view(np.float32).reshape(*full.shape, 2)
    parts *= (1 / norm)[..., None]
    return full


def norm_over_coils(x: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Return the root sum of squares of `(C, H, W)` over the coils, `(H, W)` float32."""
    parts = np.ascontiguousarray(x).view(np.float32)
    energy = np.sum(parts * parts, axis=0).reshape(*x.shape[1:], 2)
    norm: NDArray[np.float32] = np.sqrt(energy[..., 0] + energy[..., 1])
    return norm


def _dominant_eigenvectors(
    local: NDArray[np.complex64],
) -> tuple[NDArray[np.float32], NDArray[np.complex64]]:
    """Find the largest eigenvalue `(h, w)` and its unit vector `(h, w, C)` of each matrix.

    By repeated squaring, at a fifth of the time of a full decomposition. Where two eigenvalues
    are all but equal, as in the background, the vector is a mixture of theirs.
    """
    n_coils = local.shape[-1]
    power = local + np.float32(_TINY) * np.eye(n_coils, dtype=np.float32)
    for _ in range(_SQUARINGS):
        # Each squaring leaves a trace of at least 1 / C: nothing under- or overflows.
        power = power * (1 / np.trace(power, axis1=-2, axis2=-1).real[..., None, None])
        power = power @ power
    # What is left is v vᴴ: any column will do, and the one with most of v is the safest.
    strongest = np.argmax(np.diagonal(power, axis1=-2, axis2=-1).real, axis=-1)
    vectors = np.take_along_axis(power, strongest[..., None, None], axis=-1)
    vectors = vectors / np.linalg.norm(vectors, axis=-2, keepdims=True)
    values = (vectors.conj().swapaxes(-1, -2) @ local @ vectors).real
    return values[..., 0, 0], vectors[..., 0]


def _centre(block: NDArray[np.complex64], largest: int) -> NDArray[np.complex64]:
    """Crop the two trailing axes to at most `largest` samples around k = 0."""
    slices = []
    for size in block.shape[1:]:
        wanted = min(size, largest)
        start = size // 2 - wanted // 2
        slices.append(slice(start, start + wanted))
    return block[:, slices[0], slices[1]]
