"""Read the readout lines of an ISMRMRD file in bulk and place them on the encoded grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.scans import hdf5
from ldmpir_edge.scans.global_heaps import check_heaps
from ldmpir_edge.scans.limits import MAX_ACQUISITIONS, check_count

_BATCH = 4096

_READ_OF_HEAD: dict[str, tuple[int, ...]] = {
    "flags number_of_samples active_channels discard_pre discard_post center_sample": (),
    "encoding_space_ref sample_time_us idx": (),
    "position read_dir phase_dir slice_dir": (3,),
}
_REAL = frozenset({"sample_time_us", "position", "read_dir", "phase_dir", "slice_dir"})
"""May be floating-point numbers; the others are counted with."""
_READ_OF_COUNTERS = (
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    "contrast",
    "phase",
    "repetition",
    "set",
    "slice",
)


class Flag(IntEnum):
    """Bits (counted from 1) of an acquisition's flags that decide its use.

    Source: ismrmrd/ismrmrd, include/ismrmrd/ismrmrd.h, ISMRMRD_AcquisitionFlags.
    """

    NOISE = 19
    CALIBRATION = 20
    CALIBRATION_AND_IMAGING = 21
    REVERSE = 22
    NAVIGATION = 23
    PHASE_CORRECTION = 24
    HP_FEEDBACK = 26
    DUMMY = 27
    RT_FEEDBACK = 28
    SURFACE_COIL_CORRECTION = 29
    PHASE_STABILIZATION_REFERENCE = 30
    PHASE_STABILIZATION = 31


NOT_IMAGING = (
    Flag.NOISE,
    Flag.NAVIGATION,
    Flag.PHASE_CORRECTION,
    Flag.HP_FEEDBACK,
    Flag.DUMMY,
    Flag.RT_FEEDBACK,
    Flag.SURFACE_COIL_CORRECTION,
    Flag.PHASE_STABILIZATION_REFERENCE,
    Flag.PHASE_STABILIZATION,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Lines(ABC):
    """The acquisitions of one scan: headers in memory, samples on disk.

    Parameters
    ----------
    path
        For messages.
    heads
        `(n,)` structured, one header for each acquisition.
    """

    path: Path
    heads: NDArray[Any]

    def flagged(self, *flags: Flag) -> NDArray[np.bool_]:
        """Tell which acquisitions carry any of `flags`: `(n,)`."""
        bits = np.uint64(sum(1 << (flag - 1) for flag in flags))
        return np.asarray((self.heads["flags"] & bits) != 0)

    def samples(self, indices: NDArray[np.intp]) -> Iterator[tuple[Any, NDArray[np.complex64]]]:
        """Read acquisitions in batches: pairs of header and `(coils, samples)` complex64.

        Raises
        ------
        ScanFormatError
            The samples cannot be read, or are not as many as the header declares.
        """
        for start in range(0, len(indices), _BATCH):
            batch = indices[start : start + _BATCH]
            for index, value in zip(batch, self._read(batch), strict=True):
                head = self.heads[index]
                n_coils, n_samples = int(head["active_channels"]), int(head["number_of_samples"])
                if value.size != 2 * n_coils * n_samples:
                    raise ScanFormatError(
                        f"{self.path}: acquisition {index} holds {value.size} values for "
                        f"{n_coils} coils of {n_samples} complex samples; export it again"
                    )
                line = np.ascontiguousarray(value, np.float32).view(np.complex64)
                yield head, line.reshape(n_coils, n_samples)

    @abstractmethod
    def _read(self, indices: NDArray[np.intp]) -> Iterable[NDArray[np.float32]]:
        """Read the samples of each acquisition, real and imaginary parts in turn."""

    def grid(
        self, indices: NDArray[np.intp], shape: tuple[int, int, int], phase_shift: int
    ) -> NDArray[np.complex64]:
        """Place the lines of one slice on the encoded grid; repeated lines are averaged.

        Parameters
        ----------
        indices
            Acquisitions of the slice.
        shape
            `(coils, readout, phase_encode)`.
        phase_shift
            Column of `kspace_encode_step_1` = 0.

        Returns
        -------
            `shape` complex64, zero where nothing was sampled.

        Raises
        ------
        ScanDataError
            A line lies outside the grid.
        """
        n_coils, n_readout, n_phase = shape
        # Columns first, so that every line is written to contiguous memory.
        total = np.zeros((n_phase, n_coils, n_readout), np.complex64)
        counts = np.zeros((n_phase, 1, n_readout), np.float32)
        for head, line in self.samples(indices):
            column = int(head["idx"]["kspace_encode_step_1"]) + phase_shift
            first, kept = self._place(head, line, n_readout)
            if not 0 <= column < n_phase:
                raise ScanDataError(
                    f"{self.path}: a phase-encode line falls on column {column} of {n_phase}; "
                    "the header's matrix or limits are wrong"
                )
            total[column, :, first : first + kept.shape[1]] += kept
            counts[column, :, first : first + kept.shape[1]] += 1.0
        total /= np.maximum(counts, 1.0)
        return np.ascontiguousarray(total.transpose(1, 2, 0))

    def _place(
        self, head: Any, line: NDArray[np.complex64], n_readout: int
    ) -> tuple[int, NDArray[np.complex64]]:
        """Drop discarded samples and find where the first kept one lies on the readout axis."""
        n_samples = line.shape[1]
        before, after = int(head["discard_pre"]), int(head["discard_post"])
        # Many converters leave center_sample at zero; no echo starts at its own centre.
        center = int(head["center_sample"]) or n_samples // 2
        if (int(head["flags"]) >> (Flag.REVERSE - 1)) & 1:
            # The centre of a reversed line is stated for the forward order.
            line, before, after = line[:, ::-1], after, before
        first = n_readout // 2 - center + before
        kept = line[:, before : n_samples - after]
        if kept.shape[1] == 0 or first < 0 or first + kept.shape[1] > n_readout:
            raise ScanDataError(
                f"{self.path}: a line of {n_samples} samples with centre {center} does not fit "
                f"the readout of {n_readout}; the header's encoded matrix is wrong"
            )
        return first, kept


@dataclass(frozen=True, eq=False, kw_only=True)
class Hdf5Lines(Lines):
    """Lines in the compound data set `dataset` of an ISMRMRD file."""

    dataset: h5py.Dataset

    def _read(self, indices: NDArray[np.intp]) -> Iterable[NDArray[np.float32]]:
        with hdf5.reading(self.path, "the acquisitions"):
            values: Iterable[NDArray[np.float32]] = self.dataset.fields("data")[indices]
        return values


def read_heads(path: Path, group: h5py.Group) -> Hdf5Lines:
    """Read all acquisition headers of an ISMRMRD group at once.

    Raises
    ------
    ScanFormatError
        There is no `data` of ISMRMRD's compound type.
    ScanDataError
        There are no acquisitions, or absurdly many.
    """
    data = hdf5.dataset(path, group, "data", kinds="V", ndim=(1,))
    names = data.dtype.names or ()
    sample_type = h5py.check_vlen_dtype(data.dtype["data"]) if "data" in names else None
    if "head" not in names or not _holds(data.dtype["head"]) or sample_type != np.float32:
        raise ScanFormatError(
            f"{path}: {data.name} is not a table of ISMRMRD acquisitions (head, traj, data)"
        )
    check_count(path, "the number of acquisitions", int(data.shape[0]), MAX_ACQUISITIONS)
    check_heaps(path)
    with hdf5.reading(path, "the acquisition headers"):
        heads = data.fields("head")[...]
    return Hdf5Lines(path=path, dataset=data, heads=heads)


def _holds(head: np.dtype[Any]) -> bool:
    """Answer whether an acquisition header has all that is read of it, each of its own shape."""
    for names, shape in _READ_OF_HEAD.items():
        for name in names.split():
            if name not in (head.names or ()) or head[name].shape != shape:
                return False
            kinds = "V" if name == "idx" else "iuf" if name in _REAL else "iu"
            if head[name].base.kind not in kinds:
                return False
    counters = head["idx"]
    return all(
        name in (counters.names or ()) and counters[name].kind in "iu" and not counters[name].shape
        for name in _READ_OF_COUNTERS
    )
