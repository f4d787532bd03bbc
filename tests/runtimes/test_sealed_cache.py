"""A sealed file comes back exactly as stored, or not at all."""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldmpir_edge.runtimes.sealed_cache import SealedCache

DATA = bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path) -> SealedCache:
    return SealedCache(tmp_path / "cache", tmp_path / "config" / "seal.key")


def _file(tmp_path: Path, name: str = "a") -> Path:
    return tmp_path / "cache" / f"{name}.sealed"


def test_what_was_stored_comes_back(cache: SealedCache, tmp_path: Path) -> None:
    assert cache.get("a") is None
    cache.put("a", DATA)
    again = SealedCache(tmp_path / "cache", tmp_path / "config" / "seal.key")
    assert again.get("a") == DATA
    assert again.get("b") is None
    again.put("a", b"newer")
    assert cache.get("a") == b"newer"


def test_the_file_has_the_form_that_the_module_states(cache: SealedCache, tmp_path: Path) -> None:
    """So that a change of the form, which must also change its name, is noticed."""
    cache.put("a", DATA)
    secret = (tmp_path / "config" / "seal.key").read_bytes()
    kind = b"ldmpir sealed 1\n"
    code = hmac.digest(secret, kind + (1).to_bytes(8, "big") + b"a" + DATA, hashlib.sha256)
    assert _file(tmp_path).read_bytes() == kind + code + DATA


@pytest.mark.parametrize("position", [0, 15, 16, 47, 48, 5000, -1])
def test_one_changed_bit_is_a_miss(cache: SealedCache, tmp_path: Path, position: int) -> None:
    cache.put("a", DATA)
    sealed = bytearray(_file(tmp_path).read_bytes())
    sealed[position] ^= 1
    _file(tmp_path).write_bytes(sealed)
    assert cache.get("a") is None
    cache.put("a", DATA)
    assert cache.get("a") == DATA


@pytest.mark.parametrize("size", [0, 10, 48, 1000, -1])
def test_a_truncated_file_is_a_miss(cache: SealedCache, tmp_path: Path, size: int) -> None:
    cache.put("a", DATA)
    _file(tmp_path).write_bytes(_file(tmp_path).read_bytes()[:size])
    assert cache.get("a") is None


def test_a_sound_file_under_another_name_is_a_miss(cache: SealedCache, tmp_path: Path) -> None:
    cache.put("a", DATA)
    _file(tmp_path).rename(_file(tmp_path, "b"))
    assert cache.get("b") is None


def test_another_users_file_is_a_miss(cache: SealedCache, tmp_path: Path) -> None:
    cache.put("a", DATA)
    other = SealedCache(tmp_path / "cache", tmp_path / "other" / "seal.key")
    assert other.get("a") is None
    other.put("b", DATA)
    assert other.get("a") is None
    assert cache.get("b") is None


@pytest.mark.skipif(os.name != "posix", reason="the system has no file modes")
def test_a_secret_that_others_can_read_is_replaced(cache: SealedCache, tmp_path: Path) -> None:
    secret = tmp_path / "config" / "seal.key"
    cache.put("a", DATA)
    assert secret.stat().st_mode & 0o777 == 0o600
    before = secret.read_bytes()
    assert len(before) == 32
    secret.chmod(0o640)
    assert cache.get("a") is None
    cache.put("a", DATA)
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_bytes() != before
    assert cache.get("a") == DATA


def test_a_damaged_secret_is_replaced(cache: SealedCache, tmp_path: Path) -> None:
    cache.put("a", DATA)
    secret = tmp_path / "config" / "seal.key"
    secret.write_bytes(b"short")
    assert cache.get("a") is None
    cache.put("a", DATA)
    assert cache.get("a") == DATA


@pytest.mark.parametrize("blocked", ["cache", "config"])
def test_a_folder_that_cannot_be_written_stores_nothing(
    cache: SealedCache, tmp_path: Path, blocked: str
) -> None:
    # A file in the way, since permissions do not stop the superuser.
    (tmp_path / blocked).write_text("in the way")
    cache.put("a", DATA)
    assert cache.get("a") is None


def test_a_full_disk_stores_nothing(
    cache: SealedCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("a", DATA)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache.put("a", b"newer")
    assert cache.get("a") == DATA
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a.sealed"]


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    size = len(DATA) + 48
    cache = SealedCache(tmp_path / "cache", tmp_path / "seal.key", max_bytes=3 * size)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a user's own.txt").write_bytes(DATA)
    # What a process that was killed while it stored leaves behind.
    (tmp_path / "cache" / ".ldmpir-0123.sealed").write_bytes(DATA)
    os.utime(tmp_path / "cache" / ".ldmpir-0123.sealed", (1, 1))
    for age, name in enumerate("abc"):
        cache.put(name, DATA)
        os.utime(_file(tmp_path, name), (100 + age, 100 + age))
    assert cache.get("a") == DATA  # used again, so that b is now the oldest
    cache.put("d", DATA)
    kept = {path.name for path in (tmp_path / "cache").iterdir()}
    assert kept == {"a user's own.txt", "a.sealed", "c.sealed", "d.sealed"}
    cache.put("huge", DATA * 4)
    assert cache.get("huge") is None
    assert cache.get("d") == DATA


RACE = """
import sys
from pathlib import Path
from ldmpir_edge.runtimes.sealed_cache import SealedCache
folder, number = Path(sys.argv[1]), sys.argv[2].encode()
cache = SealedCache(folder / "cache", folder / "config" / "seal.key", max_bytes=2_000_000)
sys.stdin.readline()
for _ in range(25):
    cache.put("a", number * 400_000)
    data = cache.get("a")
    assert data is None or data == data[:1] * 400_000, "a torn file was given out"
"""


def test_processes_may_store_the_same_name_at_the_same_time(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, tmp_path, n], stdin=subprocess.PIPE)
        for n in "12"
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate()
        assert racer.returncode == 0
    cache = SealedCache(tmp_path / "cache", tmp_path / "config" / "seal.key")
    cache.put("a", DATA)
    assert cache.get("a") == DATA
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a.sealed"]
