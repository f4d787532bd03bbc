"""The fenced code blocks of a Markdown page, and the commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

SHELL = frozenset({"bash", "console", "sh", "shell"})
# An indented fence belongs to a list item.
_FENCE = re.compile(
    r"^[ ]*(`{3,})[ ]*([\w-]*)(?:[ ]+title=\"([^\"\n]+)\")?[^\n]*\n(.*?)^[ ]*\1[ ]*$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language in lower case, its text, and the file that it shows."""

    language: str
    text: str
    title: str | None = None


def read_blocks(markdown: str) -> list[Block]:
    """Return the fenced blocks in order."""
    return [Block(m[2].lower(), m[4], m[3]) for m in _FENCE.finditer(markdown)]


def commands(block: Block) -> list[str]:
    """Return the commands of a shell block, one a line, continued lines joined.

    Comments and the `$ ` prompt are dropped; in a `console` block only prompted lines are
    commands, the others are what they print.
    """
    joined = re.sub(r"\\\n\s*", "", block.text)
    lines = [line.strip() for line in joined.splitlines()]
    if block.language == "console":
        lines = [line for line in lines if line.startswith("$ ")]
    bare = [re.sub(r"(^|\s)#.*$", "", line.removeprefix("$ ")).strip() for line in lines]
    return [line for line in bare if line]
