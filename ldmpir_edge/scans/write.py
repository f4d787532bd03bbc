"""Write a reconstruction in the formats that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ldmpir_edge.atomic import make_folder, output_errors
from ldmpir_edge.errors import OutputError, UsageError
from ldmpir_edge.scans.reconstruction import Reconstruction
from ldmpir_edge.scans.writers.dicom import write_dicom
from ldmpir_edge.scans.writers.h5 import write_h5
from ldmpir_edge.scans.writers.nifti import write_nifti
from ldmpir_edge.scans.writers.npy import write_npy
from ldmpir_edge.scans.writers.png import write_png

_WRITERS: dict[str, tuple[str, Callable[[Reconstruction, Path], None]]] = {
    "dicom": ("", write_dicom),
    "h5": (".h5", write_h5),
    "nii": (".nii.gz", write_nifti),
    "npy": (".npy", write_npy),
    "png": (".png", write_png),
}

FORMATS = tuple(_WRITERS)


def write_outputs(recon: Reconstruction, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write `recon` into `folder`, one file (for DICOM one folder) named after its stem a format.

    Each output appears complete or not at all; those finished before an error stay.

    Parameters
    ----------
    recon
        The volume.
    folder
        Created where it is missing.
    formats
        Of `dicom`, `h5`, `nii`, `npy`, `png`; a format given twice is written once.

    Returns
    -------
        The paths, in the order of `formats`.

    Raises
    ------
    UsageError
        A format is unknown, or none is given. Nothing was written.
    OutputError
        An output would replace the scan itself, or cannot be written.
    """
    wanted = list(dict.fromkeys(formats))
    unknown = [name for name in wanted if name not in _WRITERS]
    if unknown or not wanted:
        given = ", ".join(unknown) if unknown else "nothing"
        raise UsageError(f"unknown output format {given}; choose of {', '.join(FORMATS)}")
    targets = [folder / f"{recon.stem}{_WRITERS[name][0]}" for name in wanted]
    for target in targets:
        _refuse_input(target, recon.input_files)
    make_folder(folder)
    for name, target in zip(wanted, targets, strict=True):
        _WRITERS[name][1](recon, target)
    return targets


def _refuse_input(target: Path, input_files: Sequence[Path]) -> None:
    with output_errors(target):
        place = target.resolve()
        for path in input_files:
            source = path.resolve()
            if source == place or place in source.parents:
                raise OutputError(
                    f"the output {target} would replace the scan {path}; choose another folder "
                    "with -o"
                )
