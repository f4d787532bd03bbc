"""The container: round trip, foreign readers, and files that were made to hurt."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from toy_bundle import toy_files, toy_manifest

from ldmpir_edge.bundle import Archive, Bundle, generate_key, load_signing_key, write_bundle
from ldmpir_edge.bundle.layout import MAX_ENTRIES
from ldmpir_edge.errors import (
    BundleError,
    BundleTamperedError,
    BundleVersionError,
    OutputError,
)


def _contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as container:
        return {name: container.read(name) for name in container.namelist()}


def _rezip(path: Path, contents: list[tuple[str, bytes]], compression: int = 0) -> None:
    """Write as any zip tool would."""
    with zipfile.ZipFile(path, "w", compression) as container:
        for name, data in contents:
            container.writestr(zipfile.ZipInfo(name), data, compression)


def _with_manifest(path: Path, manifest: bytes) -> Path:
    """Replace the manifest and its digest, and keep the container in the allowed form."""
    from ldmpir_edge.bundle.archive import _write

    contents = _contents(path)
    contents["manifest.json"] = manifest
    digest = hashlib.sha256(manifest).hexdigest()
    contents["manifest.sha256"] = f"{digest}  manifest.json\n".encode()
    _write(path, contents)
    return path


def test_what_was_written_is_read(bundle_path: Path) -> None:
    files = toy_files()
    archive = Archive(bundle_path)
    archive.verify_all()
    assert {name: archive.read(name) for name in files} == files
    assert archive.manifest == toy_manifest(files)


def test_zipfile_and_sha256sum_agree_with_the_reader(bundle_path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle_path) as container:
        assert container.testzip() is None
        assert {info.compress_type for info in container.infolist()} == {zipfile.ZIP_STORED}
        container.extractall(tmp_path / "out")
    for name, data in toy_files().items():
        assert (tmp_path / "out" / name).read_bytes() == data
    subprocess.run(
        ["sha256sum", "--check", "--strict", "manifest.sha256"],
        cwd=tmp_path / "out",
        check=True,
        capture_output=True,
    )


def test_the_same_content_gives_the_same_bytes(bundle_path: Path, tmp_path: Path) -> None:
    files = dict(reversed(toy_files().items()))
    write_bundle(tmp_path / "again.ldmpir", toy_manifest(files), files)
    assert (tmp_path / "again.ldmpir").read_bytes() == bundle_path.read_bytes()


@pytest.mark.parametrize("signed", [False, True])
def test_any_flipped_byte_is_refused(
    tmp_path: Path, signed: bool, rng: np.random.Generator
) -> None:
    files = toy_files()
    key = load_signing_key(_key(tmp_path)) if signed else None
    path = tmp_path / "toy.ldmpir"
    write_bundle(path, toy_manifest(files), files, key)
    good = path.read_bytes()
    Bundle(path)
    # Every byte of the two ends, where the headers and the directory are, and a sample between.
    ends = {*range(120), *range(len(good) - 700, len(good))}
    between = rng.choice(len(good), 400, replace=False).tolist()
    for position in sorted(ends.union(between)):
        changed = bytearray(good)
        changed[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(BundleTamperedError):
            Bundle(path)


def _key(folder: Path) -> Path:
    generate_key(folder / "key.pem")
    return folder / "key.pem"


def test_a_truncated_file_is_refused(bundle_path: Path) -> None:
    good = bundle_path.read_bytes()
    for length in (4, 21, 22, 100, len(good) // 2, len(good) - 22, len(good) - 1):
        bundle_path.write_bytes(good[:length])
        with pytest.raises(BundleTamperedError, match="damaged"):
            Bundle(bundle_path)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_another_kind_of_file_is_no_bundle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scan.h5"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"not an \.ldmpir bundle") as caught:
        Bundle(path)
    assert caught.type is BundleError


def test_a_folder_or_nothing_is_no_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.ldmpir"):
        with pytest.raises(BundleError, match="not a file"):
            Bundle(path)


def test_bytes_before_or_after_are_refused(bundle_path: Path) -> None:
    good = bundle_path.read_bytes()
    # zipfile accepts both, as self-extracting archives need.
    for content in (b"#!/bin/sh\n" + good, good + b"\0", good + bytes(22)):
        bundle_path.write_bytes(content)
        with pytest.raises(BundleError):
            Bundle(bundle_path)


def test_a_zip_comment_is_refused(bundle_path: Path) -> None:
    with zipfile.ZipFile(bundle_path, "a") as container:
        container.comment = b"hello"
    with pytest.raises(BundleTamperedError):
        Bundle(bundle_path)


def test_deflated_entries_are_refused(bundle_path: Path) -> None:
    contents = _contents(bundle_path)
    contents["graphs/pointwise-1-fp32.onnx"] = bytes(10_000_000)
    _rezip(bundle_path, list(contents.items()), zipfile.ZIP_DEFLATED)
    assert bundle_path.stat().st_size < 100_000
    with pytest.raises(BundleTamperedError, match="compressed"):
        Bundle(bundle_path)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "graphs/../../evil", "a\\b", "C:evil", ".hidden", "x/", "é"]
)
def test_names_that_leave_the_folder_are_refused(bundle_path: Path, name: str) -> None:
    contents = _contents(bundle_path)
    _rezip(bundle_path, [*contents.items(), (name, b"evil")])
    with pytest.raises(BundleTamperedError, match="unsafe entry"):
        Bundle(bundle_path)


@pytest.mark.parametrize("name", ["manifest.json", "MANIFEST.json"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_doubled_name_is_refused(bundle_path: Path, name: str) -> None:
    contents = _contents(bundle_path)
    _rezip(bundle_path, [*contents.items(), (name, b"{}")])
    with pytest.raises(BundleTamperedError, match="twice"):
        Bundle(bundle_path)


def test_entries_that_share_bytes_are_refused(bundle_path: Path) -> None:
    """The quoted-overlap zip bomb: two directory records point at one entry."""
    from ldmpir_edge.bundle.layout import pack_directory, parse_directory

    good = bundle_path.read_bytes()
    start = int.from_bytes(good[-6:-2], "little")
    entries = list(parse_directory(good[start:], start))
    entries[2] = entries[1].__class__("copy", entries[1].crc32, entries[1].size, entries[1].offset)
    bundle_path.write_bytes(good[:start] + pack_directory(entries))
    with pytest.raises(BundleTamperedError, match="overlaps"):
        Bundle(bundle_path)


def test_claimed_sizes_are_not_believed(bundle_path: Path) -> None:
    good = bundle_path.read_bytes()
    start = int.from_bytes(good[-6:-2], "little")
    for field in (20, 24):  # compressed and plain size of the first directory record
        changed = bytearray(good)
        changed[start + field : start + field + 4] = (2**32 - 2).to_bytes(4, "little")
        bundle_path.write_bytes(changed)
        with pytest.raises(BundleTamperedError):
            Bundle(bundle_path)


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.ldmpir"
    _rezip(path, [(f"f{i}", b"") for i in range(MAX_ENTRIES + 1)])
    with pytest.raises(BundleTamperedError, match=f"at most {MAX_ENTRIES}"):
        Bundle(path)


def test_a_huge_manifest_is_refused_unread(bundle_path: Path) -> None:
    _with_manifest(bundle_path, b" " * (4 * 2**20 + 1))
    with pytest.raises(BundleTamperedError, match="at most 4194304"):
        Bundle(bundle_path)


def test_files_that_the_manifest_does_not_list_are_refused(bundle_path: Path) -> None:
    from ldmpir_edge.bundle.archive import _write

    contents = _contents(bundle_path)
    _write(bundle_path, {**contents, "extra.bin": b"x"})
    with pytest.raises(BundleTamperedError, match=r"extra\.bin"):
        Bundle(bundle_path)
    del contents["graphs/weights-fp32.bin"]
    _write(bundle_path, contents)
    with pytest.raises(BundleTamperedError, match="weights-fp32"):
        Bundle(bundle_path)


def test_swapped_content_of_the_same_size_is_named(bundle_path: Path) -> None:
    from ldmpir_edge.bundle.archive import _write

    contents = _contents(bundle_path)
    contents["graphs/weights-fp32.bin"] = bytes(16)
    _write(bundle_path, contents)
    with pytest.raises(BundleTamperedError, match=r"graphs/weights-fp32\.bin"):
        Bundle(bundle_path)
    # The manifest alone can still be looked at, to say what the file claims to be.
    assert Archive(bundle_path).manifest.model.id == "toy"


def test_an_unknown_version_says_how_to_upgrade(bundle_path: Path) -> None:
    plain = json.loads(_contents(bundle_path)["manifest.json"])
    for version in (2, 0, "1", True, None):
        plain["manifest_version"] = version
        plain["from_the_future"] = 1
        _with_manifest(bundle_path, json.dumps(plain).encode())
        with pytest.raises(BundleVersionError, match="pip install -U ldmpir-edge"):
            Bundle(bundle_path)


def test_writing_into_a_missing_or_forbidden_folder_is_an_output_error(tmp_path: Path) -> None:
    files = toy_files()
    with pytest.raises(OutputError, match="does not exist"):
        write_bundle(tmp_path / "absent" / "a.ldmpir", toy_manifest(files), files)


def test_a_failed_write_leaves_the_old_bundle_and_no_rest(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = bundle_path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    files = toy_files()
    with pytest.raises(OutputError, match="disk is full"):
        write_bundle(bundle_path, toy_manifest(files), files)
    assert bundle_path.read_bytes() == good
    assert [path.name for path in bundle_path.parent.iterdir()] == [bundle_path.name]


def test_the_writer_refuses_a_manifest_of_other_files(tmp_path: Path) -> None:
    files = toy_files()
    manifest = toy_manifest(files)
    files["graphs/weights-fp32.bin"] = bytes(16)
    with pytest.raises(BundleError, match="describe them again"):
        write_bundle(tmp_path / "a.ldmpir", manifest, files)


def test_the_writer_refuses_reserved_names(tmp_path: Path) -> None:
    files = {**toy_files(), "signature.ed25519": bytes(96)}
    with pytest.raises(BundleError, match="reserved"):
        write_bundle(tmp_path / "a.ldmpir", toy_manifest(files), files)
