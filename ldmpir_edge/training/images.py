"""Image sources: folders of magnitude or HU images, held in memory volume by volume."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import LdmpirError, ScanDataError, ScanFormatError
from ldmpir_edge.physics.problem import Modality

FASTMRI_REFERENCES = ("reconstruction_rss", "reconstruction_esc")


@dataclass(frozen=True)
class ImageStack:
    """Slices of one volume: `slices` (n, H, W) in scanner intensity (mr) or HU (ct)."""

    name: str
    modality: Modality
    slices: NDArray[np.generic]


def load_folder(*folders: Path) -> list[ImageStack]:
    """Read every image file below the folders, in the order of their paths.

    Understood are .npz with `slices` (n, H, W) and an optional JSON `meta` whose `unit` "HU"
    marks CT, .npy (H, W) or (n, H, W), fastMRI .h5 (its reference reconstruction), PNG, TIFF (of
    one or more pages) and DICOM (.dcm) files. Pictures in colour are read as grey.

    Raises
    ------
    ScanFormatError
        A file cannot be read as what its name says.
    ScanDataError
        A folder holds no image, or an image holds NaN or infinite values.
    """
    paths: list[Path] = []
    for folder in folders:
        found = [p for p in folder.rglob("*") if p.suffix.lower() in _READERS and p.is_file()]
        if not found:
            raise ScanDataError(
                f"no training image below {folder}; give a folder with files of these kinds: "
                f"{', '.join(_READERS)}"
            )
        paths += found
    return [_load(path) for path in sorted(paths)]


def _load(path: Path) -> ImageStack:
    try:
        modality, slices = _READERS[path.suffix.lower()](path)
    except LdmpirError:
        raise
    except Exception as err:
        # Five libraries decode these files, and a damaged one makes them raise anything.
        reason = " ".join(str(err).split()) or type(err).__name__
        raise ScanFormatError(
            f"cannot read training images from {path}: {reason}; replace or remove the file"
        ) from err
    if slices.ndim != 3 or slices.size == 0 or slices.dtype.kind not in "buif":
        raise ScanFormatError(
            f"{path} holds {slices.dtype} of shape {slices.shape}; "
            "training needs real numbers as (slices, H, W)"
        )
    if not np.isfinite(slices).all():
        raise ScanDataError(f"{path} holds NaN or infinite values; remove them or the file")
    return ImageStack(path.stem, modality, slices)


def _npz(path: Path) -> tuple[Modality, NDArray[np.generic]]:
    # Opened here, since numpy leaves a damaged archive open.
    with path.open("rb") as f, np.load(f, allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"])) if "meta" in archive else {}
        return "ct" if meta.get("unit") == "HU" else "mr", archive["slices"]


def _npy(path: Path) -> tuple[Modality, NDArray[np.generic]]:
    return "mr", _as_stack(np.load(path, allow_pickle=False))


def _fastmri(path: Path) -> tuple[Modality, NDArray[np.generic]]:
    with h5py.File(path) as f:
        for name in FASTMRI_REFERENCES:
            if name in f:
                return "mr", np.asarray(f[name], np.float32)
    raise ScanFormatError(
        f"{path} has neither {' nor '.join(FASTMRI_REFERENCES)}; training needs the reference "
        "image, which fastMRI's train and val files have"
    )


def _picture(path: Path) -> tuple[Modality, NDArray[np.generic]]:
    from PIL import Image, ImageSequence

    with Image.open(path) as picture:
        pages = [np.asarray(p.convert("F"), np.float32) for p in ImageSequence.Iterator(picture)]
    return "mr", np.stack(pages)


def _dicom(path: Path) -> tuple[Modality, NDArray[np.generic]]:
    import pydicom
    from pydicom.pixels.processing import apply_rescale

    ds = pydicom.dcmread(path)
    if ds.get("SamplesPerPixel", 1) != 1:
        raise ScanFormatError(f"{path} is a colour image; training needs MR or CT images")
    pixels = np.asarray(apply_rescale(ds.pixel_array, ds), np.float32)
    return "ct" if ds.get("Modality") == "CT" else "mr", _as_stack(pixels)


def _as_stack(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return array[None] if array.ndim == 2 else array


_READERS: dict[str, Callable[[Path], tuple[Modality, NDArray[np.generic]]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".h5": _fastmri,
    ".png": _picture,
    ".tif": _picture,
    ".tiff": _picture,
    ".dcm": _dicom,
}
