"""Signatures: against OpenSSL, and against every way to forge one that we thought of."""

from __future__ import annotations

import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from toy_bundle import toy_files, toy_manifest

from ldmpir_edge.bundle import Bundle, generate_key, load_signing_key, write_bundle
from ldmpir_edge.bundle.archive import _write
from ldmpir_edge.bundle.signing import sign, verify
from ldmpir_edge.errors import BundleError, BundleTamperedError, OutputError


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    path = tmp_path / "release.pem"
    generate_key(path)
    return path


@pytest.fixture
def signed_path(tmp_path: Path, key_path: Path) -> Path:
    path = tmp_path / "signed.ldmpir"
    files = toy_files()
    write_bundle(path, toy_manifest(files), files, load_signing_key(key_path))
    return path


def test_an_unsigned_bundle_says_so(bundle_path: Path) -> None:
    assert str(Bundle(bundle_path).trust) == "unsigned"


def test_a_stranger_is_untrusted_by_fingerprint(signed_path: Path) -> None:
    trust = Bundle(signed_path).trust
    assert trust.status == "untrusted"
    assert str(trust) == f"untrusted key {trust.fingerprint}"
    assert len(trust.fingerprint) == 16


@pytest.mark.parametrize("place", ["LDMPIR_TRUSTED_KEYS", "config"])
def test_a_key_in_a_trusted_folder_is_trusted(
    signed_path: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "config" / "ldmpir-edge" / "trusted_keys"
    if place != "config":
        folder = tmp_path / "keys"
        monkeypatch.setenv(place, str(folder))
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "release.pub.pem", folder)
    assert str(Bundle(signed_path).trust) == "trusted:release"


def test_openssl_verifies_our_signature(signed_path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(signed_path) as container:
        (tmp_path / "manifest").write_bytes(container.read("manifest.json"))
        (tmp_path / "signature").write_bytes(container.read("signature.ed25519")[32:])
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "release.pub.pem"]
    command += ["-rawin", "-in", "manifest", "-sigfile", "signature"]
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_a_signature_of_another_manifest_is_refused(signed_path: Path, bundle_path: Path) -> None:
    with zipfile.ZipFile(signed_path) as container:
        signature = container.read("signature.ed25519")
    files = toy_files()
    write_bundle(bundle_path, toy_manifest(files, notes="other"), files)
    with zipfile.ZipFile(bundle_path) as container:
        contents = {name: container.read(name) for name in container.namelist()}
    _write(bundle_path, {**contents, "signature.ed25519": signature})
    with pytest.raises(BundleTamperedError, match="signature does not match"):
        Bundle(bundle_path)


def test_a_trusted_key_cannot_be_pasted_over_a_strangers(key_path: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "stranger.pem")
    ours = sign(b"manifest", load_signing_key(key_path))
    theirs = sign(b"manifest", load_signing_key(tmp_path / "stranger.pem"))
    with pytest.raises(BundleTamperedError):
        verify(b"manifest", ours[:32] + theirs[32:], "toy")


@pytest.mark.parametrize("length", [0, 64, 95])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(BundleTamperedError, match=f"{length} bytes"):
        verify(b"manifest", bytes(length), "toy")


def test_the_private_key_is_for_its_owner_only(key_path: Path) -> None:
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in (key_path.parent / "release.pub.pem").read_bytes()


def test_a_key_is_never_overwritten(key_path: Path) -> None:
    before = key_path.read_bytes()
    with pytest.raises(OutputError, match="name a new file"):
        generate_key(key_path)
    assert key_path.read_bytes() == before


def test_files_that_hold_no_signing_key(tmp_path: Path) -> None:
    elliptic = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for content, message in ((b"hello", "not an unencrypted PEM"), (elliptic, "not an Ed25519")):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(BundleError, match=message):
            load_signing_key(tmp_path / "key")
    with pytest.raises(BundleError, match="cannot read signing key"):
        load_signing_key(tmp_path / "absent")


def test_a_broken_trusted_key_is_named(
    signed_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDMPIR_TRUSTED_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "odd.pem").write_text("hello")
    with pytest.raises(BundleError, match=r"odd\.pem"):
        Bundle(signed_path)
