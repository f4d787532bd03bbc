"""The status page as a browser without a network shows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running_appliance import running, send, wait
from small_scans import write_fastmri


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium; install the Debian package chromium")
    return found


def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    program = browser()
    write_fastmri(tmp_path / "a.h5", n_slices=2, acceleration=2)
    with running(tmp_path, http={"listen": "127.0.0.1:0"}) as appliance:
        job = wait(appliance, send(appliance, tmp_path / "a.h5"))
        common = [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,900"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--no-first-run", "--hide-scrollbars"),
            # Whatever is not on this machine does not exist.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]
        url = f"http://{appliance.open_doors['http']}/"
        picture = tmp_path / "page.png"
        subprocess.run(
            [*common, f"--screenshot={picture}", url], check=True, capture_output=True, timeout=120
        )
        shown = subprocess.run(
            [*common, "--dump-dom", url], check=True, capture_output=True, text=True, timeout=120
        ).stdout
    assert job.id[:12] in shown
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape == (900, 1100, 3)
    # The page's own dark ground, as its style sheet says, and not a browser's white.
    assert (np.abs(pixels - [0x14, 0x17, 0x1A]).max(axis=2) <= 2).mean() > 0.4
    # Bars of the plots, and the thumbnail's grey.
    assert (np.abs(pixels - [0x5B, 0x9B, 0xD5]).max(axis=2) <= 8).sum() > 50
    grey = (np.ptp(pixels, axis=2) == 0) & (pixels[..., 0] > 60) & (pixels[..., 0] < 250)
    assert grey.sum() > 300
