"""The figure of `bench` shows the times that it was given."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from ldmpir_edge.errors import OutputError
from ldmpir_edge.report.bench_figure import STAGE_COLOURS, Timing, bench_figure

STAGES = {"read": 0.05, "prepare": 0.2, "engine": 0.4, "check": 0.05, "write": 0.1}


def timing(label, faster=1.0, psnr_db=31.0):
    stages = {stage: seconds / faster for stage, seconds in STAGES.items()}
    whole = sum(stages.values())
    return Timing(label, stages, whole, 1.1 * whole, psnr_db)


def counted(path):
    """Pixels of each stage's colour."""
    pixels = np.asarray(Image.open(path).convert("RGB"), float) / 255
    return [int((np.abs(pixels - to_rgb(c)).max(axis=-1) < 0.02).sum()) for c in STAGE_COLOURS]


def test_bars_are_as_long_as_the_stages_take(tmp_path):
    bench_figure(tmp_path / "a.png", [timing("x", psnr_db=None)], "title")
    areas = np.array(counted(tmp_path / "a.png"))
    # The legend has a patch of each colour too.
    shares = (areas - areas.min()) / (areas.max() - areas.min())
    seconds = np.array(list(STAGES.values()))
    expected = (seconds - seconds.min()) / (seconds.max() - seconds.min())
    np.testing.assert_allclose(shares, expected, atol=0.05)


def test_every_timing_has_its_bar(tmp_path):
    bench_figure(tmp_path / "one.png", [timing("x", psnr_db=None)], "title")
    rows = [timing("x", psnr_db=None), timing("y", 2, psnr_db=None), timing("z", 4, psnr_db=None)]
    bench_figure(tmp_path / "three.png", rows, "title")
    one, three = (counted(tmp_path / f"{name}.png")[2] for name in ("one", "three"))
    assert three / one == pytest.approx(1 + 1 / 2 + 1 / 4, rel=0.05)


def test_quality_is_drawn_where_there_is_a_reference(tmp_path):
    rows = [timing(str(k), 1 + k, psnr_db=30 + k / 10) for k in range(7)]
    bench_figure(tmp_path / "with.png", rows, "title")
    bench_figure(tmp_path / "without.png", [timing("x", psnr_db=None)] * 7, "title")
    sides = [Image.open(tmp_path / name).convert("L") for name in ("with.png", "without.png")]
    assert sides[0].size == sides[1].size
    # A second panel has a left axis of its own, at the middle of the page.
    with_panel, without = (np.asarray(side, float) for side in sides)
    assert not np.array_equal(with_panel, without)
    assert counted(tmp_path / "with.png")[2] < counted(tmp_path / "without.png")[2]


def test_a_figure_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="none"):
        bench_figure(tmp_path / "none" / "a.png", [timing("x")], "title")
    assert list(tmp_path.iterdir()) == []
