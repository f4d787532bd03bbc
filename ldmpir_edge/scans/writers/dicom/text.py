"""Text that is safe in any character set a source image may declare."""

from __future__ import annotations

from unicodedata import combining, normalize


def ascii_text(text: str, length: int) -> str:
    """Reduce `text` to printable ASCII of at most `length` characters; letters lose accents.

    The backslash goes too: DICOM separates values by it.
    """
    base = "".join(c for c in normalize("NFKD", text) if not combining(c))
    plain = base.encode("ascii", "replace").decode("ascii").replace("\\", "/")
    return "".join(c if c.isprintable() else " " for c in plain)[:length].strip()
