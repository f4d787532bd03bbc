"""Slices with simulated acquisitions: what the gate, the calibration and the golden pairs use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.masks import column_mask
from ldmpir_edge.physics.problem import FAMILIES, Family, Modality, Problem
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import ImageScan
from ldmpir_edge.training.acquisitions import (
    CT_FINER,
    SIMULATORS,
    Example,
    Simulator,
    acquire_coarse,
    acquire_ct,
    acquire_mri,
)
from ldmpir_edge.training.augment import above_air, random_view
from ldmpir_edge.training.images import ImageStack, load_folder

SLICES_PER_CASE = 2
NOISE_LEVEL = 0.005
"""Of the Cartesian acquisitions, where the bright end of the image is 1."""


@dataclass(frozen=True)
class GateSlice:
    """A problem, the `(2, H, W)` float32 image in engine units that solves it, and its case."""

    case: str
    problem: Problem
    target: NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A kind of acquisition: its name, how it is simulated, and from an image how much finer.

    A modality of None draws MR and CT in turns.
    """

    name: str
    modality: Modality | None
    acquire: Simulator
    finer: int = 1


@dataclass(frozen=True)
class GateImages:
    """Images of the gate, and where they come from in words."""

    stacks: tuple[ImageStack, ...]
    source: str


def _columns(n_coils: int, acceleration: float, unit: float = 1.0) -> Simulator:
    """Multi-coil MRI with equispaced phase encodes, of a scan whose values are `unit` as large."""

    def acquire(
        image: NDArray[np.float32], modality: Modality, rng: np.random.Generator
    ) -> Example:
        width = image.shape[1]
        n_acs = max(8, round(0.08 * width))
        mask = column_mask(width, acceleration, n_acs, "equispaced", rng)
        return acquire_mri(image * np.float32(unit), mask, n_coils, n_acs, NOISE_LEVEL * unit, rng)

    return acquire


def _parallel(n_views: int, photons: float) -> Simulator:
    """Parallel-beam CT of a 400 mm field of view over half a turn."""

    def acquire(
        image: NDArray[np.float32], modality: Modality, rng: np.random.Generator
    ) -> Example:
        size = image.shape[0] // CT_FINER
        spacing_mm = 400 / size
        geometry = RadonGeometry(
            kind="parallel",
            angles_rad=np.arange(n_views) * np.pi / n_views,
            n_detectors=int(np.ceil(1.42 * size)),
            detector_spacing_mm=spacing_mm,
        )
        return acquire_ct(image, geometry, spacing_mm, photons, rng)

    return acquire


def _coarse(factor: int) -> Simulator:
    """Images of every `factor`-th row and column."""

    def acquire(
        image: NDArray[np.float32], modality: Modality, rng: np.random.Generator
    ) -> Example:
        return acquire_coarse(image, modality, factor, rng)

    return acquire


CASES: dict[Family, tuple[Case, ...]] = {
    "cartesian1d": (
        Case("mri-r4", "mr", _columns(8, 4)),
        Case("mri-r8", "mr", _columns(8, 8)),
        Case("mri-single-coil-r4", "mr", _columns(1, 4)),
        # Raw data has no unit: a receiver's gain must not show.
        Case("mri-r4-1e-6", "mr", _columns(8, 4, 1e-6)),
        Case("mri-r4-1e6", "mr", _columns(8, 4, 1e6)),
    ),
    "separable": (
        Case("mri-2d", "mr", SIMULATORS["mri-2d"]),
        Case("super-resolve-x2", None, _coarse(2)),
        Case("super-resolve-x4", None, _coarse(4)),
    ),
    "pointwise": (
        Case("denoise", None, SIMULATORS["denoise"]),
        Case("inpaint", None, SIMULATORS["inpaint"]),
    ),
    "toeplitz": (
        Case("ct-60-views", "ct", _parallel(60, 1e6), CT_FINER),
        Case("ct-low-dose", "ct", _parallel(240, 1e4), CT_FINER),
    ),
    "rays": (Case("ct-fan", "ct", SIMULATORS["ct-fan"], CT_FINER),),
}
"""Acquisitions that each family of graphs is judged on."""


def load_gate_images(folders: Sequence[Path]) -> GateImages:
    """Load held-out images: those below `folders`, or without any the two in pydicom.

    pydicom's package carries one real MR and one real CT slice as test files; they are small,
    but no reader of this model has trained on them.

    Raises
    ------
    ScanDataError
        The folders do not hold both MR and CT images.
    """
    if folders:
        stacks = tuple(load_folder(*folders))
        source = ", ".join(sorted(stack.name for stack in stacks))
    else:
        from pydicom.data import get_testdata_file

        names = ("MR_small.dcm", "CT_small.dcm")
        paths = [Path(str(get_testdata_file(name, download=False))) for name in names]
        stacks = tuple(_read_image(path) for path in paths)
        source = "pydicom test files MR_small and CT_small"
    present = {stack.modality for stack in stacks}
    if present != {"mr", "ct"}:
        raise ScanDataError(
            f"the gate needs MR and CT images and found {', '.join(sorted(present))}; "
            "name folders of both with --gate-images or --calibration-images"
        )
    return GateImages(stacks, source)


def _read_image(path: Path) -> ImageStack:
    with open_scan(path) as scan:
        if not isinstance(scan, ImageScan):
            raise ScanDataError(f"{path} holds raw data; the gate needs images")
        return ImageStack(path.stem, scan.info.modality, scan.image(0)[None])


def make_cases(images: GateImages, size: int, seed: int = 2026) -> dict[Family, list[GateSlice]]:
    """Simulate the acquisitions of every family on `(size, size)` views, from fixed seeds."""
    return {
        family: [
            _simulate(images, family, number, k, size, seed)
            for number in range(len(CASES.get(family, ())))
            for k in range(SLICES_PER_CASE)
        ]
        for family in FAMILIES
    }


def timing_slice(images: GateImages, size: int) -> GateSlice:
    """Simulate the acquisition that speed is judged by: multi-coil MRI at R = 4."""
    return _simulate(images, "cartesian1d", 0, 0, size, seed=2026)


def _simulate(
    images: GateImages, family: Family, number: int, k: int, size: int, seed: int
) -> GateSlice:
    case = CASES[family][number]
    rng = np.random.default_rng([seed, FAMILIES.index(family), number, k])
    alternating: Modality = "mr" if k % 2 == 0 else "ct"
    modality = case.modality or alternating
    image = _draw(images.stacks, modality, size * case.finer, rng)
    example = case.acquire(image, modality, rng)
    return GateSlice(case.name, example.problem, example.target)


def _draw(
    stacks: Sequence[ImageStack], modality: Modality, size: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    fitting = [stack for stack in stacks if stack.modality == modality]
    stack = fitting[rng.integers(len(fitting))]
    # The middle half of a volume shows anatomy, its ends often air.
    n = len(stack.slices)
    raw = stack.slices[int(rng.integers(n // 4, max(n // 4 + 1, 3 * n // 4)))].astype(np.float32)
    view = above_air(random_view, raw, modality, size, rng)
    if modality == "ct":
        return view
    bright = float(np.percentile(view, 99.5))
    return (view / (bright if bright > 0 else 1.0)).astype(np.float32)
