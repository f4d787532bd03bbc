"""What the pages of the documentation show works as it is printed, from top to bottom."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_runner import run_block
from readme_blocks import read_blocks

from ldmpir_edge.scans.sample import write_sample

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [
    path.relative_to(DOCS).as_posix()
    for path in (
        DOCS / "quick-start.md",
        *sorted((DOCS / "tutorials").glob("*.md")),
        *sorted((DOCS / "how-to").glob("*.md")),
    )
]
QUICK = {"how-to/own-data.md", "how-to/safe-server.md", "how-to/jetson.md"}


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow) for p in PAGES]
)
def test_page_works_as_printed(page: str, tmp_path: Path) -> None:
    blocks = read_blocks((DOCS / page).read_text(encoding="utf-8"))
    assert [block.text for block in blocks if not block.language] == []
    write_sample("mri", tmp_path).rename(tmp_path / "scan.h5")
    for block in blocks:
        run_block(block, tmp_path, train_and_export=True)


def test_there_are_pages_to_run() -> None:
    assert set(PAGES) > QUICK
