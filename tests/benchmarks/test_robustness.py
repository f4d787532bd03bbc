"""The measures of the robustness pages against closed forms; sweeps make the scans they state."""

from __future__ import annotations

import lesions
import numpy as np
import pytest
import robustness
import robustness_page as page
import uncertainty
from product import Outcome, marks
from scipy import ndimage, special

from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.scans.phantom import head_phantom, rasterise

PLACES = np.array([[20, 20], [20, 60], [60, 20], [60, 60]])
SIGNS = np.array([1.0, -1.0, 1.0, -1.0])
TISSUE = np.full((81, 81), 3.0, np.float32)
ALLOWED = np.ones_like(TISSUE, bool)


def scan_of(sweep, value, size=128):
    sweep = robustness.SWEEPS[sweep]
    unit = "mr" if sweep.modality == "mr" else "hu"
    image = rasterise(head_phantom(np.random.default_rng(3), 0.1), (size, size), unit)
    return sweep.settings[value].make(image, sweep.modality, np.random.default_rng(5))


def outcome(reference, ours):
    return Outcome(reference, reference, ours, None)


def pair(radius, blur):
    """Lesions in even tissue, of which ours is the reference after `blur`."""
    marked = lesions.insert(TISSUE, PLACES, SIGNS, radius)
    return lesions.Pair(
        outcome(TISSUE, blur(TISSUE)), outcome(marked, blur(marked)), PLACES, SIGNS, ALLOWED
    )


@pytest.mark.parametrize("radius", lesions.RADII.values())
def test_an_inserted_lesion_has_the_contrast_that_is_stated(radius):
    marked = lesions.insert(TISSUE, PLACES, SIGNS, radius)
    assert marked[20, 20] == pytest.approx(3.6)
    disc = lesions.disc(radius)
    # Over the soft edge of a disc its own mean is below 1.
    expected = 0.2 * SIGNS * np.sum(disc * disc) / np.sum(disc)
    np.testing.assert_allclose(lesions.contrast(marked, radius)[tuple(PLACES.T)], expected, 1e-4)


def test_contrast_recovered_is_the_share_that_a_linear_system_keeps():
    kept = lesions.judge([pair(3.0, lambda x: TISSUE + 0.6 * (x - TISSUE))], 3.0)
    assert kept["lesions"] == len(PLACES)
    np.testing.assert_allclose(kept["ours"]["recovered"], 0.6, atol=2e-3)
    np.testing.assert_allclose(kept["classical"]["recovered"], 1.0, atol=2e-3)


def test_contrast_recovered_after_a_blur_is_its_closed_form():
    """Of a disc blurred by a Gaussian, the share 1 − e⁻ᵃ (I₀(a) + I₁(a)) stays, a = r²/σ².

    Soft edges blur the disc, and the one it is measured by, by a variance of 1/12 each.
    """
    radius, sigma = 3.0, 1.0
    blurred = lesions.judge([pair(radius, lambda x: ndimage.gaussian_filter(x, sigma))], radius)
    a = radius**2 / (np.array([sigma**2, 0]) + 2 / 12)
    after, before = 1 - special.ive(0, a) - special.ive(1, a)
    assert np.mean(blurred["ours"]["recovered"]) == pytest.approx(after / before, abs=0.02)


def test_lesions_are_found_from_half_of_their_contrast():
    for kept, found in ((0.7, 1.0), (0.3, 0.0)):
        result = lesions.judge([pair(3.0, lambda x, k=kept: TISSUE + k * (x - TISSUE))], 3.0)
        assert result["ours"]["found"] == found
        assert result["classical"]["found"] == 1.0


def test_a_lesion_where_there_is_none_is_called_invented():
    ghost = lesions.insert(TISSUE, np.array([[40, 40]]), np.array([-1.0]), 3.0)
    seen = pair(3.0, lambda x: x + ghost - TISSUE)
    result = lesions.judge([seen], 3.0)
    assert result["classical"]["invented"] == 0
    assert 0 < result["ours"]["invented"] < 0.05
    assert result["ours"]["largest_false_contrast"] == pytest.approx(0.19, abs=0.02)


def test_places_are_apart_and_in_homogeneous_tissue(rng):
    image = np.zeros((160, 160), np.float32)
    image[20:140, 20:140] = 1
    image[:, 80:] *= 2
    allowed = lesions.homogeneous(image)
    places = lesions.draw_places(allowed, 8, rng)
    assert len(places) == 8
    for row, column in places:
        around = image[row - 5 : row + 6, column - 5 : column + 6]
        assert np.ptp(around) == 0
        assert around.min() > 0
    apart = np.hypot(*(places[:, None] - places).transpose(2, 0, 1)) + 1e9 * np.eye(8)
    assert apart.min() > 2 * lesions.REACH


def test_a_true_deviation_covers_as_a_normal_one_does(rng):
    deviation = np.exp(0.5 * rng.standard_normal(200_000))
    error = deviation * rng.standard_normal(deviation.shape)
    right = uncertainty.judge(deviation, error, rng)
    assert right["coverage"] == pytest.approx(0.9545, abs=0.003)
    assert right["factor"] == pytest.approx(1.96, abs=0.02)
    assert right["spearman"] == pytest.approx(right["perfect"], abs=0.01)
    halved = uncertainty.judge(deviation / 2, error, rng)
    assert halved["coverage"] == pytest.approx(0.6827, abs=0.005)
    assert halved["factor"] == pytest.approx(3.92, abs=0.04)
    assert halved["spearman"] == pytest.approx(right["spearman"])
    predicted, found = np.array(uncertainty.reliability(deviation, error)).T
    np.testing.assert_allclose(found, predicted, rtol=0.05)
    assert np.all(np.diff(predicted) > 0)


def test_a_deviation_that_knows_nothing_does_not_correlate(rng):
    deviation, error = np.exp(rng.standard_normal((2, 50_000)))
    assert abs(uncertainty.judge(deviation, error, rng)["spearman"]) < 0.02


def test_the_object_has_no_holes_and_is_one():
    y, x = np.mgrid[:100, :100]
    inside = np.hypot(y - 45, x - 45) < 30
    image = np.where(inside, 1.0, 0.0)
    image[40:50, 40:50] = 0
    image[85:95, 85:95] = 1
    found = uncertainty.the_object(image, "mr")
    assert found[45, 45]
    assert not found[90, 90]
    assert np.mean(found != inside) < 0.005


@pytest.mark.parametrize("value", robustness.SWEEPS["acceleration"].settings)
def test_a_swept_acceleration_is_that_of_the_scan(value):
    scan, task, _ = scan_of("acceleration", value)
    assert task == "mri"
    assert scan.n_coils == 8
    assert scan.mask.size / scan.mask.sum() == pytest.approx(float(value), rel=0.07)


@pytest.mark.parametrize("value", robustness.SWEEPS["coils"].settings)
def test_swept_coils_are_those_of_the_scan(value):
    scan, _, _ = scan_of("coils", value)
    assert scan.kspace(0).shape[0] == scan.n_coils == int(value)


@pytest.mark.parametrize("value", ["0.01", "0.05", "0.2"])
def test_a_swept_noise_level_is_what_preparation_estimates(value):
    scan, task, reference = scan_of("noise", value, size=256)
    problem = prepare_slice(scan, 0, task).problem
    estimate = problem.noise_level * problem.scale
    assert estimate == pytest.approx(float(value), rel=0.25)
    assert reference.max() < 5


@pytest.mark.parametrize("value", ["96", "320"])
def test_a_swept_size_is_that_of_the_scan(value):
    scan, _, reference = scan_of("size", value)
    assert reference.shape == scan.image_shape == (int(value), int(value))


def test_a_quarter_turn_turns_the_image(rng):
    image = rng.random((32, 32)).astype(np.float32)
    np.testing.assert_allclose(robustness.rotated(90)(image), np.rot90(image), atol=1e-4)


def test_inversion_swaps_bright_and_dark_tissue_and_keeps_the_background():
    image = np.zeros((64, 64), np.float32)
    image[8:56, 8:56] = 0.2
    image[24:40, 24:40] = 1.0
    inverted = robustness.inverted(image)
    assert inverted[16, 16] > 5 * inverted[32, 32] > 0
    assert inverted[0, 0] < 1e-3


@pytest.mark.parametrize(("sweep", "value"), [("views", "20"), ("photons", "1e3")])
def test_a_swept_ct_scan_is_what_is_stated(sweep, value):
    scan, task, _ = scan_of(sweep, value)
    assert task == "ct"
    assert float(value) == (scan.geometry.n_views if sweep == "views" else scan.photons)


def test_each_sweep_has_settings_inside_and_outside_the_training_range():
    for sweep in robustness.SWEEPS.values():
        assert {setting.inside for setting in sweep.settings.values()} == {True, False}


def test_marks_score_each_slice_and_count_refusals(rng):
    reference = rng.random((32, 32)).astype(np.float32)
    near, far = reference + 0.01, reference + 0.1
    outcomes = [Outcome(reference, far, near, None), Outcome(reference, far, far, "residual")]
    table = marks(outcomes, "mr")
    assert table["refused"] == 1
    assert table["classical"]["psnr_db"] == pytest.approx([20, 20], abs=0.3)
    assert table["ours"]["psnr_db"] == pytest.approx([40, 20], abs=0.3)


def failures(recovered, invented, spearman, ours_db):
    def kept(share):
        return {"recovered": [share], "invented": invented, "largest_false_contrast": 0.2}

    case = {"spearman": [spearman], "coverage": [0.5]}
    row = {"psnr_db": [30.0], "ssim": [0.9]}
    setting = {"classical": row, "ours": {"psnr_db": [ours_db], "ssim": [0.95]}}
    lesion = {"classical": kept(0.8), "ours": kept(recovered)}
    results = {
        "lesions": {"results": {"radius 3": {"4": lesion}}},
        "uncertainty": {"results": {"a case": case}},
        "robustness": {
            "sweeps": {"R": {"quantity": "R", "settings": {"16": setting}}},
            "anatomy": {"a case": {"seen": setting, "unseen": setting}},
        },
    }
    return list(page.failures(results))


def test_failures_name_the_goals_missed_and_the_settings_lost():
    kept, invented, uncertain, lost, _ = failures(0.5, 0.02, 0.1, 29.0)
    assert "**missed**" in kept
    assert "**missed**" in invented
    assert "**missed** in 1 of 1" in uncertain
    assert "R: 16 (-1.00 dB" in lost
    assert "a case, seen anatomy (-1.00 dB" in lost


def test_goals_that_are_met_are_said_to_be():
    kept, invented, uncertain, lost, _ = failures(0.8, 0.0, 0.5, 31.0)
    assert "is met" in kept
    assert "is met" in invented
    assert "met in all of 1" in uncertain
    assert lost.endswith("none.")


def test_the_table_marks_a_setting_that_loses_to_the_classical_image():
    def row(ours):
        scores = {"psnr_db": [30.0, 32.0], "ssim": [0.9, 0.9]}
        better = {"psnr_db": ours, "ssim": [0.95, 0.95]}
        return {"inside": True, "refused": 0, "classical": scores, "ours": better}

    settings = {"2": row([29.0, 32.0]), "4": row([33.0, 35.0])}
    results = {"robustness": {"sweeps": {"R": {"quantity": "R", "settings": settings}}}}
    _, _, loses, gains = page.sweep_table(results)
    assert "**-0.50, -1.00**" in loses
    assert "+3.00, +3.00" in gains
    assert "**" not in gains


def test_a_table_replaces_the_one_of_its_name_alone():
    text = "a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\nkept\n<!-- end -->\n"
    new = page.with_table(text, "one", ["| x |", "|---|"])
    assert "old" not in new
    assert "kept" in new
    assert page.with_table(new, "one", ["| x |", "|---|"]) == new
    with pytest.raises(SystemExit, match="three"):
        page.with_table(text, "three", [])
