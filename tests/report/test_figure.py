"""The comparison figure: what its pixels show, not how it was drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldmpir_edge.errors import OutputError, ScanDataError, ShapeError
from ldmpir_edge.report.figure import comparison_figure, difference_figure


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _rgb(path: Path) -> np.ndarray:
    with Image.open(path) as png:
        assert png.format == "PNG"
        assert png.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        return np.asarray(png.convert("RGB")).astype(int)


def _panel_centres(rgb: np.ndarray, n_panels: int) -> list[np.ndarray]:
    """Mean colour in the middle of each panel; panels are 2.5 in wide, 0.06 in apart."""
    centres = [150 * (0.06 + 2.56 * i + 1.25) for i in range(n_panels)]
    row = 150 * (0.45 + 1.25)
    window = [rgb[int(row) - 20 : int(row) + 20, int(c) - 20 : int(c) + 20] for c in centres]
    return [w.reshape(-1, 3).mean(axis=0) for w in window]


def test_panels_share_the_window_of_the_reference(tmp_path):
    reference = np.full((64, 64), 100.0)
    path = tmp_path / "a.png"
    comparison_figure(path, reference * 0.5, reference * 0.9, reference, "t", "mr")
    rgb = _rgb(path)
    low, ours, truth, _ = _panel_centres(rgb, 4)
    np.testing.assert_allclose(truth, 255, atol=1)
    np.testing.assert_allclose(ours, 0.9 * 255, atol=2)
    np.testing.assert_allclose(low, 0.5 * 255, atol=2)
    assert _names(tmp_path) == ["a.png"]


def test_pixels_that_are_not_square_are_not_drawn_so(tmp_path):
    image = np.full((64, 64), 100.0)
    sizes = []
    for spacing in (None, (1.0, 1.0), (2.0, 1.0), (1.0, 2.0)):
        comparison_figure(tmp_path / "a.png", image, image, None, "t", "mr", spacing)
        sizes.append(_rgb(tmp_path / "a.png").shape[0])
    # The panel is as wide, and 2.5 in high at first.
    assert sizes[0] == sizes[1]
    assert sizes[2] - sizes[0] == pytest.approx(150 * 2.5, abs=2)
    assert sizes[0] - sizes[3] == pytest.approx(150 * 1.25, abs=2)


def test_the_error_panel_is_dark_where_ours_is_right(tmp_path):
    reference = np.full((64, 64), 100.0)
    wrong = reference.copy()
    wrong[16:48, 16:48] += 10.0  # a tenth of the window: saturates the tenfold gain
    for ours, bright in ((reference, False), (wrong, True)):
        path = tmp_path / "a.png"
        comparison_figure(path, reference * 0.5, ours, reference, "t", "mr")
        error = _panel_centres(_rgb(path), 4)[3]
        assert bool(error.sum() > 500) is bright, error


def test_without_reference_two_panels_are_drawn(tmp_path):
    image = np.full((64, 64), 40.0)  # the middle of the soft tissue window
    path = tmp_path / "a.png"
    comparison_figure(path, image - 1000, image, None, "t", "ct")
    rgb = _rgb(path)
    assert rgb.shape[1] == pytest.approx(150 * (2 * 2.56 + 0.06), abs=1)
    black, grey = _panel_centres(rgb, 2)
    np.testing.assert_allclose(black, 0, atol=1)
    np.testing.assert_allclose(grey, 127.5, atol=2)


def test_an_empty_scan_without_reference_is_drawn(tmp_path):
    comparison_figure(tmp_path / "a.png", np.zeros((8, 8)), np.zeros((8, 8)), None, "t", "mr")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_bad_panels_are_refused(tmp_path):
    good = np.ones((8, 8))
    with pytest.raises(ShapeError, match=r"\(8, 8\).*\(8, 9\)"):
        comparison_figure(tmp_path / "a.png", good, np.ones((8, 9)), None, "t", "mr")
    with pytest.raises(ScanDataError, match="NaN"):
        comparison_figure(tmp_path / "a.png", good, good * np.nan, good, "t", "mr")
    with pytest.raises(OutputError, match="folder does not exist"):
        comparison_figure(tmp_path / "none" / "a.png", good, good, None, "t", "mr")
    assert _names(tmp_path) == []


def test_two_images_and_what_sets_them_apart(tmp_path):
    reference = np.full((64, 64), 100.0)
    second = reference * 0.5
    second[16:48, 16:48] += 0.01
    path = tmp_path / "a.png"
    names = ("one", "an-engine-with-a-name-that-is-too-long@fp16")
    difference_figure(path, (reference * 0.5, second), names, reference, "t", "mr")
    rgb = _rgb(path)
    assert rgb.shape[1] == pytest.approx(150 * (3 * 2.56 + 0.06 + 0.80), abs=2)
    first, other, apart = _panel_centres(rgb, 3)
    np.testing.assert_allclose(first, 0.5 * 255, atol=2)
    np.testing.assert_allclose(other, 0.5 * 255, atol=2)
    # A ten-thousandth of the window is a bright difference.
    assert apart.sum() > 300
    difference_figure(path, (second, second), names, None, "t", "mr")
    assert _panel_centres(_rgb(path), 3)[2].sum() < 20
    with pytest.raises(ShapeError, match=r"\(64, 64\).*\(8, 8\)"):
        difference_figure(path, (second, np.ones((8, 8))), names, None, "t", "mr")


def test_no_name_is_a_formula(tmp_path):
    image = np.ones((8, 8))
    # Half a formula: matplotlib refuses it where dollar signs mean one.
    comparison_figure(tmp_path / "a.png", image, image, None, r"$\frac{$.h5", "mr")
    names = (r"$\bad$", r"$\frac{$")
    difference_figure(tmp_path / "b.png", (image, image), names, None, r"$\bad$", "mr")
    assert _names(tmp_path) == ["a.png", "b.png"]


def test_no_display_and_no_pyplot_are_touched(tmp_path):
    code = (
        "import sys, numpy as np; from pathlib import Path;"
        "import ldmpir_edge.report.figure as f, ldmpir_edge.scans.write;"
        "heavy = {'matplotlib', 'skimage', 'nibabel', 'torch'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "x = np.ones((8, 8)); f.comparison_figure(Path(sys.argv[1]), x, x, x, 't', 'mr');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
