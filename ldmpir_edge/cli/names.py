"""Options that take several names: repeated, or separated by commas."""

from __future__ import annotations

from collections.abc import Sequence


def split_names(given: Sequence[str] | None) -> list[str]:
    """List the names of an option, each once, in their order; none where it was not given."""
    words = (word.strip() for text in given or () for word in text.split(","))
    return list(dict.fromkeys(word for word in words if word))
