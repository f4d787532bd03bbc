"""Compiled engines between processes, and one compilation at a time.

An engine is machine code that nobody checks when it is loaded, so it is kept under the user's
seal (`runtimes.sealed_cache`): only what this user compiled on this machine comes back. It is
stored under the hash of all that it depends on; another GPU, driver or version of the library is
another name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from ldmpir_edge.atomic import make_folder, output_errors
from ldmpir_edge.bundle import LoadedVariant
from ldmpir_edge.bundle.paths import cache_root, seal_key_file
from ldmpir_edge.runtimes.sealed_cache import SUFFIX, SealedCache
from ldmpir_edge.runtimes.tensorrt.hardware import Gpu
from ldmpir_edge.runtimes.tensorrt.profiles import Profile

MAX_BYTES = 2 * 2**30
"""Space for engines: some hundred of 16 MB."""

_FORMAT = 1


class EngineCache:
    """The engines that were compiled here, of both libraries."""

    def __init__(self) -> None:
        self._folder = cache_root() / "engines"
        self._files = SealedCache(self._folder, seal_key_file(), MAX_BYTES)

    def get(self, name: str) -> bytes | None:
        """Answer what was stored under a name that `engine_name` or `timing_name` made."""
        return self._files.get(name)

    def put(self, name: str, data: bytes) -> bool:
        """Store under a name; answer whether it can be had again."""
        self._files.put(name, data)
        return self._files.get(name) is not None

    def holds_any(self, variant: LoadedVariant, backend: str) -> bool:
        """Answer, by a look at the names, whether there may be an engine of a variant."""
        pattern = f"{_prefix(variant, backend)}*{SUFFIX}"
        return variant.content_sha256 is not None and any(self._folder.glob(pattern))

    @contextmanager
    def one_at_a_time(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Keep other processes of this user from compiling meanwhile: each would time the other.

        Where the system has no `flock` (Windows), they are not kept from it, and lose only time.

        Parameters
        ----------
        on_wait
            Called once if another process is compiling, before waiting for it.

        Raises
        ------
        OutputError
            The cache's folder cannot be written.
        """
        make_folder(self._folder)
        path = self._folder / "compiling.lock"
        with output_errors(path):
            file = path.open("w")
        with file:
            if os.name == "posix":
                _lock(file.fileno(), on_wait)
            yield


def engine_name(
    variant: LoadedVariant, backend: str, version: str, gpu: Gpu, profile: Profile
) -> str:
    """Name an engine by everything that it depends on.

    Parameters
    ----------
    variant
        With `content_sha256`: graph and weights.
    backend, version
        The library.
    gpu, profile
        The device, and the shapes of the inputs.
    """
    return _prefix(variant, backend) + _hash(
        {
            "format": _FORMAT,
            "variant": variant.content_sha256,
            "version": version,
            "gpu": asdict(gpu),
            "profile": profile,
        }
    )


def timing_name(backend: str, version: str, gpu: Gpu) -> str:
    """Name what the library measured on a device, which serves every graph."""
    return f"timing-{backend}-" + _hash({"version": version, "gpu": asdict(gpu)})


def _prefix(variant: LoadedVariant, backend: str) -> str:
    return f"{backend}-{(variant.content_sha256 or '')[:16]}-"


def _hash(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]


def _lock(descriptor: int, on_wait: Callable[[], None]) -> None:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
