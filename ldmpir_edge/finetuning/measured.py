"""One measured slice as fine-tuning sees it: what updates may use, and what judges them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.finetuning.moves import Move
from ldmpir_edge.physics.problem import Problem
from ldmpir_edge.training.acquisitions import Example

Planes = NDArray[np.float32]
Reconstruct = Callable[[Problem], Planes]
Parts = NDArray[np.bool_]

N_FOLDS = 8
"""One part in eight is predicted from the others: the problem stays close to that of the scan."""


@dataclass(frozen=True)
class HeldOut:
    """What a measurement that no update sees says of a model's error.

    Parameters
    ----------
    error
        Given what reconstructs a problem to `(2, H, W)` engine planes: the mean squared error of
        its prediction, for each real value that was kept back, in engine units. It holds the
        noise of those values.
    noise
        The share of that error that the noise alone explains.
    """

    error: Callable[[Reconstruct], float] = field(repr=False)
    noise: float


class MeasuredSlice(ABC):
    """A slice with its raw measurement.

    Parameters
    ----------
    problem
        Its reconstruction, from all that was measured.
    """

    problem: Problem

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """(H, W) on which images are moved."""

    @abstractmethod
    def remeasure(self, planes: Planes, move: Move | None, rng: np.random.Generator) -> Example:
        """Move an image of this slice and measure it again, with its own sampling and noise.

        Parameters
        ----------
        planes
            `(2, H, W)` in the units of `problem`.
        move
            Applied to the image first, and to what is fixed to it; None leaves both.
        rng
            Of the new noise.
        """


class DividedSlice(MeasuredSlice):
    """A slice whose measurement has parts: phase-encode lines, samples or views."""

    @property
    @abstractmethod
    def n_parts(self) -> int:
        """How many may be kept back; the autocalibration lines may not."""

    @abstractmethod
    def shown(self, parts: Parts) -> Problem:
        """State the reconstruction from what is never kept back and the marked parts."""

    @abstractmethod
    def only(self, parts: Parts) -> Problem:
        """State the normal equations of the marked parts alone."""

    @abstractmethod
    def prediction(self, parts: Parts, problem: Problem) -> HeldOut:
        """State how well the reconstruction of `problem` predicts the marked parts."""


def folds(n_parts: int, n_folds: int, rng: np.random.Generator) -> list[Parts]:
    """Divide parts at random in `n_folds` disjoint sets, each marked `(n_parts,)`.

    Every part is in exactly one fold.
    """
    label = rng.permutation(np.arange(n_parts) % n_folds)
    return [label == k for k in range(n_folds)]
