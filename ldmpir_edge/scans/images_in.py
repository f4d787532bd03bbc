"""NPY and NIfTI volumes as image input.

Neither format states a modality: values below −500 can only be Hounsfield units (air), so such a
volume counts as CT and every other as MR.
"""

from __future__ import annotations

import gzip
import math
import tokenize
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.scans.limits import MAX_SIDE, MAX_SLICES, check_count
from ldmpir_edge.scans.model import ImageScan, ScanInfo, SlicePlane, Vector

GZIP_MAGIC = b"\x1f\x8b"
_CT_BELOW = -500.0


@dataclass(frozen=True, eq=False, kw_only=True)
class NpyScan(ImageScan):
    """A memory-mapped `(slices, H, W)` array."""

    array: NDArray[Any]

    def _read_image(self, index: int) -> NDArray[np.float32]:
        return np.array(self.array[index], np.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class NiftiScan(ImageScan):
    """A NIfTI volume; images are the planes of its first two axes, in stored order."""

    proxy: Any
    n_planes: int

    def _read_image(self, index: int) -> NDArray[np.float32]:
        volume, plane = divmod(index, self.n_planes)
        try:
            values = self.proxy[(slice(None), slice(None), plane, volume)[: self.proxy.ndim]]
        except (OSError, EOFError, ValueError, zlib.error) as err:
            raise ScanFormatError(
                f"{self.path}: plane {index} cannot be read ({err}); the file is truncated"
            ) from err
        return np.ascontiguousarray(np.asarray(values, np.float32).T)


AnyImageScan = TypeVar("AnyImageScan", NpyScan, NiftiScan)


@contextmanager
def open_npy(path: Path) -> Iterator[NpyScan]:
    """Open an NPY array of images, `(H, W)` or `(slices, H, W)`, real.

    Raises
    ------
    ScanFormatError
        The file is truncated or not an array.
    ScanDataError
        Complex, of another rank or of an absurd size.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # A header is parsed as Python: what is wrong with it may show as any of these.
    except (
        *(OSError, ValueError, EOFError, SyntaxError, OverflowError, TypeError, MemoryError),
        tokenize.TokenError,
    ) as err:
        raise ScanFormatError(
            f"{path}: damaged or truncated NPY file ({err}); copy or export it again"
        ) from err
    if array.dtype.kind == "c":
        raise ScanDataError(
            f"{path}: complex values are not an image; pack k-space into fastMRI or ISMRMRD HDF5 "
            "(docs/formats.md)"
        )
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3):
        raise ScanDataError(
            f"{path}: an array of {array.dtype} with shape {array.shape}; give real numbers as "
            "(H, W) or (slices, H, W)"
        )
    if array.ndim == 2:
        array = array[None]
    _check_shape(path, array.shape[1], array.shape[2], array.shape[0])
    scan = NpyScan(
        path=path,
        files=(path,),
        n_slices=array.shape[0],
        info=ScanInfo(modality="mr"),
        shape=(array.shape[1], array.shape[2]),
        array=array,
    )
    yield _with_modality(scan)


_TO_MM = {"meter": 1e3, "micron": 1e-3}
"""NIfTI's other units of length; an unknown one is taken for mm."""


@contextmanager
def open_nifti(path: Path) -> Iterator[NiftiScan]:
    """Open a NIfTI-1 or NIfTI-2 volume, compressed or not; a fourth axis follows as slices.

    Raises
    ------
    ScanFormatError
        The file is truncated or not NIfTI.
    ScanDataError
        Complex or colour, of another rank or of an absurd size.
    """
    import nibabel as nib

    with path.open("rb") as raw, ExitStack() as stack:
        compressed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        stream = stack.enter_context(gzip.GzipFile(fileobj=raw)) if compressed else raw
        try:
            size = stream.read(4)
            stream.seek(0)
            # The class follows the header's length, not the file's name: content decides.
            version_2 = 540 in {int.from_bytes(size, order) for order in ("little", "big")}
            kind = nib.Nifti2Image if version_2 else nib.Nifti1Image
            image = kind.from_file_map({"image": nib.FileHolder(fileobj=stream)})
        # nibabel raises its own errors and whatever NumPy does with absurd fields.
        except Exception as err:
            raise ScanFormatError(f"{path}: damaged NIfTI file ({err}); copy it again") from err
        yield _with_modality(_nifti_scan(path, image))


def _nifti_scan(path: Path, image: Any) -> NiftiScan:
    shape = tuple(int(n) for n in image.shape)
    if image.get_data_dtype().kind not in "fiu" or len(shape) not in (2, 3, 4):
        raise ScanDataError(
            f"{path}: a NIfTI volume of {image.get_data_dtype()} with shape {shape}; give real "
            "numbers with two to four axes"
        )
    columns, rows, planes, volumes = (*shape, 1, 1)[:4]
    _check_shape(path, rows, columns, planes * volumes)
    to_mm = _TO_MM.get(image.header.get_xyzt_units()[0], 1.0)
    zooms = [float(v) * to_mm for v in image.header.get_zooms()[:3]]
    spacing = [v if math.isfinite(v) else 0.0 for v in zooms]
    # Without a code the matrix is a default of the reader's, and nobody stated a position.
    placed = any(int(image.header[code]) for code in ("qform_code", "sform_code"))
    geometry: tuple[SlicePlane, ...] = ()
    if placed and np.isfinite(image.affine).all():
        affine = np.diag([-to_mm, -to_mm, to_mm, 1.0]) @ image.affine  # RAS to DICOM's LPS
        geometry = _planes(affine, planes) * volumes
    return NiftiScan(
        path=path,
        files=(path,),
        n_slices=planes * volumes,
        info=ScanInfo(
            modality="mr",
            pixel_spacing_mm=(spacing[1], spacing[0]) if min(spacing[:2]) > 0 else None,
            slice_thickness_mm=spacing[2] if len(spacing) > 2 and spacing[2] > 0 else None,
            slice_spacing_mm=spacing[2] if len(spacing) > 2 and spacing[2] > 0 else None,
            planes=geometry,
        ),
        shape=(rows, columns),
        proxy=image.dataobj,
        n_planes=planes,
    )


def _with_modality(scan: AnyImageScan) -> AnyImageScan:
    """Tell CT from MR by the middle slice."""
    # Read as for inpainting: whether missing pixels are allowed is known only later.
    image = scan.image(scan.n_slices // 2, missing=True)
    lowest = float(np.min(image, where=np.isfinite(image), initial=0.0))
    return replace(scan, info=replace(scan.info, modality="ct" if lowest < _CT_BELOW else "mr"))


def _planes(affine: NDArray[np.float64], n_planes: int) -> tuple[SlicePlane, ...]:
    row, column = affine[:3, 0], affine[:3, 1]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.isfinite(affine).all() or min(lengths) == 0:
        return ()
    directions = _vector(row / lengths[0]), _vector(column / lengths[1])
    return tuple(
        SlicePlane(_vector(affine[:3, 3] + k * affine[:3, 2]), *directions) for k in range(n_planes)
    )


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)


def _check_shape(path: Path, rows: int, columns: int, n_slices: int) -> None:
    check_count(path, "the number of rows", rows, MAX_SIDE)
    check_count(path, "the number of columns", columns, MAX_SIDE)
    check_count(path, "the number of slices", n_slices, MAX_SLICES)
