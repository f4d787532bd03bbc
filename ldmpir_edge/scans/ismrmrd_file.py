"""ISMRMRD HDF5 files: Cartesian acquisitions, sorted into slices.

Every combination of contrast, phase, repetition, set and slice becomes one delivered slice, in
this order of significance; averages are averaged. Noise scans, navigators, phase-correction and
feedback lines stay out of the image; separate calibration lines serve the coil maps only.

Source: Inati et al., MRM 77(1), 2017, and the schema in ismrmrd/ismrmrd.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.scans import hdf5
from ldmpir_edge.scans.ismrmrd_geometry import describe
from ldmpir_edge.scans.ismrmrd_lines import NOT_IMAGING, Flag, Lines, read_heads
from ldmpir_edge.scans.ismrmrd_volume import PartitionedVolume
from ldmpir_edge.scans.limits import (
    MAX_COILS,
    MAX_SIDE,
    MAX_SLICES,
    check_count,
    check_slice_size,
)
from ldmpir_edge.scans.model import KspaceScan
from ldmpir_edge.scans.mrd_header import MAX_HEADER_CHARACTERS, MrdHeader, parse_mrd_header

_FRAME = ("contrast", "phase", "repetition", "set", "slice")
_MAX_NOISE_SAMPLES = 2**18


@dataclass(frozen=True, eq=False, kw_only=True)
class IsmrmrdScan(KspaceScan):
    """ISMRMRD acquisitions; `frames` holds those of each slice, or of each 3-D volume."""

    lines: Lines
    grid_shape: tuple[int, int, int]
    phase_shift: int
    frames: tuple[NDArray[np.intp], ...]
    calibration_frames: tuple[NDArray[np.intp], ...]
    volume: PartitionedVolume | None

    def first_head(self, index: int) -> Any:
        """Give the header of the first acquisition of slice `index`, or of its volume."""
        n_partitions = self.volume.n_partitions if self.volume is not None else 1
        return self.lines.heads[self.frames[index // n_partitions][0]]

    def _read_kspace(self, index: int) -> NDArray[np.complex64]:
        if self.volume is not None:
            return self.volume.read(index)
        return self.lines.grid(self.frames[index], self.grid_shape, self.phase_shift)

    def _read_calibration(self, index: int) -> NDArray[np.complex64] | None:
        if not self.calibration_frames or self.calibration_frames[index].size == 0:
            return None
        return self.lines.grid(self.calibration_frames[index], self.grid_shape, self.phase_shift)


def find_dataset_group(file: h5py.File) -> h5py.Group | None:
    """Find the group that holds an ISMRMRD data set, whatever its name, or None."""
    for name in sorted(file, key=lambda name: (name != "dataset", name)):
        group = hdf5.find(file, name)
        if isinstance(group, h5py.Group) and {"xml", "data"} & set(group):
            return group
    return None


@contextmanager
def open_ismrmrd(path: Path, group: h5py.Group) -> Iterator[IsmrmrdScan]:
    """Describe an open ISMRMRD file.

    Raises
    ------
    ScanFormatError
        Header or acquisitions are missing or malformed.
    ScanDataError
        As `open_lines`.
    """
    header = parse_mrd_header(path, hdf5.text(path, group, "xml", MAX_HEADER_CHARACTERS))
    with open_lines(path, header, read_heads(path, group)) as scan:
        yield scan


@contextmanager
def open_lines(path: Path, header: MrdHeader, lines: Lines) -> Iterator[IsmrmrdScan]:
    """Sort lines into slices; a 3-D encoded scan is transformed along its partitions.

    Raises
    ------
    ScanFormatError
        The header lacks the encoded matrix.
    ScanDataError
        Not Cartesian, no imaging lines, no coils, absurd sizes, or partitions undersampled.
    """
    encoded = _encoded_matrix(path, header)
    notes: list[str] = []
    imaging, separate = _select(lines, header, notes)
    if not imaging.any():
        raise ScanDataError(f"{path}: no imaging lines among {lines.heads.size} acquisitions")
    n_coils = _n_coils(path, lines, imaging)
    separate = _of_these_coils(lines, separate, n_coils, notes)
    shape = (n_coils, encoded[0], encoded[1])
    check_slice_size(path, "k-space", shape)
    phase_center = encoded[1] // 2 if header.phase_center is None else header.phase_center
    phase_shift = encoded[1] // 2 - phase_center
    keys, frames = _frames(lines, imaging)
    check_count(path, "the number of slices", len(frames), MAX_SLICES)
    if len({key[:-1] for key in keys}) > 1:
        notes.append(
            f"{len({key[:-1] for key in keys})} contrasts, phases, repetitions or sets follow "
            "one another as separate slices"
        )
    with ExitStack() as stack:
        volume = None
        if encoded[2] > 1 and np.ptp(lines.heads["idx"]["kspace_encode_step_2"][imaging]) > 0:
            volume = stack.enter_context(
                PartitionedVolume.transform(lines, frames, shape, phase_shift, header)
            )
        info, recon_matrix = describe(lines, frames, header, encoded, volume, tuple(notes))
        yield IsmrmrdScan(
            path=path,
            files=(path,),
            n_slices=len(frames) * (volume.n_partitions if volume else 1),
            info=info,
            n_coils=n_coils,
            recon_matrix=recon_matrix,
            rows_are_phase=True,
            noise_samples=_noise(lines, imaging, header, n_coils),
            lines=lines,
            grid_shape=shape,
            phase_shift=phase_shift,
            frames=frames,
            calibration_frames=_calibration_frames(lines, keys, separate) if not volume else (),
            volume=volume,
        )


def _encoded_matrix(path: Path, header: MrdHeader) -> tuple[int, int, int]:
    if header.trajectory != "cartesian":
        raise ScanDataError(
            f"{path}: the trajectory is {header.trajectory!r}; only cartesian scans can be "
            "reconstructed, regrid this one first"
        )
    if header.encoded_matrix is None:
        raise ScanFormatError(f"{path}: the ISMRMRD header lacks encodedSpace/matrixSize")
    for axis, size in zip("xyz", header.encoded_matrix, strict=True):
        check_count(path, f"encodedSpace matrix {axis}", size, MAX_SIDE)
    return header.encoded_matrix


def _select(
    lines: Lines, header: MrdHeader, notes: list[str]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell imaging lines and lines of a separate calibration apart."""
    usable = ~lines.flagged(*NOT_IMAGING)
    first_space = lines.heads["encoding_space_ref"] == 0
    if (ignored := int(np.count_nonzero(usable & ~first_space))) > 0:
        notes.append(f"{ignored} lines of further encoding spaces are left out")
    usable &= first_space
    calibration = lines.flagged(Flag.CALIBRATION) & ~lines.flagged(Flag.CALIBRATION_AND_IMAGING)
    if header.calibration_mode == "embedded":
        # The lines belong to the image's own k-space: they are measurements like all others.
        calibration[:] = False
    return usable & ~calibration, usable & calibration


def _of_these_coils(
    lines: Lines, calibration: NDArray[np.bool_], n_coils: int, notes: list[str]
) -> NDArray[np.bool_]:
    """Leave out calibration lines of other coils than the image's, such as the body coil's."""
    ours: NDArray[np.bool_] = calibration & (lines.heads["active_channels"] == n_coils)
    if (others := int(np.count_nonzero(calibration & ~ours))) > 0:
        notes.append(f"{others} calibration lines of another number of channels are left out")
    return ours


def _n_coils(path: Path, lines: Lines, imaging: NDArray[np.bool_]) -> int:
    counts = np.unique(lines.heads["active_channels"][imaging])
    if counts.size > 1:
        raise ScanDataError(
            f"{path}: imaging lines have {counts.tolist()} channels; all must have the same"
        )
    check_count(path, "the number of coils", int(counts[0]), MAX_COILS)
    return int(counts[0])


def _frames(
    lines: Lines, imaging: NDArray[np.bool_]
) -> tuple[list[tuple[int, ...]], tuple[NDArray[np.intp], ...]]:
    """Sort imaging lines into slices: their keys and the acquisitions of each."""
    indices = np.flatnonzero(imaging)
    counters = lines.heads["idx"][indices]
    keys = np.stack([counters[name] for name in _FRAME], axis=-1)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(inverse.reshape(-1), minlength=len(unique)))[:-1]
    return [tuple(map(int, key)) for key in unique], tuple(np.split(indices[order], ends))


def _calibration_frames(
    lines: Lines, keys: list[tuple[int, ...]], separate: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], ...]:
    if not separate.any():
        return ()
    slices = lines.heads["idx"]["slice"]
    return tuple(np.flatnonzero(separate & (slices == key[-1])) for key in keys)


def _noise(
    lines: Lines, imaging: NDArray[np.bool_], header: MrdHeader, n_coils: int
) -> NDArray[np.complex64] | None:
    """Collect the noise scan, scaled to the variance that it has in the imaging bandwidth."""
    flagged = lines.flagged(Flag.NOISE) & (lines.heads["active_channels"] == n_coils)
    indices = np.flatnonzero(flagged & (lines.heads["number_of_samples"] > 0))
    sizes = np.cumsum(lines.heads["number_of_samples"][indices].astype(np.int64))
    indices = indices[: int(np.searchsorted(sizes, _MAX_NOISE_SAMPLES)) + 1]
    if indices.size == 0:
        return None
    noise = np.concatenate([line for _, line in lines.samples(indices)], axis=1)
    if not np.isfinite(noise).all() or noise.shape[1] < 2 * n_coils:
        return None
    dwell_noise = float(np.median(lines.heads["sample_time_us"][indices]))
    dwell_image = float(np.median(lines.heads["sample_time_us"][imaging]))
    scale = 1.0
    # Thermal noise power follows the bandwidth, 1 / dwell time (Kellman & McVeigh, MRM 54, 2005).
    if dwell_noise > 0 and dwell_image > 0:
        bandwidth = header.noise_bandwidth or 1.0
        scale = np.sqrt(dwell_noise / (dwell_image * max(bandwidth, 1e-3)))
    return (noise * np.float32(scale)).astype(np.complex64)
