"""Fine-tuning's view of one slice of CT projections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.finetuning.measured import DividedSlice, HeldOut, Parts, Planes, Reconstruct
from ldmpir_edge.finetuning.moves import Move
from ldmpir_edge.physics.ct_problem import build_ct_problem, grid_center_mm
from ldmpir_edge.physics.fbp import convolve_detectors, hann_ramp_kernel
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.noise import (
    add_poisson_gaussian,
    estimate_photons,
    line_integral_variance,
)
from ldmpir_edge.physics.problem import Problem
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.scans.model import SinogramScan
from ldmpir_edge.training.acquisitions import Example


class MeasuredSinogram(DividedSlice):
    """Its parts are views; geometries are shared by the slices of a scan, and so are tables."""

    def __init__(self, sinogram: NDArray[np.float32], scan: SinogramScan) -> None:
        self.sinogram, self.scan, self.geometry = sinogram, scan, scan.geometry
        self.photons = estimate_photons(sinogram) if scan.photons is None else scan.photons
        self.problem = self._problem(sinogram, self.geometry)
        self._unit = 2 * scan.mu_water_per_mm
        """An engine value is attenuation in units of twice that of water."""

    @property
    def grid(self) -> tuple[int, int]:
        """The padded (H, W)."""
        height, width = self.problem.x1.shape[-2:]
        return height, width

    @property
    def n_parts(self) -> int:
        """Views."""
        return self.geometry.n_views

    def shown(self, parts: Parts) -> Problem:
        """State the reconstruction from the marked views."""
        return self._problem(self.sinogram[parts], self._views(parts))

    def only(self, parts: Parts) -> Problem:
        """State the normal equations of the marked views."""
        return self._problem(self.sinogram[parts], self._views(parts), refine=False)

    def prediction(self, parts: Parts, problem: Problem) -> HeldOut:
        """State how well the reconstruction of `problem` predicts the marked views."""
        geometry, rest = self._views(parts), self.sinogram[parts]
        op = self._op(geometry)
        # In the filtered norm, in which an error of a view is one of the image.
        taps = hann_ramp_kernel(geometry.n_detectors, geometry.iso_spacing_mm)

        def error(reconstruct: Reconstruct) -> float:
            image = reconstruct(problem)[0].astype(np.float64)
            left = np.asarray(op.forward(image) - rest / self._unit, np.float64)
            return float(np.vdot(left, convolve_detectors(left, taps))) / left.size

        variance = float(line_integral_variance(rest, self.photons).mean())
        return HeldOut(error, float(taps[0]) * variance / self._unit**2)

    def remeasure(self, planes: Planes, move: Move | None, rng: np.random.Generator) -> Example:
        """Move the image, and project it with the noise of as many photons."""
        real = np.maximum(planes[0], 0)
        if move is not None:
            real = np.maximum(move.image(real), 0).astype(np.float32)
        ideal = self._op(self.geometry).forward(real * np.float32(self._unit))
        noisy = add_poisson_gaussian(ideal, self.photons, 0.0, rng).astype(np.float32)
        target = np.stack([real, np.zeros_like(real)])
        return Example(self._problem(noisy, self.geometry), target)

    def _problem(
        self, sinogram: NDArray[np.float32], geometry: RadonGeometry, *, refine: bool = True
    ) -> Problem:
        return build_ct_problem(
            sinogram,
            geometry,
            self.scan.recon_matrix,
            self.scan.pixel_spacing_mm,
            mu_water_per_mm=self.scan.mu_water_per_mm,
            photons=self.photons,
            refine=refine,
        )

    def _op(self, geometry: RadonGeometry) -> RadonOp:
        spacing_mm = self.scan.pixel_spacing_mm
        crop = self.problem.crop or (0, 0, *self.grid)
        center_mm = grid_center_mm(crop, self.grid, spacing_mm)
        return RadonOp(geometry, self.grid, spacing_mm, center_mm=center_mm)

    def _views(self, parts: Parts) -> RadonGeometry:
        return replace(self.geometry, angles_rad=self.geometry.angles_rad[parts])
