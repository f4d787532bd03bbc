"""How long an HDF5 file says it is: a copy under way is shorter.

Source: HDF5 File Format Specification 3.0, II.A, "Superblock".
"""

from __future__ import annotations

MAGIC = b"\x89HDF\r\n\x1a\n"
HEADER_BYTES = 96

_UNDEFINED = 0xFF


def stated_size(header: bytes) -> int | None:
    """Read the end-of-file address from the start of a file.

    Parameters
    ----------
    header
        Its first `HEADER_BYTES` bytes.

    Returns
    -------
        The size in bytes that the file has when it is complete; None where this is no HDF5 file,
        or one that is being created.
    """
    if not header.startswith(MAGIC) or len(header) < HEADER_BYTES:
        return None
    version = header[8]
    if version <= 1:
        n_bytes, start = header[13], 24 if version == 0 else 28
    elif version <= 3:
        n_bytes, start = header[9], 12
    else:
        return None
    if n_bytes not in {2, 4, 8}:
        return None
    # Base address, another address, end of file.
    field = header[start + 2 * n_bytes : start + 3 * n_bytes]
    size = int.from_bytes(field, "little")
    return None if size == 0 or set(field) == {_UNDEFINED} else size
