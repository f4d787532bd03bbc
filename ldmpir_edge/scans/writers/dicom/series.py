"""A folder of DICOM images, complete or absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from ldmpir_edge.atomic import atomic_folder
from ldmpir_edge.errors import OutputError
from ldmpir_edge.scans.display import CT_SOFT_TISSUE_HU
from ldmpir_edge.scans.reconstruction import ReconstructedSlice, VolumeHeader
from ldmpir_edge.scans.writers import SliceSink
from ldmpir_edge.scans.writers.dicom.image import build_image
from ldmpir_edge.scans.writers.dicom.pixels import (
    CT_SCALE,
    inherited_scale,
    mr_scale,
)
from ldmpir_edge.scans.writers.dicom.uids import IMPLEMENTATION_CLASS_UID
from ldmpir_edge.scans.writers.window import WindowSample

_NO_PIXELS = np.empty((0, 0), np.float32)


def write_dicom(header: VolumeHeader, target: Path) -> SliceSink:
    """Write the folder `target` with `0001.dcm`, `0002.dcm`, … in slice order.

    MR that did not come as DICOM is stored with its brightest voxel at 32,767 and the series' one
    scale as real-world value mapping, signed where values are negative; CT from projections as HU,
    one grey level 1 HU; an image made from DICOM images keeps its source's stored scale. Values
    outside the stored range are clipped, and the number of clipped pixels stands in Image Comments.

    Parameters
    ----------
    header
        The volume's.
    target
        The folder to create. One that this program wrote is replaced; any other is refused.

    Raises
    ------
    OutputError
        `target` holds files that this program did not write, or cannot be written.
    """
    _refuse_foreign(target)
    with atomic_folder(target) as folder:
        if header.info.source_datasets:
            yield from _write_derived(header, folder)
        elif header.info.modality == "ct":
            yield from _write_ct(header, folder)
        else:
            yield from _write_mr(header, folder)


def _write_derived(header: VolumeHeader, folder: Path) -> SliceSink:
    for source in header.info.source_datasets:
        piece = yield
        scale = inherited_scale(source, header.info.modality)
        _write(folder, header, build_image(header, piece, scale), piece.index)


def _write_ct(header: VolumeHeader, folder: Path) -> SliceSink:
    for _ in range(header.n_slices):
        piece = yield
        image = build_image(header, piece, CT_SCALE, CT_SOFT_TISSUE_HU)
        _write(folder, header, image, piece.index)


def _write_mr(header: VolumeHeader, folder: Path) -> SliceSink:
    # The scale and the window are the volume's, known with its last slice: until then the
    # images wait in a file without a name, which goes when it is closed, however that happens.
    waiting: list[ReconstructedSlice] = []
    sample = WindowSample(header.n_slices)
    lowest = peak = 0.0
    with TemporaryFile(dir=folder) as spool:
        for _ in range(header.n_slices):
            piece = yield
            spool.write(np.ascontiguousarray(piece.image).data)
            waiting.append(replace(piece, image=_NO_PIXELS))
            sample.add(piece.image)
            lowest = min(lowest, float(piece.image.min()))
            peak = max(peak, float(piece.image.max()))
        scale, window = mr_scale(lowest, peak), sample.window("mr")
        spool.seek(0)
        for piece in waiting:
            pixels = np.empty(header.shape[1:], np.float32)
            spool.readinto(pixels.data)
            image = build_image(header, replace(piece, image=pixels), scale, window)
            _write(folder, header, image, piece.index)


def _write(folder: Path, header: VolumeHeader, image: Dataset, index: int) -> None:
    digits = max(4, len(str(header.n_slices)))
    dcmwrite(folder / f"{index + 1:0{digits}d}.dcm", image, enforce_file_format=True)


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if not _is_ours(path):
            raise OutputError(
                f"{folder} holds {path.name}, which ldmpir-edge did not write, and is not "
                "replaced; choose another folder with -o"
            )


def _is_ours(path: Path) -> bool:
    try:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
    except (OSError, InvalidDicomError):
        return False
    return bool(meta.get("ImplementationClassUID") == IMPLEMENTATION_CLASS_UID)
