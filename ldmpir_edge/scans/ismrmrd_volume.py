"""3-D encoded ISMRMRD volumes: the partition axis is transformed once, into a temporary file."""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import OutputError, ScanDataError
from ldmpir_edge.physics.fourier import centred_ifft
from ldmpir_edge.scans.ismrmrd_lines import Lines
from ldmpir_edge.scans.mrd_header import MrdHeader

MAX_VOLUME_ELEMENTS = 2**31
"""Samples of all volumes together: 16 GiB of temporary disk space."""

_SAMPLE_BYTES = np.dtype(np.complex64).itemsize
_BLOCK_ELEMENTS = 2**22


@dataclass(frozen=True, eq=False)
class PartitionedVolume:
    """k-space of all volumes, inverse transformed along the partition axis.

    Parameters
    ----------
    n_partitions
        Delivered slices of each volume.
    first
        First delivered partition: those outside the reconstructed slab are left out.
    data
        `(volumes, partitions, coils, readout, phase_encode)` complex64, on disk.
    """

    n_partitions: int
    first: int
    data: NDArray[np.complex64]

    def read(self, index: int) -> NDArray[np.complex64]:
        """Give slice `index`, counted through all volumes: `(coils, readout, phase_encode)`."""
        volume, partition = divmod(index, self.n_partitions)
        return np.array(self.data[volume, self.first + partition])

    @staticmethod
    @contextmanager
    def transform(
        lines: Lines,
        frames: tuple[NDArray[np.intp], ...],
        shape: tuple[int, int, int],
        phase_shift: int,
        header: MrdHeader,
    ) -> Iterator[PartitionedVolume]:
        """Grid and transform all volumes; the temporary file lives as long as the block.

        Parameters
        ----------
        lines, shape, phase_shift
            As in `Lines.grid`.
        frames
            Acquisitions of each volume.
        header
            States the partitions' number and centre; must have an encoded matrix.

        Raises
        ------
        ScanDataError
            The volume is too large, or partitions are undersampled: only a set of partitions
            that is the same for all phase-encode lines, without gaps, can be transformed first.
        OutputError
            The folder of temporary files has no room for it.
        """
        encoded = header.encoded_matrix[2] if header.encoded_matrix else 1
        delivered = min(header.recon_matrix[2], encoded) if header.recon_matrix else encoded
        center = encoded // 2 if header.partition_center is None else header.partition_center
        full = (len(frames), encoded, *shape)
        if math.prod(full) > MAX_VOLUME_ELEMENTS or delivered < 1:
            raise ScanDataError(
                f"{lines.path}: 3-D k-space of shape {full} is more than {MAX_VOLUME_ELEMENTS} "
                "samples; split the scan by repetition"
            )
        with tempfile.TemporaryFile() as store:
            _reserve(lines.path, store.fileno(), math.prod(full) * _SAMPLE_BYTES)
            data = np.memmap(store, np.complex64, "w+", shape=full)
            for volume, frame in zip(data, frames, strict=True):
                steps = lines.heads["idx"]["kspace_encode_step_2"][frame].astype(np.int64)
                partitions = steps + encoded // 2 - center
                _check_sampling(lines, frame, partitions, encoded)
                for partition in np.unique(partitions):
                    chosen = frame[partitions == partition]
                    volume[partition] = lines.grid(chosen, shape, phase_shift)
                _transform_in_place(volume)
            yield PartitionedVolume(delivered, encoded // 2 - delivered // 2, data)


def _reserve(path: Path, descriptor: int, n_bytes: int) -> None:
    folder = tempfile.gettempdir()
    if n_bytes > shutil.disk_usage(folder).total:
        # To wait for room would be in vain.
        raise ScanDataError(
            f"{path}: {n_bytes} bytes of 3-D k-space, more than the disk of {folder} has in all; "
            "have TMPDIR name a folder on a larger one"
        )
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is None:  # macOS and Windows
        return
    # To write into the hole of a mapped file on a disk that is full ends the process.
    try:
        allocate(descriptor, 0, n_bytes)
    except OSError as err:
        if err.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # the file system cannot do that
            return
        raise OutputError(
            f"{folder} has no room for {n_bytes} bytes of 3-D k-space ({err.strerror}); free "
            "space there, or have TMPDIR name another folder"
        ) from err


def _check_sampling(
    lines: Lines, frame: NDArray[np.intp], partitions: NDArray[np.int64], encoded: int
) -> None:
    found = np.unique(partitions)
    if found[0] < 0 or found[-1] >= encoded:
        raise ScanDataError(
            f"{lines.path}: partitions {found[0]} to {found[-1]} fall outside the encoded "
            f"{encoded}; the header's matrix or limits are wrong"
        )
    columns = lines.heads["idx"]["kspace_encode_step_1"][frame].astype(np.int64)
    pairs = np.unique(np.stack([columns, partitions]), axis=1).shape[1]
    if pairs != np.unique(columns).size * found.size or found[-1] - found[0] + 1 != found.size:
        raise ScanDataError(
            f"{lines.path}: a 3-D scan undersampled along its partitions cannot be "
            "reconstructed slice by slice; sample every partition"
        )


def _transform_in_place(volume: NDArray[np.complex64]) -> None:
    """Inverse transform axis 0 of `(partitions, coils, readout, phase_encode)` by blocks."""
    rows = max(1, _BLOCK_ELEMENTS // max(1, volume.size // volume.shape[2]))
    for start in range(0, volume.shape[2], rows):
        block = np.array(volume[:, :, start : start + rows])
        volume[:, :, start : start + rows] = centred_ifft(block, (0,))
