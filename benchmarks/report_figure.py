"""Take the docs' picture of a report: `ldmpir-edge report` of the sample `mri`, in Chromium.

    python benchmarks/report_figure.py [-o docs/images/report.png]

Needs Chromium; a smaller size and 256 colours keep the picture below 300 kB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from chromium import Chromium, find_chromium

WIDTH, HEIGHT = 1280, 880
SHOWN = (1024, 704)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/report.png"))
    args = parser.parse_args()
    program = find_chromium()
    if program is None:
        raise SystemExit("no Chromium found; apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, Chromium(program) as browser:
        page, picture = Path(folder, "report.html"), Path(folder, "report.png")
        command = [sys.executable, "-m", "ldmpir_edge.cli"]
        subprocess.run([*command, "sample", "mri", "-o", folder], check=True)
        scan = Path(folder, "sample-mri.h5")
        options = ["--samples", "8", "-o", str(page)]
        subprocess.run([*command, "report", str(scan), *options], check=True)
        browser.open(page, WIDTH, HEIGHT)
        browser.screenshot(picture)
        with Image.open(picture) as shown:
            small = shown.convert("RGB").resize(SHOWN, Image.Resampling.LANCZOS)
            small.quantize(256).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
