"""The examples work as their first lines say."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import pydicom
import pytest

from ldmpir_edge.scans.sample import write_sample

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_mri_from_kspace(tmp_path: Path) -> None:
    said = _run("mri_from_kspace.py", tmp_path)
    assert said.count("the model") == 3
    assert float(re.search(r"([\d.]+) dB", said)[1]) > 30
    assert len(list((tmp_path / "mine").glob("*.dcm"))) == 3


def test_sparse_view_ct(tmp_path: Path) -> None:
    said = _run("sparse_view_ct.py", tmp_path)
    fbp, ours = (float(value) for value in re.findall(r"([\d.]+) dB", said)[1:])
    assert ours > fbp + 3
    assert nib.load(tmp_path / "sparse.nii.gz").shape == (256, 256, 3)


def test_denoise_dicom_series(tmp_path: Path) -> None:
    _run("denoise_dicom_series.py", tmp_path)
    (source,) = tmp_path.glob("*.dcm")
    (denoised,) = (tmp_path / "denoised").rglob("*.dcm")
    before, after = pydicom.dcmread(source), pydicom.dcmread(denoised)
    assert after.StudyInstanceUID == before.StudyInstanceUID
    assert after.SeriesInstanceUID != before.SeriesInstanceUID
    assert np.std(after.pixel_array[:40, :40].astype(float)) * after.get(
        "RescaleSlope", 1
    ) < np.std(before.pixel_array[:40, :40].astype(float)) * before.get("RescaleSlope", 1)


@pytest.mark.slow
def test_finetune_from_five_scans(tmp_path: Path) -> None:
    said = _run("finetune_from_five_scans.py", tmp_path)
    # Five phantoms are far from what the model has seen: there is something to gain.
    before, after = (float(psnr) for psnr in re.findall(r"fp32\s+│\s+([\d.]+)", said))
    assert after > before
    assert (tmp_path / "site.html").stat().st_size > 100_000


def test_embed_in_a_service(tmp_path: Path) -> None:
    service = subprocess.Popen(
        [sys.executable, EXAMPLES / "embed_in_a_service.py", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert service.stdout is not None
        address = service.stdout.readline().strip()
        body = write_sample("dicom", tmp_path).read_bytes()
        answer = httpx.post(address, content=body, timeout=60)
        assert answer.headers["X-Fallbacks"] == "0"
        assert np.load(io.BytesIO(answer.content)).shape == (1, 256, 256)
        refused = httpx.post(address, content=b"no scan at all", timeout=60)
        assert refused.status_code == 422
    finally:
        service.kill()
        service.communicate()


def test_the_list_is_complete() -> None:
    listed = set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text()))
    assert listed == {path.name for path in EXAMPLES.glob("*.py")}


def _run(name: str, folder: Path) -> str:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, folder],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
