"""Take the docs' picture of the status page: an appliance after some sample scans, in Chromium.

python benchmarks/status_figure.py [-o docs/images/status-page.png]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from appliance_process import ApplianceProcess
from chromium import find_chromium

KINDS = ("mri", "ismrmrd", "ct")
N_SEEDS = 2
SIZE = "1100,1000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/status-page.png"))
    args = parser.parse_args()
    program = find_chromium()
    if program is None:
        raise SystemExit("no Chromium found; apt-get install chromium")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        appliance = ApplianceProcess(
            *("--state", root / "state", "--out", root / "out", "--http", "127.0.0.1:0")
        )
        try:
            appliance.wait_ready()
            show(appliance, root)
            options = [f"--window-size={SIZE}", f"--screenshot={root / 'page.png'}"]
            url = f"http://{appliance.door('http')}/"
            browser = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            subprocess.run([*browser, *options, url], check=True, capture_output=True)
        finally:
            appliance.end()
        with Image.open(root / "page.png") as shown:
            shown.convert("RGB").quantize(256).save(args.output, optimize=True)


def show(appliance: ApplianceProcess, root: Path) -> None:
    """Have sample scans reconstructed, and wait for the last."""
    with appliance.client() as client:
        for seed in range(N_SEEDS):
            for kind in KINDS:
                folder = root / f"{kind}-{seed}"
                command = [sys.executable, "-m", "ldmpir_edge.cli", "sample", kind]
                subprocess.run([*command, "--seed", str(seed), "-o", str(folder)], check=True)
                (scan,) = folder.glob("*.h5")
                with scan.open("rb") as file:
                    answer = client.post("/v1/reconstructions", files={"scan": file})
                answer.raise_for_status()
                time.sleep(1)  # so that the plots over time have something to show
        while "ldmpir_undelivered_jobs 0.0" not in client.get("/metrics").text:
            time.sleep(0.2)


if __name__ == "__main__":
    main()
