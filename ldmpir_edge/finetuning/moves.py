"""Random rotations, reflections, shifts and zooms: the group of equivariant imaging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MAX_ANGLE = 0.3
MAX_SHIFT = 0.05
ZOOM = (0.9, 1.2)


@dataclass(frozen=True)
class Move:
    """An affine motion of a pixel grid, x ↦ `matrix` x + `offset` from new to old indices.

    What moves the image moves the coil maps, too: the patient lies turned in a turned coil, and
    the scanner's encoding stays.
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    shape: tuple[int, int]

    def image(self, x: NDArray[np.generic], fill: float = 0.0) -> NDArray[np.generic]:
        """Move an `(H, W)` image, real or complex, by cubic interpolation; `fill` lies outside."""
        return self._apply(x, 3, fill)

    def maps(self, csm: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """Move `(coils, H, W)` maps: linear, for they are smooth; Σ|S|² stays 1 or 0."""
        moved = np.stack([self._apply(s, 1, 0.0) for s in csm])
        norm = np.sqrt(np.sum(np.abs(moved) ** 2, axis=0))
        # Interpolation blurs the edge of the support: it is put where the norm is half.
        inside = norm > 0.5
        return np.where(inside, moved / np.where(inside, norm, 1), 0).astype(np.complex64)

    def _apply(self, x: NDArray[np.generic], order: int, fill: float) -> NDArray[np.generic]:
        if np.iscomplexobj(x):
            real, imag = (self._apply(part, order, fill) for part in (x.real, x.imag))
            both: NDArray[np.generic] = np.stack([real, imag], axis=-1)
            return np.ascontiguousarray(both).view(x.dtype)[..., 0]
        moved: NDArray[np.generic] = ndimage.affine_transform(
            x, self.matrix, self.offset, self.shape, order=order, cval=fill
        )
        return moved


def random_move(shape: tuple[int, int], rng: np.random.Generator) -> Move:
    """Draw a motion of an `(H, W)` grid: a reflection, a quarter turn or none, and a small rest."""
    angle = rng.uniform(-MAX_ANGLE, MAX_ANGLE)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip = np.diag(rng.choice([-1.0, 1.0], size=2))
    # A quarter turn of a long image would leave its grid.
    swap = np.eye(2)[:, ::-1] if shape[0] == shape[1] and rng.random() < 0.5 else np.eye(2)
    zoom = np.exp(rng.uniform(*np.log(ZOOM)))
    matrix = turn @ flip @ swap / zoom
    centre = (np.array(shape) - 1) / 2
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2) * np.array(shape)
    return Move(matrix, centre - matrix @ (centre + shift), shape)
