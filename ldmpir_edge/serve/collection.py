"""Scans kept for fine-tuning: encrypted, bounded in number, size and age, and read in memory only.

`collected/ROUTE/TIME-RANDOM.sealed`, TIME being milliseconds since 1970. Route and file name are
bound to the content, so that no scan can be given to another route or made younger than it is.
Sealed are first the sizes of the scan's files, as 8 bytes each, then the files behind one another.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ldmpir_edge.atomic import TEMPORARY_PREFIX, atomic_file, output_errors
from ldmpir_edge.errors import OutputError, ScanError, SealError
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import Scan
from ldmpir_edge.serve.config import Collection
from ldmpir_edge.serve.sealing import PIECE_BYTES, seal, unseal

DAY_MS = 24 * 3600 * 1000

_NAME = re.compile(r"\d{13}-[0-9a-f]{16}\.sealed")


class CollectedScans:
    """The scans that the routes of an appliance have collected.

    Parameters
    ----------
    folder
        `collected` in the state folder.
    settings
        The bounds, of each route.
    key
        What the scans are sealed with.
    clock
        Gives seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        settings: Collection,
        key: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._settings, self._key, self._clock = folder, settings, key, clock

    def add(self, route: str, files: Sequence[Path], stopping: Callable[[], bool]) -> None:
        """Seal a scan, and drop what is beyond the bounds with it.

        Parameters
        ----------
        route
            Whose scan it is.
        files
            Of the scan; their names are not kept.
        stopping
            Asked between pieces: once true, nothing is kept.

        Raises
        ------
        OutputError
            The scan is larger than the bound, or cannot be written.
        """
        n_bytes = sum(path.stat().st_size for path in files)
        if n_bytes > self._settings.max_bytes:
            raise OutputError(
                f"a scan of {n_bytes} bytes exceeds collection.max_bytes, "
                f"{self._settings.max_bytes}; raise it to collect such scans"
            )
        name = f"{round(self._clock() * 1000):013d}-{secrets.token_hex(8)}.sealed"
        home = self._folder / route
        with output_errors(home):
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_file(home / name) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as sink:
                seal(_pieces(files, stopping), sink, self._key, f"{route}/{name}")
        self.prune(route)

    def prune(self, route: str) -> None:
        """Remove what is too old, and the oldest beyond the other bounds."""
        held = self.names(route)
        sizes = [self._size(route, name) for name in held]
        oldest = round(self._clock() * 1000) - self._settings.keep_days * DAY_MS
        for k, name in enumerate(held):
            too_many = k >= self._settings.max_scans
            too_large = k > 0 and sum(sizes[: k + 1]) > self._settings.max_bytes
            if too_many or too_large or int(name.partition("-")[0]) < oldest:
                (self._folder / route / name).unlink(missing_ok=True)

    def names(self, route: str) -> list[str]:
        """List the scans of a route, the newest first."""
        home = self._folder / route
        if not home.is_dir():
            return []
        found = (path.name for path in home.iterdir())
        return sorted((name for name in found if _NAME.fullmatch(name)), reverse=True)

    @contextmanager
    def open(self, route: str, name: str) -> Iterator[Scan]:
        """Open a collected scan; its content is in memory alone, until the block ends.

        Raises
        ------
        SealError
            It is gone, damaged, was changed, or is sealed with another key.
        ScanError
            As `open_scan`.
        """
        label = f"{route}/{name}"
        with ExitStack() as stack:
            try:
                with (self._folder / label).open("rb") as stream:
                    paths = _unpack(unseal(stream, self._key, label), label, stack)
            except OSError as err:
                raise SealError(
                    f"cannot read the collected scan {label}: {err.strerror}; go on without it"
                ) from err
            try:
                yield stack.enter_context(open_scan(paths[0] if len(paths) == 1 else paths))
            except ScanError as err:
                # What lies in memory has no name that would tell anybody anything.
                words = str(err)
                for path in paths:
                    words = words.replace(str(path), name)
                raise type(err)(words) from err

    def _size(self, route: str, name: str) -> int:
        with suppress(FileNotFoundError):
            return (self._folder / route / name).stat().st_size
        return 0


def clean_collection(folder: Path, routes: Sequence[str]) -> None:
    """Remove what a killed process left, and all scans of routes that do not collect any more."""
    if not folder.is_dir():
        return
    for home in folder.iterdir():
        if home.name not in routes:
            shutil.rmtree(home, ignore_errors=True)
            continue
        for left in home.glob(f"{TEMPORARY_PREFIX}*"):
            left.unlink(missing_ok=True)


def _pieces(files: Sequence[Path], stopping: Callable[[], bool]) -> Iterator[bytes]:
    """Give the table of sizes and the content of files, in pieces that can be sealed."""
    with ExitStack() as stack:
        streams = [stack.enter_context(path.open("rb")) for path in files]
        sizes = [os.fstat(stream.fileno()).st_size for stream in streams]
        yield struct.pack(f">{len(sizes)}Q", *sizes)
        for stream in streams:
            while piece := stream.read(PIECE_BYTES):
                if stopping():
                    raise OutputError("the appliance is stopping; this scan is not collected")
                yield piece


def _unpack(pieces: Iterator[bytes], label: str, stack: ExitStack) -> list[Path]:
    """Write the files of a scan to memory; their paths are valid while the stack is open."""
    sizes = [size for (size,) in struct.iter_unpack(">Q", next(pieces, b""))]
    paths: list[Path] = []
    piece = memoryview(b"")
    for size in sizes:
        descriptor = os.memfd_create("scan")
        stream = stack.enter_context(os.fdopen(descriptor, "wb", buffering=0))
        left = size
        while left:
            piece = piece or memoryview(next(pieces, b""))
            if not piece:
                raise _odd(label)
            n_written = stream.write(piece[:left])
            left, piece = left - n_written, piece[n_written:]
        # Not /proc/self: a reader may ask another process of ours to try the file first.
        paths.append(Path(f"/proc/{os.getpid()}/fd/{descriptor}"))
    # Only now is it known that nothing is missing.
    if not paths or piece or next(pieces, None) is not None:
        raise _odd(label)
    return paths


def _odd(label: str) -> SealError:
    return SealError(f"the collected scan {label} is not as long as it says; remove it")
