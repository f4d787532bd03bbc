"""docs/cli.md states the commands, options and exit codes that there are, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import ldmpir_edge.errors as errors
from ldmpir_edge.scans.sample import SAMPLE_KINDS
from ldmpir_edge.scans.write import FORMATS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")

# Click's and Typer's own, the same in every program.
COMMON = {"--help", "--install-completion", "--show-completion"}


def test_every_exit_code_is_documented() -> None:
    documented = {
        name: int(code) for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.M)
    }
    assert documented == {kind.__name__: kind.exit_code for kind in _error_tree()}


def test_every_error_has_its_own_exit_code() -> None:
    codes = [kind.exit_code for kind in _error_tree()]
    assert len(set(codes)) == len(codes)
    # Above 125 a shell speaks for itself: not found, or ended by a signal.
    assert all(0 < code < 126 for code in codes)


def test_every_command_is_documented() -> None:
    documented = re.findall(r"^\| \[`(\w+)`\]", PAGE, re.M)
    assert sorted(documented) == sorted(_commands())


def test_every_option_is_documented() -> None:
    for_every_command = {"-q", "--quiet", "-v", "--verbose"}
    assert for_every_command <= _options_in(_section("For every command"))
    for name, options in _commands().items():
        shown = _options_in(_section(name))
        if "--quiet" in set().union(*options):
            shown |= for_every_command
        known = {spelling for spellings in options for spelling in spellings}
        assert shown <= known, f"docs/cli.md, {name}"
        missing = [spellings for spellings in options if not shown & spellings]
        assert not missing, f"docs/cli.md, {name}"


@pytest.mark.parametrize("word", [*SAMPLE_KINDS, *FORMATS])
def test_kinds_and_formats_are_documented(word: str) -> None:
    assert re.search(rf"^\| `{word}` \|", PAGE, re.M)


def _options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def _error_tree() -> Iterator[type[errors.LdmpirError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return (kind for kind in found if issubclass(kind, errors.LdmpirError))


def _section(command: str) -> str:
    match = re.search(rf"^## {command}\n(.*?)(?=^## )", PAGE, re.M | re.S)
    assert match, f"docs/cli.md has no section {command}"
    return match[1]


def _commands() -> dict[str, list[set[str]]]:
    """The spellings of every option, by command, as the program itself has them."""
    from ldmpir_edge.cli.app import app

    commands = typer.main.get_command(app).commands
    return {
        name: [
            {*param.opts, *param.secondary_opts}
            for param in command.params
            if param.param_type_name == "option" and not COMMON & set(param.opts)
        ]
        for name, command in commands.items()
    }
