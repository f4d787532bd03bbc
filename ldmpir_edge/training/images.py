"""Image sources: a folder of magnitude or HU images, held in memory slice by slice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.physics.problem import Modality

SUFFIXES = {".npz", ".npy", ".h5", ".png", ".tif", ".tiff", ".dcm"}


@dataclass(frozen=True)
class ImageStack:
    """Slices of one volume: `slices` (n, H, W) in scanner intensity (mr) or HU (ct)."""

    name: str
    modality: Modality
    slices: NDArray[np.generic]


def load_folder(*folders: Path) -> list[ImageStack]:
    """Read every image file below the folders.

    Understood are .npz with `slices` (n, H, W) and an optional JSON `meta` whose `unit` "HU"
    marks CT, .npy (H, W) or (n, H, W), fastMRI .h5 (its reference reconstruction), PNG, TIFF and
    DICOM files.

    Raises
    ------
    ScanFormatError
        A file cannot be read as what its name says.
    ScanDataError
        No image was found, or one holds NaN or infinite values.
    """
    paths = sorted(p for f in folders for p in f.rglob("*") if p.suffix.lower() in SUFFIXES)
    stacks = [_load(p) for p in paths]
    if not stacks:
        names = ", ".join(str(f) for f in folders)
        raise ScanDataError(f"no training image below {names}; known kinds: {sorted(SUFFIXES)}")
    return stacks


def _load(path: Path) -> ImageStack:
    try:
        stack = _READERS[path.suffix.lower()](path)
    except (OSError, KeyError, ValueError) as err:
        raise ScanFormatError(f"cannot read training images from {path}: {err}") from err
    slices = stack.slices
    if slices.ndim != 3 or min(slices.shape) < 1:
        raise ScanFormatError(f"{path} has shape {slices.shape}; expected (slices, H, W)")
    if slices.dtype.kind == "f" and not np.isfinite(slices).all():
        raise ScanDataError(f"{path} holds NaN or infinite values; remove them or the file")
    return stack


def _npz(path: Path) -> ImageStack:
    with np.load(path, allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"])) if "meta" in archive else {}
        return ImageStack(
            path.stem, "ct" if meta.get("unit") == "HU" else "mr", archive["slices"]
        )


def _npy(path: Path) -> ImageStack:
    array = np.load(path, allow_pickle=False)
    return ImageStack(path.stem, "mr", array if array.ndim == 3 else array[None])


def _fastmri(path: Path) -> ImageStack:
    with h5py.File(path) as f:
        name = next(n for n in ("reconstruction_rss", "reconstruction_esc", "") if n in f or not n)
        if not name:
            raise KeyError("neither reconstruction_rss nor reconstruction_esc: no reference image")
        return ImageStack(path.stem, "mr", np.asarray(f[name], np.float32))


def _picture(path: Path) -> ImageStack:
    from PIL import Image

    with Image.open(path) as picture:
        return ImageStack(path.stem, "mr", np.asarray(picture.convert("F"), np.float32)[None])


def _dicom(path: Path) -> ImageStack:
    import pydicom
    from pydicom.pixels import apply_rescale

    ds = pydicom.dcmread(path)
    pixels = np.asarray(apply_rescale(ds.pixel_array, ds), np.float32)
    return ImageStack(
        path.stem, "ct" if ds.get("Modality") == "CT" else "mr", np.atleast_3d(pixels.T).T
    )


_READERS = {
    ".npz": _npz,
    ".npy": _npy,
    ".h5": _fastmri,
    ".png": _picture,
    ".tif": _picture,
    ".tiff": _picture,
    ".dcm": _dicom,
}
