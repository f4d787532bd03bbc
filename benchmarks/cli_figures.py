"""Draw docs/images/cli-*.svg: what a terminal shows of some commands, by running them.

python benchmarks/cli_figures.py [-o docs/images]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

REPOSITORY = Path(__file__).resolve().parents[1]
COLUMNS = 100
ERASE = "\x1b[2K"
SHOWN = {
    "cli-help": ("--help",),
    "cli-run": ("run", "sample-mri.h5", "-o", "out", "--format", "dicom,png", "--verbose"),
    "cli-mistyped": ("run", "sample-mri.h5", "--stpes", "8"),
    "cli-compare": ("compare", "ldmpir-2m@fp32", "ldmpir-2m@fp16", "sample-mri.h5"),
}


def screenshot(arguments: tuple[str, ...], folder: Path) -> str:
    """Run a command in `folder` as if on a terminal; return an SVG of what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", "from ldmpir_edge.cli.app import main; main()", *arguments],
        cwd=folder,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    typed = " ".join(("ldmpir-edge", *arguments))
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device, not a file
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text(f"$ {typed}", style="bold"))
        # What a progress bar wrote is erased in the end.
        kept = [line.rpartition(ERASE)[2] for line in done.stdout.decode().split("\n")]
        console.print(Text.from_ansi("\n".join(kept).strip("\n")))
        return console.export_svg(title="ldmpir-edge", theme=DIMMED_MONOKAI, unique_id="cli")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "images")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        screenshot(("sample", "mri", "-o", "."), folder)
        for name, arguments in SHOWN.items():
            path = args.output / f"{name}.svg"
            path.write_text(screenshot(arguments, folder), encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
