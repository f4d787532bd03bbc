"""Engines in a bundle: those compiled ahead of time, and the recipe for compiling on the device.

Each engine of TensorRT holds the weights once more. All engines of a bundle therefore lie behind
one another in one xz stream (the "pack"), whose dictionary is wide enough to find the weights of
the engine before: five engines of 79 MB take 4.8 MB. Hashes, offsets and sizes are in the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from ldmpir_edge.bundle.schema import EntryName, Frozen, Precision, Sha256, Word
from ldmpir_edge.errors import BundleError, BundleTamperedError
from ldmpir_edge.physics.problem import Family

MAX_PACK_BYTES = 2**30
"""Engines of one pack, unpacked: no manifest can make a reader fill the machine's memory."""

_DICTIONARY_BYTES = 64 * 2**20
_MEMORY_BYTES = 2 * _DICTIONARY_BYTES

ComputeCapability = Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]


class TypicalScan(Frozen):
    """The scan that engines are tuned for, among all the sizes that they take.

    Pixels of the padded grid, receive channels, and for a fan beam projections and detectors.
    """

    height: PositiveInt = 256
    width: PositiveInt = 256
    coils: PositiveInt = 8
    views: PositiveInt = 60
    detectors: PositiveInt = 384


class BuildRecipe(Frozen):
    """How engines are compiled on the device; a bundle without one is compiled by the defaults.

    `backend` is the library that the bundle was made for; `workspace_mib` what it may use while
    it tunes, None for all there is; with `timing_cache` the times it measured for one engine
    serve the next.
    """

    backend: Word = "tensorrt"
    typical: TypicalScan = TypicalScan()
    workspace_mib: PositiveInt | None = None
    timing_cache: bool = True


class EngineSpec(Frozen):
    """One engine that was compiled ahead of time.

    `family`, `n_steps` and `precision` name the variant; `platform` (`linux-x86_64`), `version`
    of the library and `compute_capabilities` (`8.9`) say where it runs. `validity` is what the
    library's own check said where it was exported: `valid`, `suboptimal`, or `unchecked` where
    there was no GPU of that kind to ask. The engine is the `size` bytes from `offset` on in the
    unpacked `pack`.
    """

    family: Family
    n_steps: PositiveInt
    precision: Precision
    backend: Word
    version: Word
    platform: Word
    compute_capabilities: Annotated[tuple[ComputeCapability, ...], Field(min_length=1)]
    validity: Word
    pack: EntryName
    offset: NonNegativeInt
    size: PositiveInt
    sha256: Sha256


def pack_engines(engines: Iterable[bytes]) -> bytes:
    """Compress engines behind one another; similar ones are best neighbours."""
    import lzma

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": _DICTIONARY_BYTES}]
    compressor = lzma.LZMACompressor(format=lzma.FORMAT_XZ, filters=filters)
    return b"".join(map(compressor.compress, engines)) + compressor.flush()


def unpack_engine(pack: bytes, spec: EngineSpec, source: str) -> bytes:
    """Take one engine out of its pack.

    Parameters
    ----------
    pack
        Content of the entry `spec.pack`.
    spec
        From the manifest.
    source
        The bundle's name, for messages.

    Raises
    ------
    BundleTamperedError
        The pack is not xz or too short, or the engine's hash is not the manifest's.
    BundleError
        The manifest states more than 1 GiB.
    """
    # Only here: some Pythons are built without it, and few bundles need it.
    import lzma

    end = spec.offset + spec.size
    if end > MAX_PACK_BYTES:
        raise BundleError(
            f"{source}: the engines of {spec.pack} would take {end} bytes; at most "
            f"{MAX_PACK_BYTES} are allowed: compile on the device instead"
        )
    try:
        reader = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY_BYTES)
        data = reader.decompress(pack, max_length=end)[spec.offset :]
    except lzma.LZMAError as err:
        raise BundleTamperedError(
            f"{source}: {spec.pack} is not a pack of engines ({err}); export the bundle again"
        ) from err
    if hashlib.sha256(data).hexdigest() != spec.sha256:
        raise BundleTamperedError(
            f"{source}: the {spec.family} engine in {spec.pack} does not match its hash; export "
            "the bundle again"
        )
    return data
