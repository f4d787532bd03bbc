"""Fine-tuning's view of one slice of Cartesian k-space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.finetuning.measured import DividedSlice, HeldOut, Parts, Planes, Reconstruct
from ldmpir_edge.finetuning.moves import Move
from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.physics.fourier import centred_fft
from ldmpir_edge.physics.mri_problem import build_mri_problem
from ldmpir_edge.physics.noise import add_gaussian
from ldmpir_edge.physics.padding import from_planes, pad_image, to_planes
from ldmpir_edge.physics.problem import Problem
from ldmpir_edge.scans.calibration import central_block
from ldmpir_edge.scans.coil_maps import estimate_coil_maps
from ldmpir_edge.scans.prepare_mri import MriMeasurement
from ldmpir_edge.training.acquisitions import Example

CALIBRATION_READOUT = 32
"""Readout samples that maps are estimated from where the mask is the same along readout."""


class MeasuredKspace(DividedSlice):
    """Phase-encode lines (or samples, for a 2-D mask) outside the centre are its parts."""

    def __init__(self, measurement: MriMeasurement) -> None:
        self.measurement = measurement
        self.problem = self._problem(measurement.data, measurement.csm, measurement.mask)
        sampled = measurement.mask != 0
        self._rows, self._columns = central_block(np.broadcast_to(sampled, self.grid))
        centre = np.zeros_like(sampled)
        centre[(self._columns,) if sampled.ndim == 1 else (self._rows, self._columns)] = True
        self._parts = np.nonzero(sampled & ~centre)

    @property
    def n_acs(self) -> int:
        """Side of the fully sampled centre, in samples or lines."""
        lines = int(self._columns.stop - self._columns.start)
        return (
            lines
            if self.measurement.is_hybrid
            else min(lines, int(self._rows.stop - self._rows.start))
        )

    @property
    def sampled_share(self) -> float:
        """Part of k-space that was measured."""
        return float(np.mean(self.measurement.mask != 0))

    @property
    def grid(self) -> tuple[int, int]:
        """The (H, W) of the maps."""
        height, width = self.measurement.csm.shape[1:]
        return height, width

    @property
    def n_parts(self) -> int:
        """Lines or samples outside the centre."""
        return len(self._parts[0])

    def shown(self, parts: Parts) -> Problem:
        """State the reconstruction from the centre and the marked lines."""
        m = self.measurement
        mask = m.mask - self._mask(~parts)
        return self._problem(m.data * mask, m.csm, mask)

    def only(self, parts: Parts) -> Problem:
        """State the normal equations of the marked lines alone."""
        m, mask = self.measurement, self._mask(parts)
        return self._problem(m.data * mask, m.csm, mask)

    def prediction(self, parts: Parts, problem: Problem) -> HeldOut:
        """State how well the reconstruction of `problem` predicts the marked lines."""
        m, mask, unit = self.measurement, self._mask(parts), problem.scale
        op = CartesianOp(m.csm, mask, hybrid=m.is_hybrid)
        size = 2 * int(np.broadcast_to(mask, m.data.shape).sum())
        height, width = self.grid

        def error(reconstruct: Reconstruct) -> float:
            image = from_planes(reconstruct(problem))[:height, :width]
            left = op.forward(image) - mask * m.data / np.float32(unit)
            return float(np.sum(np.abs(left.astype(np.complex128)) ** 2)) / size

        return HeldOut(error, (m.noise_level / unit) ** 2)

    def remeasure(self, planes: Planes, move: Move | None, rng: np.random.Generator) -> Example:
        """Move image and coil maps, and sample the new coil images as the scan's were."""
        m = self.measurement
        height, width = self.grid
        image, true_maps = from_planes(planes)[:height, :width], m.csm
        if move is not None:
            image, true_maps = np.asarray(move.image(image), np.complex64), move.maps(true_maps)
        coil_images = (true_maps * image).astype(np.complex64)
        level = m.noise_level / self.problem.scale
        op = CartesianOp(np.ones_like(true_maps), m.mask, hybrid=m.is_hybrid)
        noisy = add_gaussian(centred_fft(coil_images, op.axes), level, rng)
        data = np.asarray(op.mask * noisy, np.complex64)
        # The maps are estimated anew: a model that is shown perfect ones trusts the data too much.
        csm = self._maps(data) if len(true_maps) > 1 else true_maps
        problem = build_mri_problem(data, csm, m.mask, level, hybrid=m.is_hybrid)
        combined = np.sum(np.conj(csm) * coil_images, axis=0) / np.float32(problem.scale)
        return Example(problem, to_planes(pad_image(combined)))

    def _maps(self, data: NDArray[np.complex64]) -> NDArray[np.complex64]:
        rows = self._rows
        if self.measurement.is_hybrid:
            data, height = centred_fft(data, (-2,)).astype(np.complex64), self.grid[0]
            half = min(CALIBRATION_READOUT, height) // 2
            rows = slice(height // 2 - half, height // 2 + half)
        return estimate_coil_maps(data[:, rows, self._columns], self.grid)

    def _problem(
        self, data: NDArray[np.complex64], csm: NDArray[np.complex64], mask: NDArray[np.float32]
    ) -> Problem:
        m = self.measurement
        return build_mri_problem(data, csm, mask, m.noise_level, hybrid=m.is_hybrid)

    def _mask(self, parts: Parts) -> NDArray[np.float32]:
        mask = np.zeros_like(self.measurement.mask)
        mask[tuple(axis[parts] for axis in self._parts)] = 1
        return mask
