"""What is chosen, and when the engine is left out, from times that were measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldmpir_edge.serve.schedule import (
    MARGIN,
    Cost,
    Deadline,
    Latencies,
    ScanSize,
    Variant,
    choose_variant,
)

BRAIN = ScanSize("mri", (256, 256), 8)
EIGHT, FOUR, ONE = (8, "fp32"), (4, "fp32"), (1, "fp32")
VARIANTS: tuple[Variant, ...] = ((8, "fp32"), (4, "fp32"), (1, "fp32"))


@pytest.fixture
def latencies(tmp_path: Path) -> Latencies:
    known = Latencies(tmp_path / "latencies.json")
    known.record("a", (8, "fp32"), BRAIN, Cost(2.0, 0.5))
    known.record("a", (4, "fp32"), BRAIN, Cost(1.0, 0.5))
    return known


@pytest.mark.parametrize(
    ("remaining_s", "n_slices", "expected"),
    [
        (None, 1000, EIGHT),
        (10 * 2.0 * MARGIN + 0.5 * MARGIN + 0.01, 10, EIGHT),
        (10 * 2.0 * MARGIN + 0.5 * MARGIN - 0.01, 10, FOUR),
        (10 * 1.0 * MARGIN + 0.5 * MARGIN - 0.01, 10, ONE),  # preparing takes as long: 0.5 s
        (0.1, 10, ONE),
        (-5.0, 10, ONE),
    ],
)
def test_the_best_that_is_in_time(
    latencies: Latencies, remaining_s: float | None, n_slices: int, expected: Variant
) -> None:
    assert choose_variant(VARIANTS, latencies, "a", BRAIN, n_slices, remaining_s) == expected


def test_without_measurements_the_best_is_tried(latencies: Latencies) -> None:
    assert choose_variant(VARIANTS, latencies, "other bundle", BRAIN, 10, 1.0) == EIGHT


def test_a_size_that_was_not_measured_is_scaled(latencies: Latencies) -> None:
    twice = ScanSize("mri", (256, 512), 8)
    assert latencies.expect("a", (4, "fp32"), twice) == Cost(2.0, 1.0)
    assert latencies.expect("a", (2, "fp32"), BRAIN) == Cost(0.5, 0.5)
    assert latencies.expect("a", (4, "fp16"), BRAIN) == Cost(1.0, 0.5)
    more_coils = latencies.expect("a", (4, "fp32"), ScanSize("mri", (256, 256), 16))
    assert more_coils == Cost(1.0, 1.0)
    assert latencies.expect("a", (4, "fp32"), ScanSize("ct", (256, 256), 8)) is None


def test_a_faster_time_counts_at_once_and_a_slower_one_slowly(latencies: Latencies) -> None:
    latencies.record("a", (4, "fp32"), BRAIN, Cost(0.4, 0.9))
    measured = latencies.expect("a", (4, "fp32"), BRAIN)
    assert measured is not None
    assert measured.engine_s == 0.4
    assert 0.5 < measured.beside_s < 0.7


def test_measurements_are_kept(latencies: Latencies, tmp_path: Path) -> None:
    latencies.save()
    again = Latencies(tmp_path / "latencies.json")
    assert again.expect("a", (8, "fp32"), BRAIN) == Cost(2.0, 0.5)


@pytest.mark.parametrize("content", ["", "{", "[[1]]", '{"a": 1}', "[1]"])
def test_a_damaged_file_of_times_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "latencies.json").write_text(content)
    assert Latencies(tmp_path / "latencies.json").expect("a", (8, "fp32"), BRAIN) is None


def test_measurements_do_not_grow_without_end(tmp_path: Path) -> None:
    known = Latencies(tmp_path / "latencies.json")
    for number in range(2000):
        known.record("a", (4, "fp32"), ScanSize("ct", (16, 16 + number), 1), Cost(1.0, 1.0))
    known.save()
    assert (tmp_path / "latencies.json").stat().st_size < 100_000


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(deadline: Deadline, clock: Clock, n_slices: int, engine_s: float, beside_s: float) -> float:
    """Reconstruct against the clock; gives the time that it took."""
    started = clock.now
    for index in range(n_slices):
        clock.now += beside_s if deadline(index) else max(engine_s, beside_s)
    return clock.now - started


@pytest.mark.parametrize("remaining_s", [8.0, 12.0, 20.0, 40.0])
def test_the_image_is_out_in_time(remaining_s: float) -> None:
    clock = Clock()
    deadline = Deadline(remaining_s, 20, Cost(1.0, 0.3), "late", clock)
    assert run(deadline, clock, 20, 1.0, 0.3) <= remaining_s


def test_the_engine_gets_what_there_is_time_for() -> None:
    clock = Clock()
    deadline = Deadline(14.0, 20, Cost(1.0, 0.3), "late", clock)
    withheld = []
    for index in range(20):
        withheld.append(deadline(index) is not None)
        clock.now += 0.3 if withheld[-1] else 1.0
    # 20 · 0.3 s is what it takes without: of the other 8 s, with the margin, each costs 0.7 s.
    assert 7 <= withheld.count(False) <= 10
    assert withheld == sorted(withheld)


def test_times_of_this_scan_count_more_than_those_before() -> None:
    clock = Clock()
    deadline = Deadline(20.0, 20, None, "late", clock)
    assert deadline(0) is None
    clock.now += 5
    deadline.measured(Cost(5.0, 0.3))
    assert deadline(1) is None
    clock.now += 5
    assert deadline(2) == "late"
    deadline.measured(Cost(0.1, 0.1))
    assert deadline(3) == "late"
