"""Every command and every Python example of the README works as it is printed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from page_runner import COVERED_BY, run_block
from readme_blocks import SHELL, Block, commands, read_blocks

from ldmpir_edge.scans.sample import write_sample

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it: with a scan of their own, `scan.h5`."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.move(write_sample("mri", folder), folder / "scan.h5")
    return folder


def test_every_shell_command_works(workplace: Path) -> None:
    shown = [line for block in _readme() if block.language in SHELL for line in commands(block)]
    assert "make demo" in shown
    assert "make test" in shown
    for block in _readme():
        if block.language in SHELL:
            run_block(block, workplace)


def test_every_python_example_works(workplace: Path) -> None:
    examples = [block for block in _readme() if block.language == "python"]
    assert any("ldmpir_edge.load" in block.text for block in examples)
    for block in examples:
        run_block(block, workplace)


def test_every_block_names_its_language() -> None:
    # A block without one would escape the two tests above.
    assert [block.text for block in _readme() if not block.language] == []


@pytest.mark.parametrize("place", sorted(set(COVERED_BY.values())))
def test_what_covers_a_command_exists(place: str) -> None:
    assert (ROOT / place).exists()


def test_commands_are_read_as_a_shell_reads_them() -> None:
    page = (
        "text\n```bash\n# a comment\n$ make demo   # two minutes\n"
        "ldmpir-edge run a.h5 \\\n    -o out\n\n```\n"
        "```console\n$ ldmpir-edge models\nldmpir-2m\n```\n"
        "- item\n  ```sh\n  make test\n  ```\n```text\nnot a command\n```\n"
    )
    blocks = read_blocks(page)
    assert [block.language for block in blocks] == ["bash", "console", "sh", "text"]
    assert commands(blocks[0]) == ["make demo", "ldmpir-edge run a.h5 -o out"]
    assert commands(blocks[1]) == ["ldmpir-edge models"]
    assert commands(blocks[2]) == ["make test"]


def _readme() -> list[Block]:
    return read_blocks((ROOT / "README.md").read_text(encoding="utf-8"))
