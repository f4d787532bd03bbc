"""Which tuned parameters a peer gets at an acceleration."""

from __future__ import annotations

import acceleration
import pytest


@pytest.mark.parametrize(("factor", "tuned"), [(2, 4), (4, 4), (5.6, 4), (5.7, 8), (8, 8), (16, 8)])
def test_the_nearer_by_ratio(factor, tuned):
    # √(4 · 8) = 5.66 lies in the middle.
    assert acceleration.nearest_tuned(factor) == tuned


def test_the_cases_are_those_of_the_benchmark():
    assert set(acceleration.TUNED_AT.values()) <= set(acceleration.quality.CASES)
