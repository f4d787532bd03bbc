"""What a site's files must be, and one line that says so where they are not."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from site_scans import write_site

from ldmpir_edge.errors import ScanDataError, UsageError
from ldmpir_edge.finetuning.kspace import MeasuredKspace
from ldmpir_edge.finetuning.noisy_image import NoisyImage
from ldmpir_edge.finetuning.scans import MAX_SLICES, load_scans
from ldmpir_edge.finetuning.sinogram import MeasuredSinogram


@pytest.mark.parametrize(
    ("kind", "cls"), [("mri", MeasuredKspace), ("ct", MeasuredSinogram), ("image", NoisyImage)]
)
def test_scans_of_every_kind_are_read(site, kind, cls):
    scans = load_scans(site(kind), "equivariant")
    assert len(scans.slices) == 5 <= MAX_SLICES
    assert all(isinstance(entry.measured, cls) for entry in scans.slices)
    assert len(scans.digests) == 5
    assert list(scans.digests) == sorted(scans.digests)
    assert load_scans(site(kind)[::-1], "equivariant").digests == scans.digests


def test_two_scans_are_too_few(site):
    with pytest.raises(UsageError, match=r"2 different scans given.*at least 3"):
        load_scans(site("mri")[:2], "equivariant")


def test_copies_of_a_scan_count_once(site, tmp_path):
    copies = [shutil.copy(site("mri")[0], tmp_path / f"{k}.h5") for k in range(5)]
    with pytest.raises(UsageError, match="1 different scan given"):
        load_scans(copies, "equivariant")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"size": 32}, "differ in matrix"), ({"n_coils": 3}, r"number of coils \(4 and 3\)")],
)
def test_mixed_mri_protocols_are_refused(site, tmp_path, change, words):
    other = write_site(tmp_path, "mri", 2, **change)
    with pytest.raises(UsageError, match=words):
        load_scans([*site("mri")[:4], other[1]], "equivariant")


def test_mixed_ct_geometry_is_refused(site, tmp_path):
    other = write_site(tmp_path, "ct", 2, n_views=30)
    with pytest.raises(UsageError, match="differ in geometry; fine-tune on scans of one protocol"):
        load_scans([*site("ct")[:4], other[1]], "equivariant")


def test_mixed_kinds_are_refused(site):
    with pytest.raises(UsageError, match=r"differ in kind \(mri and ct\)"):
        load_scans([*site("mri")[:3], *site("ct")[:1]], "equivariant")


def test_scans_without_autocalibration_lines_are_refused(tmp_path):
    paths = write_site(tmp_path, "mri", n_acs=1)
    with pytest.raises(ScanDataError, match=r"has [0-7] autocalibration lines"):
        load_scans(paths, "equivariant")


@pytest.mark.parametrize("loss", ["equivariant", "split"])
def test_fully_sampled_scans_are_refused_with_the_way_out(tmp_path, loss):
    paths = write_site(tmp_path, "mri", acceleration=1)
    with pytest.raises(ScanDataError, match=r"fully sampled.*ldmpir-edge train"):
        load_scans(paths, loss)


def test_scans_with_nan_are_refused(tmp_path):
    paths = write_site(tmp_path, "mri", nan=True)
    with pytest.raises(ScanDataError, match="NaN"):
        load_scans(paths, "equivariant")


def test_images_cannot_be_split(site):
    with pytest.raises(UsageError, match="no lines or views to split"):
        load_scans(site("image"), "split")


def test_supervision_needs_references(site):
    with pytest.raises(UsageError, match="holds no reference"):
        load_scans(site("image"), "supervised")


def test_a_noise_level_is_for_images(site):
    with pytest.raises(UsageError, match="--noise-level is for images"):
        load_scans(site("mri"), "equivariant", 0.1)
    scans = load_scans(site("image"), "equivariant", 200.0)
    first = scans.slices[0].measured
    assert isinstance(first, NoisyImage)
    assert first.noise.gain == 0
    assert first.noise.level == pytest.approx(200 / first.problem.scale)


def test_references_are_those_of_the_files(site):
    scans = load_scans(site("ct"), "supervised")
    for entry in scans.slices:
        assert entry.reference is not None
        assert np.isfinite(entry.reference).all()
        assert entry.reference.min() >= -1000
