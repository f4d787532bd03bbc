"""The prepared inverse problem: what an engine needs to know about one slice, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Family = Literal["cartesian1d", "separable", "pointwise", "toeplitz", "rays"]
Task = Literal["mri", "ct", "denoise", "inpaint", "super-resolve"]
Modality = Literal["mr", "ct"]

FAMILIES: tuple[Family, ...] = ("cartesian1d", "separable", "pointwise", "toeplitz", "rays")
TASKS: tuple[Task, ...] = ("mri", "ct", "denoise", "inpaint", "super-resolve")
MODALITIES: tuple[Modality, ...] = ("mr", "ct")
SIZE_MULTIPLE = 16

HU_SCALE, HU_OFFSET = 2000.0, -1000.0
"""CT: an engine value v stands for 2000 v − 1000 HU, so v = µ / (2 µ_water); 0 is air."""
BRIGHT_PERCENTILE = 99.5
"""Of an MR image's magnitude: what the scaling contract brings to 1."""


@dataclass(frozen=True)
class Problem:
    """One slice in the engine's terms: the normal equations and a starting image.

    Parameters
    ----------
    family
        Which form of the normal operator `tables` describes.
    task, modality
        Condition the network.
    b
        `(2, H, W)` float32, Aᴴy as real and imaginary planes, divided by `scale`.
    x1
        `(2, H, W)` float32, the classical estimate in the same units.
    noise_level
        Standard deviation of the measurement noise per real component, divided by `scale`.
    tables
        Inputs of the normal operator by name, without the batch axis; see docs/design.md.
    scale, offset
        An engine value v stands for `v * scale + offset` in the scan's unit.
    crop
        `(top, left, height, width)` of the wanted image inside the padded grid.
    measurement_energy
        ‖y‖² in the same units; with `b` it gives the data-consistency residual of any image
        without y itself.
    n_measurements
        Number of real values in y.
    unreconstructed
        `(2, H, W)` float32, what x1 was made from: a filtered back-projection, an interpolated
        image, the image that is to be denoised. None where that is b.
    """

    family: Family
    task: Task
    modality: Modality
    b: NDArray[np.float32]
    x1: NDArray[np.float32]
    noise_level: float
    tables: dict[str, NDArray[np.generic]] = field(repr=False)
    scale: float = 1.0
    offset: float = 0.0
    crop: tuple[int, int, int, int] | None = None
    measurement_energy: float | None = None
    n_measurements: int = 0
    unreconstructed: NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def condition(self) -> NDArray[np.float32]:
        """The condition vector of its task and modality, `(7,)` float32."""
        return condition_vector(self.task, self.modality)


def condition_vector(task: Task, modality: Modality) -> NDArray[np.float32]:
    """Return the `(7,)` float32 condition vector: one-hot task, then one-hot modality."""
    vector = np.zeros(len(TASKS) + len(MODALITIES), np.float32)
    vector[TASKS.index(task)] = 1.0
    vector[len(TASKS) + MODALITIES.index(modality)] = 1.0
    return vector


def mr_scaling(image: NDArray[np.inexact]) -> float:
    """Return the scale of an MR image `(H, W)`, real or complex, by the scaling contract.

    One with signal in fewer than 0.5 % of its pixels is scaled by the brightest of them, and one of
    zeros not at all: the end slices of a volume may hold next to nothing.
    """
    size = np.abs(image)
    return float(np.percentile(size, BRIGHT_PERCENTILE) or size.max() or 1.0)
