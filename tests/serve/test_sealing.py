"""Sealed files: what one byte, one piece, one name or another key changes is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ldmpir_edge.errors import OutputError, SealError
from ldmpir_edge.serve.sealing import MAGIC, PIECE_BYTES, new_key, read_key, seal, unseal

KEY = bytes(range(32))
PIECES = [b"first piece", b"second one", b"third piece"]
HEAD = len(MAGIC) + 32


def sealed(pieces: list[bytes] = PIECES, name: str = "brain/a") -> bytes:
    sink = io.BytesIO()
    seal(pieces, sink, KEY, name)
    return sink.getvalue()


def opened(data: bytes, key: bytes = KEY, name: str = "brain/a") -> list[bytes]:
    return list(unseal(io.BytesIO(data), key, name))


def frames(data: bytes) -> list[bytes]:
    """Divide a sealed file after its head into its pieces, lengths included."""
    found, at = [], HEAD
    while at < len(data):
        size = 4 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[at : at + size])
        at += size
    return found


@pytest.mark.parametrize("pieces", [[], PIECES, [b"x" * PIECE_BYTES, b"y"]])
def test_what_was_sealed_comes_back(pieces: list[bytes]) -> None:
    data = sealed(pieces)
    assert opened(data) == pieces
    assert not any(piece in data for piece in pieces if len(piece) > 8)


def test_it_is_the_construction_that_the_module_states() -> None:
    """Opened with the primitives alone, after the words of the module."""
    data = sealed()
    salt = data[len(MAGIC) : HEAD]
    cipher = AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=MAGIC).derive(KEY))
    found = [
        cipher.decrypt(
            number.to_bytes(12, "big"),
            frame[4:],
            MAGIC + f"brain/a\0{number} {number == len(PIECES):d}".encode(),
        )
        for number, frame in enumerate(frames(data))
    ]
    assert found == [*PIECES, b""]


def test_the_same_content_never_looks_the_same() -> None:
    assert sealed()[len(MAGIC) :] != sealed()[len(MAGIC) :]


def test_no_byte_may_change() -> None:
    data = sealed()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(SealError):
            opened(bytes(changed))


def test_no_byte_may_be_missing() -> None:
    data = sealed()
    for size in range(len(data)):
        with pytest.raises(SealError):
            opened(data[:size])


def test_pieces_stay_in_their_place_and_file() -> None:
    data, other = sealed(), sealed()
    head, parts = data[:HEAD], frames(data)
    swapped = [parts[1], parts[0], *parts[2:]]
    foreign = [frames(other)[0], *parts[1:]]
    shortened = [*parts[:-2], parts[-1]]  # a piece and its end removed as a whole
    for wrong in (swapped, foreign, shortened, parts[:-1], [*parts, parts[-1]]):
        with pytest.raises(SealError):
            opened(head + b"".join(wrong))
    assert opened(head + b"".join(parts)) == PIECES


def test_another_key_or_name_does_not_open_it() -> None:
    with pytest.raises(SealError, match="another key"):
        opened(sealed(), key=bytes(32))
    with pytest.raises(SealError, match="knee/a"):
        opened(sealed(), name="knee/a")


def test_a_length_is_not_believed() -> None:
    """A file may claim a piece of 4 GiB: nothing is allocated for it."""
    data = sealed()
    with pytest.raises(SealError):
        opened(data[:HEAD] + b"\xff" * 4 + data[HEAD + 4 :])


def test_a_key_is_random_and_its_owners_alone(tmp_path: Path) -> None:
    new_key(tmp_path / "one")
    new_key(tmp_path / "two")
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600
    assert len(read_key(tmp_path / "one")) == 32
    assert read_key(tmp_path / "one") != read_key(tmp_path / "two")
    with pytest.raises(OutputError, match="exists"):
        new_key(tmp_path / "one")


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(SealError, match="--new-collection-key"):
        read_key(path)
    new_key(path)
    path.chmod(0o640)
    with pytest.raises(SealError, match="mode 640"):
        read_key(path)
    path.chmod(0o600)
    for content in (b"", b"x" * 31, b"x" * 33):
        path.write_bytes(content)
        with pytest.raises(SealError, match="32 bytes"):
            read_key(path)
