"""What a variant may differ from PyTorch in fp32 by: the gate's limits, and what follows of them.

The gate measures how far a variant moves the PSNR against the true image. A golden pair has no
true image: there the difference itself is judged, by what it can move the PSNR at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.bundle.schema import Precision

REFERENCE_QUALITY_DB = 30.0
"""PSNR of a golden slice against its true image: those of pydicom's test images have 16 to 36 dB,
at their small size. A difference counts for more where the reference is better."""
TINY = 1e-10
"""Differences below this are none."""


@dataclass(frozen=True)
class Limits:
    """What a variant may differ from the PyTorch fp32 reference by.

    Parameters
    ----------
    mean_db, worst_db
        |ΔPSNR| over the slices of a task, and of its worst slice.
    max_abs_diff
        In engine units, where the bright end is about 1; None sets no limit.
    """

    mean_db: float
    worst_db: float
    max_abs_diff: float | None

    @property
    def difference_db(self) -> float:
        """Least PSNR of the difference from the reference image, as `psnr_db` gives it.

        A difference that knows nothing of the reference's own error adds to it in power, so it
        moves a PSNR of `REFERENCE_QUALITY_DB` by `worst_db` where it is this far below the image.
        """
        share = 10 ** (self.worst_db / 10) - 1
        return REFERENCE_QUALITY_DB - 10 * float(np.log10(share))

    def to_spare_db(self, psnr: float, max_abs: float) -> dict[str, float]:
        """Return by how many dB an image is nearer to its golden reference than it must be.

        Parameters
        ----------
        psnr, max_abs
            `psnr_db` of the image against the reference, and their largest difference.

        Returns
        -------
            Decibels, by what is wrong where they are negative.
        """
        spare = {f"PSNR below {self.difference_db:.1f} dB": psnr - self.difference_db}
        if self.max_abs_diff is not None:
            more = f"a value differs by more than {self.max_abs_diff:.1e}"
            spare[more] = 20 * float(np.log10(self.max_abs_diff / max(max_abs, TINY)))
        return spare


LIMITS: dict[Precision, Limits] = {
    # One grey level of a 12-bit image is the smallest difference that DICOM can show.
    "fp32": Limits(0.001, 0.01, 1 / 4096),
    "fp16": Limits(0.05, 0.5, None),
    "int8": Limits(0.2, 0.5, None),
}


def psnr_db(image: NDArray[Any], target: NDArray[Any]) -> float:
    """Return the PSNR of `(2, H, W)` planes in dB; the range is the target's largest modulus."""
    squared = float(np.mean(np.sum((image - target).astype(np.float64) ** 2, axis=0)))
    peak = float(np.sqrt(np.max(np.sum(target.astype(np.float64) ** 2, axis=0))))
    return 10 * float(np.log10(peak**2 / max(squared, TINY**2)))
