"""Read and write the `.ldmpir` container: strict on the way in, atomic on the way out.

Three digests chain together: `manifest.sha256` covers the manifest, the manifest covers every
other entry, and the signature, where there is one, covers the manifest. Header bytes are held to
one form (`ldmpir_edge.bundle.layout`), so that no byte of the file can change unseen.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.bundle.layout import (
    END_SIZE,
    MAX_BUNDLE_BYTES,
    MAX_ENTRIES,
    LayoutError,
    StoredEntry,
    directory_start,
    pack_directory,
    parse_directory,
)
from ldmpir_edge.bundle.manifest import Manifest, parse_manifest
from ldmpir_edge.bundle.schema import EntrySpec
from ldmpir_edge.bundle.signing import SIGNATURE_BYTES, Trust, sign, verify
from ldmpir_edge.errors import BundleError, BundleTamperedError

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.sha256"
SIGNATURE = "signature.ed25519"
MAX_MANIFEST_BYTES = 4 * 2**20

_RESERVED = (MANIFEST, MANIFEST_DIGEST, SIGNATURE)
_LOCAL_MAGIC = b"PK\x03\x04"


class Archive:
    """An opened bundle: structure, manifest and signature are checked, contents when read.

    No file handle is held, so an archive may be shared between threads.

    Parameters
    ----------
    path
        The `.ldmpir` file.

    Attributes
    ----------
    path : Path
    manifest : Manifest
    digest : str
        SHA-256 of the manifest: the identity of the bundle's whole content.
    trust : Trust
        Who signed it.

    Raises
    ------
    BundleTamperedError
        A byte is not what the digests, the signature or the container's form demand.
    BundleVersionError
        The manifest's version is not known here.
    BundleError
        The file is absent, unreadable, not a bundle, or its manifest is invalid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: bytes | None = None
        self._entries = {entry.name: entry for entry in self._read_structure()}
        data = self._content(MANIFEST, MAX_MANIFEST_BYTES)
        self.digest = hashlib.sha256(data).hexdigest()
        # The digest entry has the form of sha256sum, for those who check it by hand.
        wanted = _digest_line(self.digest)
        if self._content(MANIFEST_DIGEST, len(wanted)) != wanted:
            raise self._tampered("the manifest does not match its digest")
        # Parsed before the signature is judged: a newer version may sign in another way, and
        # its reader should be told to upgrade, not that the bundle is damaged.
        self.manifest: Manifest = parse_manifest(data, str(path))
        self._check_table()
        signature = None
        if SIGNATURE in self._entries:
            signature = self._content(SIGNATURE, SIGNATURE_BYTES)
        self.trust: Trust = verify(data, signature, str(path))

    def read(self, name: str) -> bytes:
        """Answer the content of one entry after checking its hash.

        Raises
        ------
        BundleTamperedError
            The content differs from the manifest's hash.
        BundleError
            The manifest lists no such entry.
        """
        spec = self.manifest.entries.get(name)
        if spec is None:
            raise BundleError(f"{self.path} has no entry {name}; see: ldmpir-edge inspect")
        data = self._content(name, spec.size)
        if hashlib.sha256(data).hexdigest() != spec.sha256:
            raise self._tampered(f"entry {name} does not match its hash")
        return data

    def hold(self) -> None:
        """Read the file into memory: what becomes of it afterwards changes nothing here.

        Raises
        ------
        BundleError
            It cannot be read any more.
        """
        self._held = self._whole()

    def save(self, target: Path) -> None:
        """Write a copy of the file, as it is held if it is.

        Raises
        ------
        BundleError
            It cannot be read any more.
        OutputError
            `target` cannot be written.
        """
        data = self._held or self._whole()
        with atomic_file(target) as temporary:
            temporary.write_bytes(data)

    def verify_all(self) -> None:
        """Check the hash of every entry.

        Raises
        ------
        BundleTamperedError
            One differs; the message names it.
        """
        for name in self.manifest.entries:
            self.read(name)

    def _read_structure(self) -> tuple[StoredEntry, ...]:
        with self._read_errors():
            if not self.path.is_file():
                raise BundleError(f"bundle {self.path} is not a file; give the path of a .ldmpir")
            with self.path.open("rb") as file:
                return self._parse_structure(file)

    def _whole(self) -> bytes:
        with self._read_errors():
            return self.path.read_bytes()

    @contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise BundleError(f"cannot read bundle {self.path}: {err.strerror}") from err

    def _parse_structure(self, file: BinaryIO) -> tuple[StoredEntry, ...]:
        size = file.seek(0, os.SEEK_END)
        if size > MAX_BUNDLE_BYTES:
            raise BundleError(f"{self.path} has {size} bytes; at most {MAX_BUNDLE_BYTES} allowed")
        head, tail = _at(file, 0, 4), _at(file, max(0, size - END_SIZE), END_SIZE)
        if head != _LOCAL_MAGIC and not tail.startswith(b"PK\x05\x06"):
            raise BundleError(f"{self.path} is not an .ldmpir bundle; give the path of one")
        try:
            if len(tail) < END_SIZE:
                raise LayoutError("the end of the file is missing")
            start = directory_start(tail, size)
            entries = parse_directory(_at(file, start, size - start), start)
        except LayoutError as err:
            raise self._tampered(str(err)) from err
        for entry in entries:
            header = entry.local_header
            if _at(file, entry.offset, len(header)) != header:
                raise self._tampered(f"the header of entry {entry.name} differs")
        return entries

    def _content(self, name: str, limit: int) -> bytes:
        entry = self._entries.get(name)
        if entry is None:
            raise self._tampered(f"it lacks {name}")
        if entry.size > limit:
            raise self._tampered(f"{name} has {entry.size} bytes; at most {limit} are allowed")
        if self._held is not None:
            data = self._held[entry.data_offset : entry.data_offset + entry.size]
        else:
            with self._read_errors(), self.path.open("rb") as file:
                data = _at(file, entry.data_offset, entry.size)
        if len(data) != entry.size or zlib.crc32(data) != entry.crc32:
            raise self._tampered(f"entry {name} does not match its checksum")
        return data

    def _check_table(self) -> None:
        listed = self.manifest.entries
        found = self._entries.keys() - set(_RESERVED)
        if found != listed.keys():
            odd = sorted(found ^ listed.keys())
            raise self._tampered(f"files and manifest disagree on {', '.join(odd[:4])}")
        for name, spec in listed.items():
            if self._entries[name].size != spec.size:
                raise self._tampered(f"entry {name} has another size than the manifest says")

    def _tampered(self, why: str) -> BundleTamperedError:
        return BundleTamperedError(
            f"{self.path} is damaged or was changed: {why}; fetch or export the bundle again"
        )


def describe_entries(files: Mapping[str, bytes]) -> dict[str, EntrySpec]:
    """Hash files for the manifest's `entries`.

    Parameters
    ----------
    files
        Content by entry name.
    """
    return {
        name: EntrySpec(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for name, data in sorted(files.items())
    }


def write_bundle(
    path: Path,
    manifest: Manifest,
    files: Mapping[str, bytes],
    signing_key: Ed25519PrivateKey | None = None,
) -> None:
    """Write a bundle; the same arguments give the same bytes.

    The file appears under its name only when complete.

    Parameters
    ----------
    path
        Where to write; replaced if it exists.
    manifest
        Its `entries` must be `describe_entries(files)`.
    files
        Content by entry name.
    signing_key
        Signs the manifest; without it the bundle is unsigned.

    Raises
    ------
    BundleError
        `manifest.entries` and `files` disagree, a name is reserved, or a limit is exceeded.
    OutputError
        The file cannot be written.
    """
    if describe_entries(files) != dict(manifest.entries):
        raise BundleError("the manifest's entries are not those of the files; describe them again")
    if clash := sorted(set(_RESERVED) & files.keys()):
        raise BundleError(f"entry names {clash} are reserved; rename the files")
    data = manifest.to_bytes()
    contents = {MANIFEST: data, MANIFEST_DIGEST: _digest_line(hashlib.sha256(data).hexdigest())}
    if signing_key is not None:
        contents[SIGNATURE] = sign(data, signing_key)
    contents.update(sorted(files.items()))
    total = sum(map(len, contents.values()))
    if len(data) > MAX_MANIFEST_BYTES or len(contents) > MAX_ENTRIES or total > MAX_BUNDLE_BYTES:
        raise BundleError(
            f"a bundle of {len(contents)} entries and {total} bytes exceeds the limits "
            f"({MAX_ENTRIES}, {MAX_BUNDLE_BYTES}); export fewer variants"
        )
    with atomic_file(path) as temporary:
        _write(temporary, contents)
        # Others than the exporter install and read it.
        temporary.chmod(0o644)


def _write(path: Path, contents: Mapping[str, bytes]) -> None:
    with path.open("wb") as file:
        entries: list[StoredEntry] = []
        for entry_name, data in contents.items():
            offset = entries[-1].end if entries else 0
            entries.append(StoredEntry(entry_name, zlib.crc32(data), len(data), offset))
            file.write(entries[-1].local_header)
            file.write(data)
        file.write(pack_directory(entries))


def _digest_line(digest: str) -> bytes:
    return f"{digest}  {MANIFEST}\n".encode()


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
