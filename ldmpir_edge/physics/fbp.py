"""Filtered back-projection for parallel and fan beams, and the ramp filter that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.geometry import RadonGeometry, pixel_centres

Floats = NDArray[np.floating]

GAP_FACTOR = 4.0
"""A gap between views this many times the median is a missing wedge, not a wide step."""
REPEATED = 1e-2
"""Views nearer than this share of an even step are the same view again."""
BAND_LIMITED = 8
"""Samples a detector of band-limited interpolation; linear interpolation between them errs by 1 %
of what lies at the detectors' highest frequency."""
TABULATED = 256
"""Entries a detector of the tables of which a pixel takes the nearest, which is quicker than
interpolating for each of many pixels; 64 cost 0.06 dB of an image of little noise."""


def ramp_kernel(n_taps: int, spacing: float) -> NDArray[np.float64]:
    """Return the band-limited ramp filter's taps 0 … n_taps − 1 (the kernel is even).

    Sampled at `spacing` and multiplied by it, so that a plain discrete convolution filters.

    Source: Kak & Slaney, Principles of Computerized Tomographic Imaging, eq. 3.61.
    """
    n = np.arange(n_taps)
    odd = n % 2 == 1
    kernel = np.zeros(n_taps)
    kernel[0] = 0.25 / spacing
    kernel[odd] = -1.0 / (np.pi**2 * n[odd] ** 2 * spacing)
    return kernel


def hann_ramp_kernel(n_taps: int, spacing: float) -> NDArray[np.float64]:
    """Return the taps of the ramp filter under a Hann window, for data consistency.

    Near the detector's Nyquist frequency a measurement is aliasing and noise: there every
    discrete projector differs from the object's line integrals (Joseph's by a third and more
    above 0.3 cycles a pixel). The window takes that band's weight away; cos(2πfΔ) in frequency
    is a shift by one detector, so windowing is the mean with the two neighbours.
    """
    taps = ramp_kernel(n_taps + 1, spacing)
    before = np.concatenate([taps[1:2], taps[:-1]])[:n_taps]
    windowed: NDArray[np.float64] = 0.5 * taps[:n_taps] + 0.25 * (before + taps[1:])
    return windowed


def convolve_detectors(sinogram: Floats, taps: NDArray[np.float64]) -> Floats:
    """Convolve each view of `(..., detectors)` with the even kernel of one-sided `taps`.

    Linear, zero outside the detector; `taps` has one value for each detector. The dtype stays.
    """
    n_detectors = sinogram.shape[-1]
    kernel = np.concatenate([taps, np.zeros(1), taps[:0:-1]])
    # 2 n_detectors samples hold the linear convolution without wrap-around.
    response = np.fft.rfft(kernel).real
    spectrum = np.fft.rfft(sinogram, 2 * n_detectors, axis=-1) * response
    filtered = np.fft.irfft(spectrum, 2 * n_detectors, axis=-1)[..., :n_detectors]
    return filtered.astype(sinogram.dtype, copy=False)


def finer(samples: Floats, factor: int, band: float = 1.0) -> Floats:
    """Interpolate one period of an even number of real samples to `factor` times as many.

    Between them lies what holds no frequency above theirs, or above the share `band` of their
    highest. The dtype stays.
    """
    spectrum = np.fft.rfft(samples)
    # The highest frequency is one of two in a longer transform.
    spectrum[-1] /= 2
    spectrum[int(band * (spectrum.size - 1)) + 1 :] = 0
    n = samples.size * factor
    return (np.fft.irfft(spectrum, n) * factor).astype(samples.dtype, copy=False)


def pixel_band(geometry: RadonGeometry, theta: float, pixel_spacing_mm: float) -> float:
    """Return up to which share of a view's highest frequency the pixels hold any; at most 1.

    Parallel beams at angle `theta`; the pixels are samples of an image without frequencies above
    half their rate along either axis.
    """
    axis = pixel_spacing_mm * max(abs(np.cos(theta)), abs(np.sin(theta)))
    return float(min(1.0, geometry.spacing / axis))


def view_weights(angles_rad: NDArray[np.float64], period: float) -> NDArray[np.float64]:
    """Return each view's share of the angle that the scan covers, in radians.

    Half the gap to the neighbour on either side, modulo `period` (π for parallel rays, 2π for
    fans). A gap of more than `GAP_FACTOR` times the median is a missing wedge: the views at its
    edges keep a median step there, so a limited-angle scan is not stretched over the wedge.
    """
    order = np.argsort(np.mod(angles_rad, period), kind="stable")
    gaps, step = _gaps(angles_rad, period)
    gaps = np.where(gaps > GAP_FACTOR * step, step, gaps)
    weights = np.empty(angles_rad.size)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights


def view_range(angles_rad: NDArray[np.float64], period: float) -> tuple[float, float, bool]:
    """Return where a scan starts, the angle from its first to its last view, and if it closes.

    A scan closes when no gap between its views is a missing wedge.
    """
    gaps, step = _gaps(angles_rad, period)
    last = int(np.argmax(gaps))
    start = float(np.sort(np.mod(angles_rad, period))[(last + 1) % angles_rad.size])
    return start, period - float(gaps[last]), bool(gaps[last] <= GAP_FACTOR * step)


def _gaps(angles_rad: NDArray[np.float64], period: float) -> tuple[NDArray[np.float64], float]:
    """Return the gap behind each view, in ascending order modulo `period`, and the median gap."""
    angles = np.sort(np.mod(angles_rad, period))
    gaps = np.diff(angles, append=angles[0] + period)
    # Repeated angles (a second turn) leave gaps of the size of rounding, or of an encoder's error.
    return gaps, float(np.median(gaps[gaps > REPEATED * period / angles.size]))


def median_step(angles_rad: NDArray[np.float64], period: float) -> float:
    """Return the median angle between neighbouring views, modulo `period`, repeats left out."""
    return _gaps(angles_rad, period)[1]


def redundancy_weights(geometry: RadonGeometry) -> NDArray[np.float64]:
    """Return `(views, detectors)` weights of a fan scan; a ray and its opposite sum to 1.

    One half everywhere for a full turn; for a short scan Parker's smooth weights, with the
    overscan beyond π taken as the fan's opening (Wesarg et al., Z. Med. Phys. 12, 2002).

    Source: Parker, Med. Phys. 9(2), 1982.
    """
    n_views, n_detectors = geometry.n_views, geometry.n_detectors
    start, covered, closed = view_range(geometry.angles_rad, 2 * np.pi)
    if closed:
        return np.full((n_views, n_detectors), 0.5)
    beta = np.mod(geometry.angles_rad - start, 2 * np.pi)[:, None]
    gamma = geometry.fan_angles_rad[None, :]
    half_overscan = (covered - np.pi) / 2
    rising, falling = half_overscan + gamma, half_overscan - gamma
    ahead = (beta < 2 * rising) & (rising > 0)
    behind = (covered - beta < 2 * falling) & (falling > 0)
    weights = np.ones((n_views, n_detectors))
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.sin(np.pi / 4 * beta / rising) ** 2
        down = np.sin(np.pi / 4 * (covered - beta) / falling) ** 2
    weights[ahead] = up[ahead]
    weights[behind] = down[behind]
    return weights


@dataclass(frozen=True)
class ViewFilter:
    """What back-projection does to the views first.

    Attributes
    ----------
    kernel
        The filter's taps by number and detector spacing.
    band_limited
        For parallel beams: whether the filtered views hold nothing between the detectors that is
        above the detectors' band or the pixels', in place of linear interpolation. That dims and
        folds their high frequencies, and the pixels fold them, too.
    """

    kernel: Callable[[int, float], NDArray[np.float64]]
    band_limited: bool


RAMP = ViewFilter(ramp_kernel, band_limited=False)
CONSISTENT = ViewFilter(hann_ramp_kernel, band_limited=True)
"""Of the data consistency of parallel beams."""


def fbp(
    sinogram: Floats,
    geometry: RadonGeometry,
    image_shape: tuple[int, int],
    pixel_spacing_mm: float,
    *,
    center_mm: tuple[float, float] = (0.0, 0.0),
) -> Floats:
    """Reconstruct one slice by filtered back-projection.

    Parameters
    ----------
    sinogram
        `(views, detectors)`, line integrals (no unit).
    geometry
        The scan.
    image_shape
        `(H, W)`.
    pixel_spacing_mm
        Edge of the square pixels.
    center_mm
        `(x, y)` of the image's centre relative to the rotation centre.

    Returns
    -------
        `(H, W)` in 1/mm, in the sinogram's dtype.

    Raises
    ------
    ShapeError
        The sinogram does not have the geometry's views and detectors.
    ScanDataError
        The source of a fan lies inside the image's circle.

    Source: Kak & Slaney, Principles of Computerized Tomographic Imaging, chapter 3.
    """
    return back_projections(
        sinogram, geometry, image_shape, pixel_spacing_mm, (RAMP,), center_mm=center_mm
    )[0]


def back_projections(
    sinogram: Floats,
    geometry: RadonGeometry,
    image_shape: tuple[int, int],
    pixel_spacing_mm: float,
    filters: Sequence[ViewFilter],
    *,
    center_mm: tuple[float, float] = (0.0, 0.0),
) -> list[Floats]:
    """Back-project the views behind each of the filters: see `fbp`, which takes the ramp alone.

    Where the pixels lie on the detector is worked out once for all. Raises what `fbp` does.
    """
    expected = (geometry.n_views, geometry.n_detectors)
    if sinogram.shape != expected:
        raise ShapeError(f"sinogram has shape {sinogram.shape}; the geometry says {expected}")
    stacks = [_filter_views(sinogram, geometry, view_filter.kernel) for view_filter in filters]
    centres = pixel_centres(image_shape, pixel_spacing_mm, center_mm)
    x, y = (axis.astype(sinogram.dtype) for axis in centres)
    if geometry.is_fan and np.hypot(abs(x).max(), abs(y).max()) >= geometry.source_distance_mm:
        raise ScanDataError(
            f"source_origin_mm is {geometry.source_origin_mm:g}, inside the image's circle; check "
            "the distances, the matrix and the pixel spacing, all in mm"
        )
    images = [np.zeros(image_shape, sinogram.dtype) for _ in filters]
    for view, theta in enumerate(geometry.angles_rad):
        index, magnification = geometry.detector_index(view, x, y)
        # The tables start one detector before the first; half an entry more rounds to the nearest.
        place = (index * TABULATED + (TABULATED + 0.5)).astype(np.intp)
        for image, filtered, view_filter in zip(images, stacks, filters, strict=True):
            samples, factor = filtered[view], 1
            if view_filter.band_limited and not geometry.is_fan:
                factor = BAND_LIMITED
                band = pixel_band(geometry, float(theta), pixel_spacing_mm)
                period = np.pad(samples, (0, samples.size))
                samples = finer(period, factor, band)[: samples.size * factor]
            values = _table(samples, factor).take(place, mode="clip")
            image += values if magnification is None else values * magnification**2
    return images


def _table(samples: Floats, factor: int) -> Floats:
    """Interpolate a view linearly, from a detector before the first to one behind the last.

    `samples` are `factor` for each detector; the table has `TABULATED`. Beyond them all is zero.
    """
    n = TABULATED // factor
    padded = np.pad(samples, 1)
    share = (np.arange(n) / n).astype(samples.dtype)
    between = padded[:-1, None] + np.diff(padded)[:, None] * share
    # Finer samples begin nearer to the first detector.
    return np.pad(between.reshape(-1), (TABULATED - n, 1))


def _filter_views(
    sinogram: Floats,
    geometry: RadonGeometry,
    kernel: Callable[[int, float], NDArray[np.float64]],
) -> Floats:
    """Weight and filter the views, quadrature over the angles included."""
    taps = kernel(geometry.n_detectors, geometry.iso_spacing_mm)
    if not geometry.is_fan:
        weights = view_weights(geometry.angles_rad, np.pi)[:, None]
        return convolve_detectors(sinogram * weights.astype(sinogram.dtype), taps)
    gamma = geometry.fan_angles_rad
    weights = view_weights(geometry.angles_rad, 2 * np.pi)[:, None] * redundancy_weights(geometry)
    weights = weights * np.cos(gamma)
    if geometry.kind == "fan-equiangular":
        angle = np.arange(1, geometry.n_detectors) * geometry.spacing
        taps[1:] *= (angle / np.sin(angle)) ** 2
    return convolve_detectors(sinogram * weights.astype(sinogram.dtype), taps)
