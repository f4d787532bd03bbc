"""Parallel-beam and fan-beam Radon transform: Joseph's method and its exact adjoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.physics.geometry import RadonGeometry, pixel_centres
from ldmpir_edge.physics.linear_op import Array, LinearOp

BLOCK_SIZE = 1 << 20
"""Samples worked on at a time: some tens of MB of temporaries in float64."""


class Rays(NamedTuple):
    """How rays are sampled: at i = a + b k for pixel k of the axis they are sampled on.

    Attributes
    ----------
    a, b
        In pixels; i counts columns for rays sampled by row, else rows.
    weight
        Distance between samples along the ray, in mm.
    by_row
        Whether the ray is sampled once in every row, not in every column.
    """

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    weight: NDArray[np.float64]
    by_row: NDArray[np.bool_]


class RadonOp(LinearOp):
    """Line integrals of an image along the rays of a scan.

    Joseph's method: a ray closer to the vertical is sampled once in every image row, any other
    once in every column, with linear interpolation between the two nearest pixels; the image is
    zero outside its grid. The matrix entry of a ray and a pixel is therefore
    `weight · max(0, 1 − |a + b k − i|)`, where k counts pixels along the axis the ray is
    sampled on and i along the other. `adjoint` gathers exactly these entries, so the pair is
    matched to rounding and neither direction needs a scatter.

    numpy arrays and torch tensors, real floating dtypes; torch tensors keep their gradient.

    Parameters
    ----------
    geometry
        The scan.
    image_shape
        `(H, W)`.
    pixel_spacing_mm
        Edge of the square pixels.
    center_mm
        `(x, y)` of the image's centre relative to the rotation centre.

    Raises
    ------
    ScanDataError
        The pixel spacing is not positive, or the source of a fan scan lies inside the circle
        around the image.

    Source: Joseph, IEEE TMI 1(3), 1982.
    """

    def __init__(
        self,
        geometry: RadonGeometry,
        image_shape: tuple[int, int],
        pixel_spacing_mm: float,
        *,
        center_mm: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        if not (np.isfinite(pixel_spacing_mm) and pixel_spacing_mm > 0):
            raise ScanDataError(f"pixel_spacing_mm is {pixel_spacing_mm}; it must be positive")
        self.geometry = geometry
        self.center_mm = center_mm
        self.pixel_spacing_mm = pixel_spacing_mm
        self.domain_shape: tuple[int, int] = image_shape
        self.range_shape = (geometry.n_views, geometry.n_detectors)
        self._x_mm, self._y_mm = pixel_centres(image_shape, pixel_spacing_mm, center_mm)
        self._rays = self._trace()
        self._n_side = self._reach()

    def _trace(self) -> Rays:
        phi, s = self.geometry.lines()
        cos, sin, h = np.cos(phi), np.sin(phi), self.pixel_spacing_mm
        by_row = np.abs(cos) >= np.abs(sin)
        main, cross = np.where(by_row, cos, sin), np.where(by_row, sin, cos)
        # Measured from pixel (0, 0); rows run against y, hence the signs.
        x_0, y_0 = self._x_mm[0, 0], self._y_mm[0, 0]
        start_row = (s - y_0 * sin) / main - x_0
        start_column = y_0 - (s - x_0 * cos) / main
        a = np.where(by_row, start_row, start_column) / h
        return Rays(a, cross / main, h / np.abs(main), by_row)

    def rays(self) -> Rays:
        """Return the description of every ray, flattened in sinogram order, `(R,)` each."""

        def flatten(table: NDArray[Any]) -> NDArray[Any]:
            return np.broadcast_to(table, self.range_shape).reshape(-1)

        rays = self._rays
        return Rays(flatten(rays.a), flatten(rays.b), flatten(rays.weight), flatten(rays.by_row))

    def _reach(self) -> int:
        """Bound how far (in detectors) a ray that touches a pixel is from its centre's ray."""
        geometry, h = self.geometry, self.pixel_spacing_mm
        if not geometry.is_fan:
            return int(np.ceil(h / geometry.spacing))
        radius = float(np.hypot(np.abs(self._x_mm).max(), np.abs(self._y_mm).max())) + h
        nearest = geometry.source_distance_mm - radius
        if nearest <= 0:
            raise ScanDataError(
                f"source_origin_mm is {geometry.source_origin_mm:g}, inside the image's circle of "
                f"{radius:.1f} mm; check the distances, recon_matrix and pixel_spacing_mm"
            )
        # A touching ray passes within one pixel of the centre; seen from `nearest` that is:
        if geometry.kind == "fan-equiangular":
            return int(np.ceil(np.arcsin(min(1.0, h / nearest)) / geometry.spacing))
        widest = float(np.cos(geometry.fan_angles_rad).min())
        return int(np.ceil(h * geometry.source_detector_mm / (nearest * widest) / geometry.spacing))

    def _forward(self, x: Array) -> Array:
        xp = array_namespace(x)
        height, width = self.domain_shape
        images = xp.reshape(x, (-1, height, width))
        by_row = np.broadcast_to(self._rays.by_row, self.range_shape).reshape(-1)
        parts: list[Array] = []
        order: list[NDArray[np.intp]] = []
        for rows in (True, False):
            rays = np.flatnonzero(by_row == rows)
            if rays.size:
                source = images if rows else xp.permute_dims(images, (0, 2, 1))
                parts.extend(self._integrate(source, rays))
                order.append(rays)
        inverse = np.argsort(np.concatenate(order))
        sinogram = xp.concat(parts, axis=-1)
        sinogram = xp.take(sinogram, xp.asarray(inverse, device=device(x)), axis=-1)
        return xp.reshape(sinogram, (*x.shape[:-2], *self.range_shape))

    def _integrate(self, images: Array, rays: NDArray[np.intp]) -> Iterator[Array]:
        """Yield `(batch, block)` integrals of rays that are all sampled once per row."""
        xp = array_namespace(images)
        n_batch, n_rows, n_cols = images.shape
        place: dict[str, Any] = {"dtype": images.dtype, "device": device(images)}
        # One zero before and two behind each row: clipped positions read zeros.
        left = xp.zeros((n_batch, n_rows, 1), **place)
        right = xp.zeros((n_batch, n_rows, 2), **place)
        pitch = n_cols + 3
        flat = xp.reshape(xp.concat([left, images, right], axis=-1), (n_batch, n_rows * pitch))
        slope = flat[:, 1:] - flat[:, :-1]
        k = xp.asarray(np.arange(n_rows)[:, None], **place)
        row_start = xp.asarray(np.arange(n_rows)[:, None] * pitch, device=device(images))
        block = max(1, BLOCK_SIZE // n_rows)
        shape = self.range_shape
        for start in range(0, rays.size, block):
            chosen = np.unravel_index(rays[start : start + block], shape)
            a, b, weight = (
                xp.asarray(np.broadcast_to(table, shape)[chosen], **place)
                for table in (self._rays.a, self._rays.b, self._rays.weight)
            )
            position = xp.clip((a + 1.0)[None, :] + b[None, :] * k, 0.0, n_cols + 1.0)
            # Positions are not negative, so the cast rounds down.
            index = xp.astype(position, xp.int64)
            fraction = position - xp.astype(index, images.dtype)
            index = xp.reshape(index + row_start, (-1,))
            sums = [
                xp.sum(
                    xp.reshape(xp.take(flat[n], index, axis=0), fraction.shape)
                    + fraction * xp.reshape(xp.take(slope[n], index, axis=0), fraction.shape),
                    axis=0,
                )
                for n in range(n_batch)
            ]
            yield xp.stack(sums) * weight

    def _adjoint(self, y: Array) -> Array:
        xp = array_namespace(y)
        n_views, n_detectors = self.range_shape
        place: dict[str, Any] = {"dtype": y.dtype, "device": device(y)}
        weighted = xp.reshape(y, (-1, n_views, n_detectors)) * xp.asarray(
            self._rays.weight, **place
        )
        n_batch = weighted.shape[0]
        pad = xp.zeros((n_batch, n_views, 2 * self._n_side), **place)
        flat = xp.concat([pad, weighted, pad], axis=-1)
        images = [xp.zeros(self.domain_shape, **place) for _ in range(n_batch)]
        for view in range(n_views):
            for index, overlap in self._candidates(view, y):
                index = xp.reshape(index, (-1,))
                for n in range(n_batch):
                    values = xp.take(flat[n, view, :], index, axis=0)
                    images[n] = images[n] + overlap * xp.reshape(values, self.domain_shape)
        return xp.reshape(xp.stack(images), (*y.shape[:-2], *self.domain_shape))

    def _candidates(self, view: int, like: Array) -> Iterator[tuple[Array, Array]]:
        """Yield, for every pixel, the detectors of a view whose rays can touch it.

        The index counts from 2 · n_side detectors before the first, so that it is never
        negative; overlaps with detectors that do not exist have no meaning.
        """
        xp = array_namespace(like)
        place: dict[str, Any] = {"dtype": like.dtype, "device": device(like)}
        x = xp.asarray(self._x_mm, **place)
        y = xp.asarray(self._y_mm, **place)
        central, _ = self.geometry.detector_index(view, x, y)
        pad = 2 * self._n_side
        first = xp.clip(central + (1.0 + self._n_side), 1.0, 1.0 * (self.range_shape[1] + pad))
        first = xp.astype(first, xp.int64)
        zero = xp.zeros((), **place)
        if not self.geometry.is_fan:
            # Rays of a view are parallel: the distance grows by the same step from ray to ray.
            step = (
                self.geometry.spacing * float(self._rays.weight[view, 0]) / self.pixel_spacing_mm**2
            )
            distance = (xp.astype(first, like.dtype) - pad - central) * step
            for n in range(pad):
                yield first + n, xp.maximum(1.0 - xp.abs(distance + n * step), zero)
            return
        phi, s = self.geometry.lines()
        per_pixel = self._rays.weight[view] / self.pixel_spacing_mm**2
        c_x, c_y, c_s = (
            xp.asarray(np.pad(table * per_pixel, pad), **place)
            for table in (np.cos(phi[view]), np.sin(phi[view]), s[0])
        )
        shape = self.domain_shape
        for n in range(pad):
            flat = xp.reshape(first + n, (-1,))
            along_x = xp.reshape(xp.take(c_x, flat, axis=0), shape) * x
            along_y = xp.reshape(xp.take(c_y, flat, axis=0), shape) * y
            distance = xp.reshape(xp.take(c_s, flat, axis=0), shape) - along_x - along_y
            yield first + n, xp.maximum(1.0 - xp.abs(distance), zero)
