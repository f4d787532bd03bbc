"""Write a volume, slice by slice as it is made, in the formats that were asked for."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from ldmpir_edge.atomic import make_folder, output_errors
from ldmpir_edge.errors import OutputError, ShapeError, UsageError
from ldmpir_edge.scans.reconstruction import ReconstructedSlice, Reconstruction, VolumeHeader
from ldmpir_edge.scans.writers import SliceSink, Writer

_SUFFIXES = {
    "dicom": "",
    "h5": ".h5",
    "nii": ".nii.gz",
    "npy": ".npy",
    "png": ".png",
    "viewer": "-viewer.html",
}

FORMATS = tuple(_SUFFIXES)


def _writer(name: str) -> Writer:
    """Import the writer of a format, and with it the one library that it needs."""
    if name == "dicom":
        from ldmpir_edge.scans.writers.dicom import write_dicom as write
    elif name == "h5":
        from ldmpir_edge.scans.writers.h5 import write_h5 as write
    elif name == "nii":
        from ldmpir_edge.scans.writers.nifti import write_nifti as write
    elif name == "npy":
        from ldmpir_edge.scans.writers.npy import write_npy as write
    elif name == "viewer":
        from ldmpir_edge.scans.writers.volume_page import write_volume_page as write
    else:
        from ldmpir_edge.scans.writers.png import write_png as write
    return write


class Outputs:
    """The open outputs of one volume; `open_outputs` makes it.

    Attributes
    ----------
    header : VolumeHeader
        What the slices to come have in common.
    paths : list[Path]
        What is being written, in the order of the formats.
    seconds : float
        Time spent on writing so far.
    left_out : list[str]
        Why each optional format that cannot hold the volume is not written.
    """

    def __init__(
        self, header: VolumeHeader, paths: list[Path], sinks: list[SliceSink], left_out: list[str]
    ) -> None:
        self.header, self.paths, self.left_out = header, paths, left_out
        self.seconds = 0.0
        self._sinks = sinks
        self._n_added = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ldmpir-write")
        self._pending: Future[None] | None = None

    def add(self, piece: ReconstructedSlice) -> None:
        """Take the next slice; it is written while the caller goes on, one at a time.

        Raises
        ------
        ShapeError
            It is not the slice that follows, of another shape than the header says, or one more.
        OutputError
            A slice before could not be written.
        """
        n_slices, *shape = self.header.shape
        if self._n_added == n_slices:
            raise ShapeError(f"all {n_slices} slices were given already; give no more")
        if piece.index != self._n_added or piece.image.shape != tuple(shape):
            raise ShapeError(
                f"slice {piece.index} with shape {piece.image.shape} was given; the output expects "
                f"slice {self._n_added} with shape {tuple(shape)}"
            )
        self._n_added += 1
        self._wait()
        self._pending = self._pool.submit(self._write, piece)

    def finish(self) -> None:
        """Wait until every output is complete.

        Raises
        ------
        ShapeError
            Slices are missing.
        OutputError
            An output could not be written.
        """
        if self._n_added != self.header.n_slices:
            raise ShapeError(
                f"{self._n_added} slices were given of {self.header.n_slices}; give all of them"
            )
        self._wait()

    def close(self) -> None:
        """End the writing thread."""
        self._pool.shutdown()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _write(self, piece: ReconstructedSlice) -> None:
        started = time.perf_counter()
        for sink in self._sinks:
            with suppress(StopIteration):  # the last slice completes the output
                sink.send(piece)
        self.seconds += time.perf_counter() - started


@contextmanager
def open_outputs(
    header: VolumeHeader, folder: Path, formats: Sequence[str], optional: Collection[str] = ()
) -> Iterator[Outputs]:
    """Open one output a format in `folder`, one file (for DICOM one folder) named after the stem.

    An output appears, complete, when its last slice was written; where the block ends before
    that, nothing remains. A failing format leaves those that completed before it.

    Parameters
    ----------
    header
        What is known of the volume.
    folder
        Created where it is missing.
    formats
        Of `dicom`, `h5`, `nii`, `npy`, `png`, `viewer`; a format given twice is written once.
    optional
        Those of them that are left out where they cannot hold the volume and another can.

    Raises
    ------
    UsageError
        A format is unknown, or none is given.
    ShapeError
        The block ended well without all slices.
    OutputError
        An output would replace the scan itself, the format cannot hold the volume, or an output
        cannot be written.
    """
    wanted = list(dict.fromkeys(formats))
    paths = output_paths(header.stem, folder, wanted)
    for path in paths:
        refuse_input(path, header.input_files)
    with ExitStack() as stack:
        stack.enter_context(_made_folder(folder))
        sinks: dict[Path, SliceSink] = {}
        refused: list[OutputError] = []
        for name, path in zip(wanted, paths, strict=True):
            sink = stack.enter_context(closing(_writer(name)(header, path)))
            try:
                next(sink)
            except OutputError as err:
                # A disk that cannot be written has an `OSError` behind it, and is no format's.
                if name not in optional or isinstance(err.__cause__, OSError):
                    raise
                refused.append(err)
            else:
                sinks[path] = sink
        if not sinks:
            raise refused[0]
        left_out = [str(err) for err in refused]
        outputs = stack.enter_context(
            closing(Outputs(header, list(sinks), list(sinks.values()), left_out))
        )
        yield outputs
        outputs.finish()


def output_paths(stem: str, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Name the outputs of a scan, one a format.

    Raises
    ------
    UsageError
        A format is unknown, or none is given.
    """
    unknown = [name for name in formats if name not in _SUFFIXES]
    if unknown or not formats:
        given = ", ".join(unknown) if unknown else "nothing"
        raise UsageError(f"unknown output format {given}; choose of {', '.join(FORMATS)}")
    return [folder / f"{stem}{_SUFFIXES[name]}" for name in formats]


def write_outputs(recon: Reconstruction, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write a volume that is in memory, as `open_outputs` does one that is being made.

    Returns
    -------
        The paths, in the order of `formats`.

    Raises
    ------
    UsageError, OutputError
        As `open_outputs`.
    """
    with open_outputs(recon.header, folder, formats) as outputs:
        for piece in recon.slices():
            outputs.add(piece)
    return outputs.paths


@contextmanager
def _made_folder(folder: Path) -> Iterator[None]:
    """Create a folder with its parents; what was created goes again if the block fails."""
    with output_errors(folder):
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # an output completed before the failure keeps its folder
            for path in missing:
                path.rmdir()
        raise


def refuse_input(target: Path, input_files: Sequence[Path]) -> None:
    """Refuse to write where the scan lies.

    Raises
    ------
    OutputError
        `target` is one of the scan's files, or a folder around one.
    """
    with output_errors(target):
        place = target.resolve()
        for path in input_files:
            source = path.resolve()
            if source == place or place in source.parents:
                raise OutputError(
                    f"the output {target} would replace the scan {path}; choose another folder "
                    "with -o"
                )
