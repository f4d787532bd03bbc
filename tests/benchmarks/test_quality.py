"""The quality benchmark's summaries and simulated scans."""

from __future__ import annotations

import numpy as np
import peers
import pytest
import quality

from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.report.metrics import ImageScores, psnr
from ldmpir_edge.scans.phantom import head_phantom, rasterise


def phantom(size, unit):
    return rasterise(head_phantom(np.random.default_rng(3), 0.1), (size, size), unit)


def row(*values):
    return {"psnr_db_slices": list(values)}


def test_peers_of_an_earlier_run_are_taken():
    now = {"untreated": row(20.0, 21.0), "classical": row(30.0, 31.0), "ours, 4 steps": row(40, 41)}
    case = "MRI 8 coils, R=8 random"
    same = {**row(38, 39), "parameters": peers.tuned(case, "sigpy TV")}
    other = {**row(37, 38), "parameters": {"lam": 123.0, "n_iterations": 1}}
    earlier = {**now, "ours, 4 steps": row(39, 40), "sigpy TV": same, "sigpy L1-wavelet": other}
    assert quality.earlier_peers(case, now, earlier) == {"sigpy TV": same}


@pytest.mark.parametrize("other", [row(30.0), row(30.0, 31.1)])
def test_those_of_other_scans_are_not(other):
    case, peer = "MRI 8 coils, R=8 random", "sigpy TV"
    now = {"untreated": row(30.0, 31.0), "classical": row(30.0, 31.0)}
    same = {peer: {**row(38.0), "parameters": peers.tuned(case, peer)}}
    assert quality.earlier_peers(case, now, {**now, **same}) == same
    for baseline, expected in (("untreated", {}), ("classical", same)):
        assert quality.earlier_peers(case, now, {**now, baseline: other, **same}) == expected
    assert quality.earlier_peers(case, now, {}) == {}


def test_those_of_denoising_are_made_anew():
    """They take what the preparation makes of the untreated image."""
    case, peer = "denoise MR, 5 %", "TV"
    now = {"untreated": row(30.0, 31.0), "classical": row(30.0, 31.0)}
    same = {peer: {**row(38.0), "parameters": peers.tuned(case, peer)}}
    assert quality.earlier_peers(case, now, {**now, **same}) == {}


def test_peers_get_magnitudes_without_the_rician_bias_and_give_none_below_zero(monkeypatch):
    make = quality.image_task("denoise", 0.05, rician=True)
    scan, task, reference = make(phantom(128, "mr"), "mr", np.random.default_rng(0))
    monkeypatch.setattr(
        peers, "PEERS", {"denoise": {"nothing done": lambda image, noise_level: image}}
    )
    monkeypatch.setattr(peers, "NOTHING_TO_TUNE", {"nothing done"})
    given = peers.measurement(scan, task)
    dark = reference < 1e-6
    assert abs(given["image"][dark].mean()) < 0.3 * given["noise_level"]
    ((_, shown),) = quality.peer_images("denoise MR, Rician 5 %", scan, task)
    np.testing.assert_array_equal(shown, np.maximum(given["image"], 0))


def test_rician_noise_lifts_what_is_dark():
    make = quality.image_task("denoise", 0.1, rician=True)
    scan, _, reference = make(phantom(96, "mr"), "mr", np.random.default_rng(0))
    noisy = scan.image(0)
    assert noisy.min() >= 0
    # The mean of a Rayleigh distribution, sqrt(pi / 2) standard deviations.
    level = 0.1 * np.percentile(reference, 99.5)
    dark = reference < 1e-6
    assert noisy[dark].mean() == pytest.approx(np.sqrt(np.pi / 2) * level, rel=0.03)


def test_partial_fourier_leaves_out_the_end_of_k_space():
    make = quality.mri(2, 1, "equispaced", 5 / 8)
    scan, _, _ = make(phantom(64, "mr"), "mr", np.random.default_rng(0))
    assert scan.mask[:40].all()
    assert not scan.mask[40:].any()


def test_a_limited_angle_ends_early():
    make = quality.ct(24, 1e6, share_of_turn=2 / 3)
    scan, _, _ = make(phantom(64, "hu"), "ct", np.random.default_rng(0))
    step = np.radians(120) / 24
    np.testing.assert_allclose(scan.geometry.angles_rad, step * np.arange(24))


def test_a_low_dose_image_is_near_its_reference_and_worse_with_less_dose():
    image = phantom(128, "hu")
    reached = []
    for photons in (1e4, 1e6):
        make = quality.low_dose_image(180, photons)
        scan, task, reference = make(image, "ct", np.random.default_rng(0))
        assert prepare_slice(scan, 0, task).problem.family == "pointwise"
        reached.append(psnr(scan.image(0), reference, "ct"))
    assert 10 < reached[0] < reached[1] - 1


def test_a_summary_is_of_the_slices_and_its_interval_covers_what_a_mean_would():
    rng = np.random.default_rng(5)
    scores = [ImageScores(p, 0.9, 0.01) for p in rng.normal(40, 2, 200)]
    summary = quality.summary(scores)
    low, high = summary["psnr_db_interval"]
    # A mean of 200 has a standard error of 2 / sqrt(200): 95 % lie within 1.96 of it.
    assert high - low == pytest.approx(2 * 1.96 * 2 / np.sqrt(200), rel=0.15)
    assert low < summary["psnr_db"] < high
    assert summary["psnr_db_p5"] == pytest.approx(40 - 1.645 * 2, abs=0.6)
    assert summary["ssim_interval"] == [0.9, 0.9]
