"""A folder of DICOM images, complete or absent."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread, dcmwrite
from pydicom.errors import InvalidDicomError

from ldmpir_edge.atomic import atomic_folder
from ldmpir_edge.errors import OutputError
from ldmpir_edge.scans.reconstruction import Reconstruction
from ldmpir_edge.scans.writers.dicom.image import build_image
from ldmpir_edge.scans.writers.dicom.pixels import (
    CT_SCALE,
    StoredScale,
    inherited_scale,
    mr_scale,
)
from ldmpir_edge.scans.writers.dicom.uids import IMPLEMENTATION_CLASS_UID


def write_dicom(recon: Reconstruction, target: Path) -> None:
    """Write the folder `target` with `0001.dcm`, `0002.dcm`, … in slice order.

    MR from k-space is stored with its brightest voxel at 32,767 and the series' one scale as
    real-world value mapping; CT from projections as HU, one grey level 1 HU; an image made from
    DICOM images keeps its source's stored scale. Values outside the stored range are clipped, and
    the number of clipped pixels stands in Image Comments.

    Parameters
    ----------
    recon
        The volume.
    target
        The folder to create. One that this program wrote is replaced; any other is refused.

    Raises
    ------
    OutputError
        `target` holds files that this program did not write, or cannot be written.
    """
    _refuse_foreign(target)
    scales = _scales(recon)
    digits = max(4, len(str(recon.n_slices)))
    with atomic_folder(target) as temporary:
        for index, scale in enumerate(scales):
            name = f"{index + 1:0{digits}d}.dcm"
            dcmwrite(temporary / name, build_image(recon, index, scale), enforce_file_format=True)


def _scales(recon: Reconstruction) -> list[StoredScale]:
    sources = recon.info.source_datasets
    if sources:
        return [inherited_scale(source, recon.info.modality) for source in sources]
    scale = CT_SCALE if recon.info.modality == "ct" else mr_scale(recon.image)
    return [scale] * recon.n_slices


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
