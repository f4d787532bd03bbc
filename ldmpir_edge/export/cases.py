"""Held-out slices with simulated acquisitions: what the gate and the golden pairs run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.physics.problem import FAMILIES, Family, Modality
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import ImageScan
from ldmpir_edge.training.acquisitions import SIMULATORS, Example
from ldmpir_edge.training.augment import random_view
from ldmpir_edge.training.images import ImageStack, load_folder
from ldmpir_edge.training.recipe import TrainingTask

SLICES_PER_TASK = 2

FAMILY_TASKS: dict[Family, tuple[TrainingTask, ...]] = {
    "cartesian1d": ("mri-columns",),
    "separable": ("mri-2d", "super-resolve"),
    "pointwise": ("denoise", "inpaint"),
    "toeplitz": ("ct",),
    "rays": ("ct-fan",),
}
"""Simulated acquisitions that each family of graphs serves."""

AIR_HU = -1000.0


@dataclass(frozen=True)
class GateImages:
    """Images of the gate, and where they come from in words."""

    stacks: tuple[ImageStack, ...]
    source: str


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
            "name folders of both with --gate-images"
        )
    return GateImages(stacks, source)


def _read_image(path: Path) -> ImageStack:
    with open_scan(path) as scan:
        if not isinstance(scan, ImageScan):
            raise ScanDataError(f"{path} holds raw data; the gate needs images")
        return ImageStack(path.stem, scan.info.modality, scan.image(0)[None])


def make_cases(images: GateImages, size: int) -> dict[Family, list[Example]]:
    """Simulate the acquisitions of every family on `(size, size)` views, from fixed seeds."""
    cases: dict[Family, list[Example]] = {family: [] for family in FAMILIES}
    for family, names in FAMILY_TASKS.items():
        for number, name in enumerate(names):
            for k in range(SLICES_PER_TASK):
                rng = np.random.default_rng([2026, FAMILIES.index(family), number, k])
                wanted: Modality = _modality(name, k)
                image = _draw(images.stacks, wanted, size, rng)
                cases[family].append(SIMULATORS[name](image, wanted, rng))
    return cases


def _modality(task: TrainingTask, k: int) -> Modality:
    if task.startswith("mri"):
        return "mr"
    if task.startswith("ct"):
        return "ct"
    return "mr" if k % 2 == 0 else "ct"


def _draw(
    stacks: Sequence[ImageStack], modality: Modality, size: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    fitting = [stack for stack in stacks if stack.modality == modality]
    stack = fitting[rng.integers(len(fitting))]
    # The middle half of a volume shows anatomy, its ends often air.
    n = len(stack.slices)
    raw = stack.slices[int(rng.integers(n // 4, max(n // 4 + 1, 3 * n // 4)))].astype(np.float32)
    if modality == "ct":
        air = np.float32(AIR_HU)
        return np.maximum(random_view(np.maximum(raw, air), size, AIR_HU, rng), air)
    view = np.maximum(random_view(raw, size, 0.0, rng), 0)
    bright = float(np.percentile(view, 99.5))
    return (view / (bright if bright > 0 else 1.0)).astype(np.float32)
