"""A volume in a page with NiiVue: the same voxels as the NIfTI file, and no network."""

from __future__ import annotations

import base64
import hashlib
import json
import lzma
import re
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium, find_chromium

from ldmpir_edge.errors import OutputError
from ldmpir_edge.scans.reconstruction import Reconstruction
from ldmpir_edge.scans.write import write_outputs
from ldmpir_edge.scans.writers import volume_page

NIIVUE = "0.69.0"
PACKED = Path(volume_page.__file__).parent / "niivue" / "niivue.umd.js.xz"


def element(page: str, name: str) -> str:
    found = re.search(rf'<script type="[a-z/]+" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found
    return found[1]


def test_the_page_holds_the_nifti_file(mr: Reconstruction, tmp_path: Path) -> None:
    mr = replace(mr, stem="a<b>", checks=[{}, {"fallback": "residual"}])
    page, nifti = write_outputs(mr, tmp_path, ["viewer", "nii"])
    assert page.name == "a<b>-viewer.html"
    text = page.read_text()
    assert base64.b64decode(element(text, "nifti"), validate=True) == nifti.read_bytes()
    facts = json.loads(element(text, "facts"))
    assert facts["fallback"] == [1]
    low, high = facts["window"]
    assert 0 <= low < high <= mr.image.max()
    assert "<title>a&lt;b&gt;</title>" in text
    assert "://" not in text[: text.index('id="nifti"')]


def test_a_volume_beyond_a_page_is_refused_at_the_start(
    mr: Reconstruction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_page, "MAX_VOXELS", mr.image.size - 1)
    with pytest.raises(OutputError, match="write nii, which NiiVue opens"):
        write_outputs(mr, tmp_path / "out", ["viewer"])
    assert not (tmp_path / "out").exists()


def test_it_is_seen_in_a_browser(mr: Reconstruction, tmp_path: Path) -> None:
    """Black outside, a bright half: both are on the canvas, and nothing is fetched."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium found; apt-get install chromium")
    image = np.zeros_like(mr.image)
    image[:, :, image.shape[2] // 2 :] = 1
    (page,) = write_outputs(replace(mr, image=image), tmp_path, ["viewer"])
    with Chromium(program) as browser:
        size = {"width": 390, "height": 500, "deviceScaleFactor": 1, "mobile": False}
        browser.send("Emulation.setDeviceMetricsOverride", **size)
        browser.send("Page.navigate", url=page.as_uri())
        browser.wait("document.body && document.body.dataset.state")
        said = "document.getElementById('said').textContent"
        assert browser.evaluate("document.body.dataset.state") == "shown", browser.evaluate(said)
        browser.evaluate("document.querySelector('button[value=axial]').click()")
        pressed = "document.querySelector('button[aria-pressed=true]').value"
        assert browser.evaluate(pressed) == "axial"
        browser.screenshot(tmp_path / "seen.png")
        assert not [url for url in browser.requests if not url.startswith(("file:", "data:"))]
        assert not [text for text in browser.errors if "Content Security Policy" in text]
    import matplotlib.image

    # Below the buttons and above the colour bar.
    grey = matplotlib.image.imread(tmp_path / "seen.png")[150:400, :, :3]
    assert np.mean(grey.min(axis=-1) > 0.9) > 0.1
    assert np.mean(grey.max(axis=-1) < 0.1) > 0.1


@pytest.mark.slow
def test_niivue_is_the_published_one(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    packed = subprocess.run(
        [npm, "pack", "--silent", f"@niivue/niivue@{NIIVUE}"], cwd=tmp_path, check=False
    )
    if packed.returncode:
        pytest.skip("the npm registry is not reached")
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as tar:
        published = tar.extractfile("package/dist/niivue.umd.js")
        assert published is not None
        expected = hashlib.sha256(published.read()).hexdigest()
    ours = lzma.decompress(PACKED.read_bytes())
    assert hashlib.sha256(ours).hexdigest() == expected
    assert NIIVUE in (volume_page.__doc__ or "")
