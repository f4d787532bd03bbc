"""Work beside the engine: it overlaps, keeps order and bounds, and ends with its caller."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from ldmpir_edge.errors import BackendError, OutputError, ScanDataError
from ldmpir_edge.reconstruct.overlap import overlap


def as_pairs(n_items, *, prepare=lambda i: ("p", i), run=lambda i, p: ("r", i), finish=None):
    return overlap(range(n_items), prepare, run, finish or (lambda i, p, r: (i, p, r)), nothing)


def nothing() -> None:
    """What there is to do while the first item is prepared, mostly."""


def helpers():
    return [t for t in threading.enumerate() if t.name.startswith("ldmpir-")]


@pytest.mark.parametrize("n_items", [1, 2, 3, 7])
def test_every_item_comes_once_and_in_order(n_items):
    expected = [(i, ("p", i), ("r", i)) for i in range(n_items)]
    assert list(as_pairs(n_items)) == expected


def test_preparing_running_and_finishing_overlap():
    pause, n_items = 0.05, 8

    def slow(*_):
        time.sleep(pause)

    started = time.perf_counter()
    list(overlap(range(n_items), slow, slow, lambda i, p, r: None, nothing))
    # One after the other takes 16 pauses; overlapped 9.
    assert time.perf_counter() - started < 12.5 * pause


def test_the_wait_for_the_first_item_is_used():
    preparing, met = threading.Event(), []

    def prepare(i):
        preparing.set()
        time.sleep(0.05)
        met.append("prepared")

    def meanwhile():
        assert preparing.wait(5)
        met.append("meanwhile")

    def run(i, p):
        met.append("ran")

    list(overlap(range(2), prepare, run, lambda i, p, r: None, meanwhile))
    assert met[:3] == ["meanwhile", "prepared", "ran"]


def test_the_engine_stays_in_the_caller_s_thread_and_the_rest_in_one_other():
    seen = {"prepare": set(), "run": set(), "finish": set()}

    def note(stage):
        return lambda *_: seen[stage].add(threading.get_ident())

    list(overlap(range(5), note("prepare"), note("run"), note("finish"), nothing))
    assert seen["run"] == {threading.get_ident()}
    assert len(seen["prepare"] | seen["finish"]) == 1
    assert seen["prepare"] != seen["run"]


def test_no_more_than_three_items_are_held():
    started, finished, most = [0], [0], [0]

    def prepare(i):
        started[0] += 1
        most[0] = max(most[0], started[0] - finished[0])

    def finish(*_):
        finished[0] += 1

    for _ in overlap(range(20), prepare, lambda i, p: time.sleep(0.002), finish, nothing):
        time.sleep(0.005)  # a slow consumer holds the others back
    assert most[0] <= 3


def test_closing_early_joins_the_thread():
    with closing(as_pairs(1000, prepare=lambda i: time.sleep(0.01))) as items:
        next(items)
        assert helpers()
    assert not helpers()


def failing(error, at):
    def stage(index, *_):
        if index == at:
            raise error
        return index

    return stage


@pytest.mark.parametrize("stage", ["prepare", "run", "finish"])
@pytest.mark.parametrize("error", [ScanDataError("a"), BackendError("b"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [0, 3, 5])
def test_an_error_surfaces_as_it_is_and_ends_the_thread(stage, error, at):
    with pytest.raises(type(error)) as caught:
        list(as_pairs(6, **{stage: failing(error, at)}))
    assert caught.value is error
    assert not helpers()


def test_an_error_of_the_consumer_ends_the_thread():
    with pytest.raises(OutputError), closing(as_pairs(50)) as items:
        for item in items:
            if item[0] == 4:
                raise OutputError("the disk is full")
    assert not helpers()


def test_matrix_products_are_kept_to_one_thread_meanwhile():
    def widths(*_):
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        before = widths()
        stages = list(overlap(range(2), widths, widths, lambda i, p, r: p | r, nothing))
        assert stages == [{1}, {1}]
        assert widths() == before == {2}
