"""Write a file or a folder so that it appears complete or not at all.

The content goes to a temporary neighbour of the target, is flushed to the disk and takes the
target's name by a rename within one file system. An interruption at any moment leaves either
the old content or the new, and no temporary.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ldmpir_edge.errors import OutputError

TEMPORARY_PREFIX = ".ldmpir-"
"""Start of the names of temporaries; a killed process may leave one, and it is safe to delete."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY)


@contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn every `OSError` raised inside into an `OutputError` that names `target`.

    Raises
    ------
    OutputError
        The disk is full, permission is missing, a file stands where a folder is needed, or the
        system refused for another reason, which the message gives.
    """
    try:
        yield
    except OSError as err:
        raise OutputError(f"cannot write {target}: {_explain(err)}") from err


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Give a temporary path to write; it becomes `target` when the block ends well.

    Parameters
    ----------
    target
        The file to create or replace. Its folder must exist. The temporary keeps the name's
        suffixes, since libraries choose a format by them.

    Raises
    ------
    OutputError
        As `output_errors`, or `target` is a folder. The old content of `target` is untouched.
    """
    temporary = _neighbour(target)
    try:
        with output_errors(target):
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            yield temporary
            flush_file(temporary)
            temporary.replace(target)
            flush_folder(target.parent)
    finally:
        # What stopped the block may stop this too, and is the error worth reporting.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes `target` when the block ends well.

    Parameters
    ----------
    target
        The folder to create or replace; a caller that must not replace a folder checks before.

    Raises
    ------
    OutputError
        As `output_errors`, or `target` is a file. The old content of `target` is untouched.
    """
    temporary, retired = _neighbour(target), _neighbour(target)
    try:
        with output_errors(target):
            if target.exists() and not target.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            temporary.mkdir()
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_dir():
                    flush_folder(path)
                else:
                    flush_file(path)
            flush_folder(temporary)
            _swap(temporary, target, retired)
            flush_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents where they are missing.

    Raises
    ------
    OutputError
        As `output_errors`: permission, or a file in the way.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def flush_file(path: Path) -> None:
    """Bring the content of a file to the disk."""
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    if os.name != "posix":  # Windows can neither open nor flush a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _neighbour(target: Path) -> Path:
    # The stem is left out: a name near the file system's limit has no room for a prefix.
    suffixes = "".join(target.suffixes[-2:]) if target.suffix == ".gz" else target.suffix
    return target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{suffixes}"


def _swap(new: Path, target: Path, retired: Path) -> None:
    # No system call replaces a folder that is not empty: the old one steps aside first, and
    # comes back should the second rename fail.
    replacing = target.exists()
    if replacing:
        target.rename(retired)
    try:
        new.rename(target)
    except BaseException:
        if replacing:
            retired.rename(target)
        raise


def _explain(err: OSError) -> str:
    if err.errno in _FULL:
        return "the disk is full; free space there or choose another folder with -o"
    if err.errno in _FORBIDDEN:
        return "permission denied; choose a folder that you may write with -o"
    if err.errno in _IN_THE_WAY:
        return (
            f"{err.strerror or 'something is in the way'}; "
            "move what stands there or choose another folder with -o"
        )
    if err.errno == errno.ENOENT:
        return "its folder does not exist; create it or choose another folder with -o"
    reason = " ".join((err.strerror or str(err) or type(err).__name__).split())
    return f"{reason}; check the disk or choose another folder with -o"
