"""Whatever is wrong with a file or a disk: one line, its own exit code, nothing half-written."""

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import ldmpir_edge, ldmpir_edge_process
from small_scans import write_dicom, write_fastmri, write_ismrmrd, write_sinogram
from toy_bundle import toy_files, toy_manifest

from ldmpir_edge.bundle import find_bundle, write_bundle
from ldmpir_edge.bundle.archive import MANIFEST, MANIFEST_DIGEST
from ldmpir_edge.bundle.layout import StoredEntry, pack_directory

FORMAT_ERROR, DATA_ERROR, SIZE_ERROR = 11, 12, 14
BUNDLE_ERROR, TAMPERED, UNKNOWN_VERSION = 20, 21, 22
OUTPUT_ERROR = 30
ALL_FORMATS = "dicom,h5,nii,npy,png"

Damage = Callable[[Path], None]


@pytest.fixture(scope="session", autouse=True)
def _private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDMPIR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


def truncate(path: Path, *, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def overwrite(path: Path, *, data: bytes) -> None:
    path.write_bytes(data)


def drop(path: Path, *, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]


def poison(path: Path, *, name: str, value: float) -> None:
    with h5py.File(path, "r+") as file:
        values = file[name][()]
        values.flat[values.size // 2] = value
        file[name][...] = values


def replace_dataset(path: Path, *, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with h5py.File(path, "r+") as file:
        values = change(file[name][()])
        del file[name]
        file[name] = values


def save_npy(path: Path, *, array: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.save(stream, array)


def no_coils(values: np.ndarray) -> np.ndarray:
    return values[:, :0]


def nothing_sampled(values: np.ndarray) -> np.ndarray:
    return np.zeros_like(values)


WRITERS = {
    "fastmri": write_fastmri,
    "ismrmrd": lambda path: write_ismrmrd(path, np.random.default_rng(0)),
    "sinogram": write_sinogram,
    "dicom": lambda path: write_dicom(path, np.random.default_rng(0)),
    "npy": lambda path: save_npy(path, array=np.eye(32, dtype=np.float32)),
}

BAD_SCANS: list[tuple[str, Damage, int, str]] = [
    ("fastmri", partial(truncate, share=0.5), FORMAT_ERROR, "truncated"),
    ("ismrmrd", partial(truncate, share=0.9), FORMAT_ERROR, "truncated"),
    ("sinogram", partial(truncate, share=0.3), FORMAT_ERROR, "truncated"),
    ("dicom", partial(truncate, share=0.7), FORMAT_ERROR, "copy the file again"),
    ("npy", partial(truncate, share=0.6), FORMAT_ERROR, "truncated"),
    ("fastmri", partial(overwrite, data=b""), FORMAT_ERROR, "empty"),
    ("fastmri", partial(overwrite, data=b"not a scan " * 99), FORMAT_ERROR, "HDF5"),
    ("fastmri", partial(overwrite, data=b"\x89HDF\r\n\x1a\n" + bytes(999)), FORMAT_ERROR, ""),
    ("fastmri", partial(drop, name="kspace"), FORMAT_ERROR, "kspace"),
    ("ismrmrd", partial(drop, name="dataset/xml"), FORMAT_ERROR, "xml"),
    ("ismrmrd", partial(drop, name="dataset/data"), FORMAT_ERROR, "data"),
    ("sinogram", partial(drop, name="angles_rad"), FORMAT_ERROR, "angles_rad"),
    ("sinogram", partial(drop, name="sinogram"), FORMAT_ERROR, "sinogram"),
    ("fastmri", partial(poison, name="kspace", value=np.nan), DATA_ERROR, "NaN"),
    ("fastmri", partial(poison, name="kspace", value=np.inf), DATA_ERROR, "infinite"),
    ("sinogram", partial(poison, name="sinogram", value=np.nan), DATA_ERROR, "NaN"),
    ("sinogram", partial(poison, name="sinogram", value=-np.inf), DATA_ERROR, "infinite"),
    ("sinogram", partial(poison, name="angles_rad", value=np.nan), DATA_ERROR, "angles_rad"),
    (
        "fastmri",
        partial(replace_dataset, name="kspace", change=no_coils),
        DATA_ERROR,
        "coils",
    ),
    (
        "fastmri",
        partial(replace_dataset, name="mask", change=nothing_sampled),
        DATA_ERROR,
        "mask",
    ),
    (
        "fastmri",
        partial(replace_dataset, name="kspace", change=nothing_sampled),
        DATA_ERROR,
        "zero",
    ),
    (
        "npy",
        partial(save_npy, array=np.ones((1500, 32), np.float32)),
        SIZE_ERROR,
        "takes 16 to 1024",
    ),
    (
        "npy",
        partial(save_npy, array=np.full((32, 32), np.nan, np.float32)),
        DATA_ERROR,
        "NaN",
    ),
]


@pytest.mark.parametrize(("kind", "damage", "code", "word"), BAD_SCANS)
def test_a_bad_scan_is_refused(tmp_path, kind, damage, code, word):
    path, out = tmp_path / "scan", tmp_path / "out"
    WRITERS[kind](path)
    damage(path)
    finished = ldmpir_edge("run", path, "-o", out, "--format", ALL_FORMATS)
    finished.assert_refused(code, word, str(path) if code != SIZE_ERROR else "")
    assert not out.exists()


def test_no_such_scan(tmp_path):
    ldmpir_edge("run", tmp_path / "none.h5").assert_refused(10, "none.h5", "no such file")
    (tmp_path / "folder").mkdir()
    ldmpir_edge("run", tmp_path / "folder").assert_refused(FORMAT_ERROR, "empty")


def test_a_second_scan_that_is_bad_leaves_the_first_one_s_output(tmp_path):
    first, second, out = tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "out"
    write_fastmri(first)
    write_fastmri(second)
    truncate(second)
    finished = ldmpir_edge("run", first, second, "-o", out, "--format", "npy")
    finished.assert_refused(FORMAT_ERROR, str(second))
    assert [path.name for path in out.iterdir()] == ["a.npy"]


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.h5"
    write_fastmri(path)
    return path


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_bundle_with_one_flipped_byte_is_refused(scan, tmp_path, share):
    path = tmp_path / "bad.ldmpir"
    data = bytearray(find_bundle("ldmpir-2m").read_bytes())
    data[int(len(data) * share)] ^= 0x01
    path.write_bytes(data)
    finished = ldmpir_edge("run", scan, "--bundle", path, "-o", tmp_path / "out")
    finished.assert_refused(TAMPERED, "bad.ldmpir", "fetch or export the bundle again")
    assert not (tmp_path / "out").exists()


def test_a_truncated_bundle_is_refused(scan, tmp_path):
    path = tmp_path / "bad.ldmpir"
    shutil.copy(find_bundle("ldmpir-2m"), path)
    truncate(path)
    ldmpir_edge("run", scan, "--bundle", path).assert_refused(TAMPERED, "bad.ldmpir")
    path.write_bytes(b"anything")
    ldmpir_edge("run", scan, "--bundle", path).assert_refused(BUNDLE_ERROR, "bad.ldmpir")


def test_a_manifest_of_a_later_release_is_refused(scan, tmp_path):
    path = tmp_path / "later.ldmpir"
    files = toy_files()
    write_bundle(path, toy_manifest(files), files)
    rewrite_manifest(path, {"manifest_version": 99})
    finished = ldmpir_edge("run", scan, "--bundle", path, "-o", tmp_path / "out")
    finished.assert_refused(UNKNOWN_VERSION, "99", "pip install -U ldmpir-edge")
    ldmpir_edge("inspect", path).assert_refused(UNKNOWN_VERSION)


def rewrite_manifest(path: Path, changes: dict[str, object]) -> None:
    """Change a manifest as a later release would: digest, checksums and directory are right."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    data = json.dumps(json.loads(contents[MANIFEST]) | changes).encode()
    contents[MANIFEST] = data
    contents[MANIFEST_DIGEST] = f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n".encode()
    entries: list[StoredEntry] = []
    body = b""
    for name, content in contents.items():
        entries.append(StoredEntry(name, zlib.crc32(content), len(content), len(body)))
        body += entries[-1].local_header + content
    path.write_bytes(body + pack_directory(entries))


def test_a_file_in_the_place_of_the_output_folder(scan, tmp_path):
    out = tmp_path / "out"
    out.write_text("mine")
    finished = ldmpir_edge("run", scan, "-o", out, "--format", ALL_FORMATS)
    finished.assert_refused(OUTPUT_ERROR, str(out), "-o")
    assert out.read_text() == "mine"


@pytest.mark.parametrize("command", ["run", "sample"])
def test_an_output_folder_without_permission(scan, tmp_path, command, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    refuse_writes_below(out, monkeypatch)
    given = (scan, "--format", ALL_FORMATS) if command == "run" else ("dicom",)
    ldmpir_edge(command, *given, "-o", out).assert_refused(OUTPUT_ERROR, "permission denied")
    assert list(out.iterdir()) == []


def refuse_writes_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the system calls answer as they do to a user without rights; root would pass chmod."""
    real_open, real_mkdir, real_io_open = builtins.open, os.mkdir, io.open

    def refuse(path: object) -> None:
        if str(path).startswith(f"{folder}{os.sep}"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def guarded(real):
        def call(path, *args, **kwargs):
            mode = args[0] if args and isinstance(args[0], str) else kwargs.get("mode", "r")
            if real is real_mkdir or set(str(mode)) & set("wax+"):
                refuse(path)
            return real(path, *args, **kwargs)

        return call

    monkeypatch.setattr(builtins, "open", guarded(real_open))
    monkeypatch.setattr(io, "open", guarded(real_io_open))
    monkeypatch.setattr(os, "mkdir", guarded(real_mkdir))


def test_the_scan_itself_is_never_replaced(tmp_path):
    scan = tmp_path / "scan.h5"
    write_fastmri(scan)
    before = scan.read_bytes()
    finished = ldmpir_edge("run", scan, "-o", tmp_path, "--format", "h5")
    finished.assert_refused(OUTPUT_ERROR, "would replace the scan")
    assert scan.read_bytes() == before


FULL_DISK = """
import resource, signal
import onnxruntime
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX's")
@pytest.mark.parametrize("name", ["dicom", "h5", "nii", "npy", "png", "viewer"])
def test_a_disk_that_takes_no_more_bytes(scan, tmp_path, name):
    # The cache is warm, so that only the output meets the limit, as it would a full disk.
    out = tmp_path / "out"
    warm = ldmpir_edge("run", scan, "-o", tmp_path / "warm", "--backend", "onnxruntime")
    assert warm.code == 0
    finished = ldmpir_edge_process(
        "run", scan, "-o", out, "--format", name, "--backend", "onnxruntime",
        before=FULL_DISK.format(size=200),
    )  # fmt: skip
    finished.assert_refused(OUTPUT_ERROR, "File too large", "-o")
    assert not out.exists()


@pytest.mark.parametrize(
    ("damage", "code"),
    [(partial(truncate, share=0.5), FORMAT_ERROR), (partial(overwrite, data=b""), FORMAT_ERROR)],
)
def test_the_process_itself_ends_with_the_code(scan, tmp_path, damage, code):
    damage(scan)
    finished = ldmpir_edge_process("run", scan, "-o", tmp_path / "out", "--json")
    finished.assert_refused(code, str(scan))
