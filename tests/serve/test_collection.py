"""Scans kept for fine-tuning: of routes that opt in, sealed, bounded, and never at a job's cost."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from running_appliance import QUICK, running, send, wait
from small_scans import disc, write_dicom, write_fastmri, write_ismrmrd, write_sinogram

from ldmpir_edge import atomic
from ldmpir_edge.errors import OutputError, ScanError, SealError, UsageError
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import ImageScan, KspaceScan, SinogramScan
from ldmpir_edge.serve import collection as collection_module
from ldmpir_edge.serve.appliance import Appliance
from ldmpir_edge.serve.collection import CollectedScans, clean_collection
from ldmpir_edge.serve.config import Collection, load_config
from ldmpir_edge.serve.sealing import new_key, read_key

KEY = bytes(range(32))
DAY_S = 24 * 3600


class Clock:
    now = 1.8e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def collected(tmp_path: Path, clock: Clock, key: bytes = KEY, **bounds: Any) -> CollectedScans:
    return CollectedScans(tmp_path / "collected", Collection(key=Path("key"), **bounds), key, clock)


def no() -> bool:
    return False


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_every_kind_of_scan_comes_back(tmp_path: Path, clock: Clock) -> None:
    rng = np.random.default_rng(5)
    write_fastmri(tmp_path / "a.h5", n_slices=2, acceleration=2)
    write_sinogram(tmp_path / "b.h5")
    write_dicom(tmp_path / "c.dcm", rng)
    write_ismrmrd(tmp_path / "d.h5", rng)
    np.save(tmp_path / "e.npy", disc(48))
    nibabel.save(nibabel.Nifti1Image(disc(48)[..., None], np.eye(4)), tmp_path / "f.nii.gz")
    scans = collected(tmp_path, clock)
    kinds = {"a.h5": KspaceScan, "b.h5": SinogramScan, "c.dcm": ImageScan, "d.h5": KspaceScan}
    for name, kind in (kinds | {"e.npy": ImageScan, "f.nii.gz": ImageScan}).items():
        scans.add("r", [tmp_path / name], no)
        with scans.open("r", scans.names("r")[0]) as got, open_scan(tmp_path / name) as wanted:
            assert isinstance(got, kind)
            assert got.content_sha256 == wanted.content_sha256
            if isinstance(got, KspaceScan) and isinstance(wanted, KspaceScan):
                np.testing.assert_array_equal(got.kspace(0), wanted.kspace(0))
            if isinstance(got, ImageScan) and isinstance(wanted, ImageScan):
                np.testing.assert_array_equal(got.image(0), wanted.image(0))
        clock.now += 1


def test_a_series_of_several_files_comes_back(tmp_path: Path, clock: Clock) -> None:
    rng = np.random.default_rng(5)
    files = []
    for k in range(3):
        write_dicom(tmp_path / f"{k}.dcm", rng)
        ds = pydicom.dcmread(tmp_path / f"{k}.dcm")
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"
        ds.SeriesInstanceUID = "1.2.4"
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [0, 0, 5 * k]
        ds.save_as(tmp_path / f"{k}.dcm")
        files.append(tmp_path / f"{k}.dcm")
    scans = collected(tmp_path, clock)
    scans.add("r", files, no)
    with scans.open("r", scans.names("r")[0]) as got, open_scan(files) as wanted:
        assert isinstance(got, ImageScan)
        assert isinstance(wanted, ImageScan)
        assert got.n_slices == 3
        for k in range(3):
            np.testing.assert_array_equal(got.image(k), wanted.image(k))


def test_what_is_kept_is_its_owners_and_unreadable(tmp_path: Path, clock: Clock) -> None:
    content = os.urandom(5000)
    scans = collected(tmp_path, clock)
    scans.add("r", [write(tmp_path / "Doe^Jane.h5", content)], no)
    (path,) = (tmp_path / "collected" / "r").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    stored = path.read_bytes()
    assert all(content[at : at + 16] not in stored for at in range(0, 4984, 8))
    assert b"Doe" not in stored
    assert "Doe" not in str(path)


@pytest.mark.parametrize("what", ["changed", "cut", "renamed", "moved", "other key", "gone"])
def test_what_is_not_as_it_was_collected_is_refused(
    tmp_path: Path, clock: Clock, what: str
) -> None:
    write_sinogram(tmp_path / "a.h5")
    scans = collected(tmp_path, clock)
    scans.add("r", [tmp_path / "a.h5"], no)
    (name,) = scans.names("r")
    route, path = "r", tmp_path / "collected" / "r" / name
    data = bytearray(path.read_bytes())
    if what == "changed":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif what == "cut":
        path.write_bytes(data[:-1])
    elif what == "renamed":  # to be kept a day longer
        name = f"{int(name[:13]) + DAY_S * 1000:013d}{name[13:]}"
        path.rename(path.with_name(name))
    elif what == "moved":
        route = "other"
        (tmp_path / "collected" / "other").mkdir()
        path.rename(tmp_path / "collected" / "other" / name)
    elif what == "other key":
        scans = collected(tmp_path, clock, bytes(32))
    else:
        path.unlink()
    with pytest.raises(SealError), scans.open(route, name):
        pass


def test_a_scan_that_cannot_be_read_is_named_as_it_is_kept(tmp_path: Path, clock: Clock) -> None:
    scans = collected(tmp_path, clock)
    scans.add("r", [write(tmp_path / "a.h5", b"no scan")], no)
    (name,) = scans.names("r")
    with pytest.raises(ScanError) as caught, scans.open("r", name):
        pass
    assert name in str(caught.value)
    assert "/proc" not in str(caught.value)


def test_the_oldest_go_beyond_the_bounds(tmp_path: Path, clock: Clock) -> None:
    scans = collected(tmp_path, clock, max_scans=3, max_bytes=2500)
    kept: list[str] = []
    for _ in range(5):
        scans.add("r", [write(tmp_path / "a", b"x" * 500)], no)
        kept.insert(0, scans.names("r")[0])
        clock.now += 1
    assert scans.names("r") == kept[:3]
    scans.add("r", [write(tmp_path / "a", b"x" * 1500)], no)
    assert scans.names("r")[1:] == kept[:1]  # two and the new one would be over 2,500 bytes
    held = sum(path.stat().st_size for path in (tmp_path / "collected").rglob("*.sealed"))
    assert held <= 2500
    scans.add("other", [write(tmp_path / "a", b"x")], no)
    assert len(scans.names("r")) == 2
    with pytest.raises(OutputError, match="max_bytes"):
        scans.add("r", [write(tmp_path / "a", b"x" * 2501)], no)


def test_a_scan_as_large_as_the_bound_is_kept(tmp_path: Path, clock: Clock) -> None:
    scans = collected(tmp_path, clock, max_bytes=1000)
    scans.add("r", [write(tmp_path / "a", b"x" * 1000)], no)
    assert len(scans.names("r")) == 1


def test_what_is_too_old_goes(tmp_path: Path, clock: Clock) -> None:
    scans = collected(tmp_path, clock, keep_days=2)
    scans.add("r", [write(tmp_path / "a", b"x")], no)
    clock.now += 1.5 * DAY_S
    scans.add("r", [write(tmp_path / "a", b"x")], no)
    assert len(scans.names("r")) == 2
    clock.now += 0.6 * DAY_S
    scans.prune("r")
    assert len(scans.names("r")) == 1
    clock.now += 1.5 * DAY_S
    scans.prune("r")
    assert scans.names("r") == []


@pytest.mark.parametrize("step", ["write", "rename", "prune"])
def test_a_crash_leaves_no_half_scan_and_nothing_readable(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A child dies at once, as by SIGKILL, between the steps; the next start finds order."""
    content = os.urandom(3 * 2**20)
    source = write(tmp_path / "a", content)
    scans = collected(tmp_path, clock)
    child = os.fork()
    if child == 0:
        if step == "write":
            n_asked = 0

            def stopping() -> bool:
                nonlocal n_asked
                n_asked += 1
                if n_asked == 3:
                    os._exit(9)
                return False

            scans.add("r", [source], stopping)
        elif step == "rename":
            atomic.flush_file = lambda path: os._exit(9)
            scans.add("r", [source], no)
        else:
            CollectedScans.prune = lambda self, route: os._exit(9)  # type: ignore[method-assign]
            scans.add("r", [source], no)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = [path for path in (tmp_path / "collected").rglob("*") if path.is_file()]
    assert len(left) == 1
    stored = left[0].read_bytes()
    assert all(content[at : at + 16] not in stored for at in range(0, len(content), 65536))
    whole = step == "prune"
    assert len(scans.names("r")) == (1 if whole else 0)
    clean_collection(tmp_path / "collected", ["r"])
    left = [path for path in (tmp_path / "collected").rglob("*") if path.is_file()]
    assert len(left) == (1 if whole else 0)


def test_routes_that_collect_no_more_keep_nothing(tmp_path: Path, clock: Clock) -> None:
    scans = collected(tmp_path, clock)
    for route in ("stays", "goes"):
        scans.add(route, [write(tmp_path / "a", b"x")], no)
    clean_collection(tmp_path / "collected", ["stays"])
    assert (len(scans.names("stays")), len(scans.names("goes"))) == (1, 0)
    clean_collection(tmp_path / "collected", [])
    assert list((tmp_path / "collected").iterdir()) == []
    clean_collection(tmp_path / "none", [])


ROUTES = [
    {**QUICK, "name": "keeps", "label": "yes*", "collect": True},
    {**QUICK, "name": "rest"},
]


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    key = tmp_path / "collection.key"
    if not key.exists():
        new_key(key)
    return {"routes": ROUTES, "collection": {"key": key}} | changes


def sealed(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state" / "collected").rglob("*.sealed"))


def until(done: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def counted(appliance: Appliance, line: str) -> bool:
    return line in appliance.metrics.render().decode()


def test_a_route_that_opts_in_keeps_its_scans_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "Doe^Jane.h5"
    write_fastmri(path, n_slices=2, acceleration=2)
    with running(tmp_path, **settings(tmp_path)) as appliance:
        for label in ("no", "yes please"):
            assert wait(appliance, send(appliance, path, label=label)).state == "done"
        until(lambda: sealed(tmp_path))
        shown = 'ldmpir_scans_collected_total{result="collected",route="keeps"} 1.0'
        until(lambda: counted(appliance, shown))
        assert counted(appliance, 'ldmpir_collected_scans{route="keeps"} 1.0')
        # The payloads themselves, which serve the queue, go with the jobs.
        for job in appliance.queue.recent(9):
            appliance._remove(job.id)
    (kept,) = sealed(tmp_path)
    assert kept.parent.name == "keeps"
    original = path.read_bytes()
    parts = [original[at : at + 24] for at in range(0, len(original) - 24, 997)]
    parts = [part for part in parts if len(set(part)) > 8]
    assert len(parts) > 50
    for file in (tmp_path / "state").rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert not any(part in data for part in parts), file
            # Three bytes turn up in much ciphertext by chance: there the whole name counts.
            assert (b"Doe^Jane" if file == kept else b"Doe") not in data, file
    scans = CollectedScans(
        tmp_path / "state" / "collected",
        Collection(key=tmp_path / "collection.key"),
        read_key(tmp_path / "collection.key"),
    )
    with scans.open("keeps", kept.name) as scan, open_scan(path) as wanted:
        assert scan.content_sha256 == wanted.content_sha256


def test_classical_images_and_failures_are_not_collected(tmp_path: Path) -> None:
    large = np.zeros((1040, 32), np.float32)  # larger than the bundle takes
    large[300:700, 8:24] = 1
    np.save(tmp_path / "large.npy", large)
    (tmp_path / "none.h5").write_bytes(b"no scan at all")
    write_fastmri(tmp_path / "good.h5", acceleration=2)
    with running(tmp_path, **settings(tmp_path)) as appliance:
        states = [
            wait(appliance, send(appliance, tmp_path / name, label="yes")).state
            for name in ("large.npy", "none.h5", "good.h5")
        ]
        until(lambda: sealed(tmp_path))
    assert states == ["fallback", "failed", "done"]
    assert len(sealed(tmp_path)) == 1


def test_a_disk_that_is_full_costs_the_copy_and_not_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(collection_module, "seal", full)
    write_fastmri(tmp_path / "a.h5", acceleration=2)
    with running(tmp_path, **settings(tmp_path)) as appliance:
        shown = 'ldmpir_scans_collected_total{result="OutputError",route="keeps"}'
        for n in (1, 2):
            job = wait(appliance, send(appliance, tmp_path / "a.h5", label="yes"))
            assert job.state == "done"
            until(lambda n=n: counted(appliance, f"{shown} {n}.0"))
    assert not [*(tmp_path / "state" / "collected").rglob("*.*")]


def test_nothing_is_collected_where_it_would_fill_the_disk(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    write_fastmri(tmp_path / "a.h5", acceleration=2)
    limits = {"min_free_bytes": int(free * 0.7)}
    with running(tmp_path, **settings(tmp_path, limits=limits)) as appliance:
        assert wait(appliance, send(appliance, tmp_path / "a.h5", label="yes")).state == "done"
        shown = 'ldmpir_scans_collected_total{result="OutputError",route="keeps"} 1.0'
        until(lambda: counted(appliance, shown))
    assert sealed(tmp_path) == []


def test_a_key_that_is_open_to_others_keeps_the_appliance_from_starting(tmp_path: Path) -> None:
    given = settings(tmp_path)
    (tmp_path / "collection.key").chmod(0o644)
    with pytest.raises(SealError, match="mode 644"), running(tmp_path, **given):
        pass


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"collection": None}, "add .collection. with its key"),
        ({"routes": [QUICK]}, "no route collects"),
        ({"routes": [{**ROUTES[0], "task": "inpaint"}]}, "take collect from it"),
        ({"collection": {"key": "state/key"}}, "keep it apart"),
        ({"collection": {"key": "out/key"}}, "keep it apart"),
        ({"collection": {"key": "key", "max_scans": 0}}, "max_scans"),
        ({"collection": {"key": "key", "keep_days": 400}}, "keep_days"),
        ({"collection": {"key": "key", "keep": 4}}, "keep"),
        ({"collection": {}}, "key is missing"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    given = {"state": "state", "out": "out", "routes": ROUTES, "collection": {"key": "key"}}
    load_config(None, given)
    with pytest.raises(UsageError, match=words):
        load_config(None, given | changes)
