"""A measurement says what took how long; one that fails takes nothing else with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from small_scans import write_dicom, write_fastmri

from ldmpir_edge.errors import BackendError, BundleError
from ldmpir_edge.reconstruct import bench_worker
from ldmpir_edge.reconstruct.bench import BenchPlan, run_bench
from ldmpir_edge.reconstruct.bench_worker import (
    STAGES,
    WARM_UP,
    BenchRequest,
    answer,
    measure,
    peak_memory_mib,
)
from ldmpir_edge.reconstruct.combinations import Combination
from ldmpir_edge.report.metrics import psnr
from ldmpir_edge.runtimes.onnxruntime_backend import OnnxRuntimeEngine
from ldmpir_edge.scans.fastmri import FastMriScan

FAKE = """
import json, os, sys
request = json.loads(sys.argv[1])
with open({log!r}, "a") as log:
    print(json.dumps([request, os.environ.get("LDMPIR_CACHE_DIR"), os.getpid()]), file=log)
print("a library says hello")
print(json.dumps({{"unrelated": 1}}))
print(json.dumps({{"done": 1}}))
{then}
seconds = [dict.fromkeys("read prepare engine check write slice".split(), float(k))
           for k in range(request["repeats"])]
print(json.dumps({{"result": {{"first_image_s": 2.0 + request["repeats"], "seconds": seconds,
    "peak_memory_mib": 100.0, "psnr_db": None, "fallback": None, "version": "1.2"}}}}))
"""
ONE = [Combination("onnxruntime", "fp32")]
TWO = [*ONE, Combination("openvino", "int8")]


def request(bundle, path, **changes):
    fields = {"backend": "onnxruntime", "precision": "fp32", "n_steps": 1, "repeats": 2}
    started = time.monotonic()
    return BenchRequest(
        bundle=str(bundle.path), scan=str(path), started=started, **fields | changes
    )


@pytest.fixture
def fake(tmp_path):
    """A process that answers as `then` lets it, what it was asked, and a plan."""

    def make(then="pass", repeats=10):
        log = tmp_path / "log"
        process = [sys.executable, "-c", FAKE.format(log=str(log), then=then)]
        plan = BenchPlan(tmp_path / "b.ldmpir", tmp_path / "s.h5", 4, repeats)
        return process, plan, lambda: [json.loads(line) for line in log.read_text().splitlines()]

    return make


def test_a_slice_is_timed_by_stage(bundle, tmp_path, monkeypatch):
    write_fastmri(tmp_path / "a.h5", n_slices=3, acceleration=2)
    waits = {"read": 0.3, "engine": 0.2}

    def slowed(kind, stage):
        honest = getattr(kind, stage)

        def slow(self, *arguments):
            time.sleep(waits["read" if kind is FastMriScan else "engine"])
            return honest(self, *arguments)

        monkeypatch.setattr(kind, stage, slow)

    slowed(FastMriScan, "_read_kspace")
    slowed(OnnxRuntimeEngine, "_run")
    done = []
    result = measure(request(bundle, tmp_path / "a.h5"), done.append)
    assert done == list(range(1, 1 + WARM_UP + 2 + 1))
    assert len(result["seconds"]) == 2
    for seconds in result["seconds"]:
        assert set(seconds) == {*STAGES, "slice"}
        assert all(value >= 0 for value in seconds.values())
        assert waits["read"] <= seconds["read"]
        assert waits["engine"] <= seconds["engine"]
        # Reading is in no other stage: what is left of a slice is less than the waiting alone.
        assert seconds["slice"] - seconds["read"] < waits["read"] + waits["engine"]
        assert sum(seconds[stage] for stage in STAGES) <= seconds["slice"]
    assert result["first_image_s"] > waits["read"] + waits["engine"]
    assert result["fallback"] is None


def test_the_middle_slice_is_the_one_that_is_scored(bundle, real, tmp_path):
    rss = write_fastmri(tmp_path / "a.h5", n_slices=3, acceleration=3)
    asked = request(bundle, tmp_path / "a.h5", n_steps=real.n_steps, repeats=0)
    result = measure(asked, lambda _: None)
    expected = psnr(real(tmp_path / "a.h5").image[1], rss[1], "mr")
    assert result["psnr_db"] == pytest.approx(expected, abs=1e-3)
    assert result["seconds"] == []


def test_images_have_no_reference(bundle, tmp_path, rng):
    write_dicom(tmp_path / "a.dcm", rng)
    assert measure(request(bundle, tmp_path / "a.dcm"), lambda _: None)["psnr_db"] is None


def test_an_engine_that_gives_no_image_is_an_error(bundle, tmp_path, monkeypatch):
    write_fastmri(tmp_path / "a.h5")

    def broken(*_):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(OnnxRuntimeEngine, "_run", broken)
    with pytest.raises(BackendError, match="the device is gone"):
        measure(request(bundle, tmp_path / "a.h5"), lambda _: None)


def test_a_fallback_is_reported(bundle, tmp_path, monkeypatch):
    write_fastmri(tmp_path / "a.h5")
    monkeypatch.setattr("ldmpir_edge.reconstruct.checks.MAX_ENGINE_VALUE", 0.1)
    assert "times the bright end" in measure(request(bundle, tmp_path / "a.h5"), print)["fallback"]


def test_the_worker_answers_in_lines(bundle, tmp_path, capsys, monkeypatch):
    answer(request(bundle, tmp_path / "none.h5", n_steps=5).to_json())
    (line,) = capsys.readouterr().out.splitlines()
    assert "5 steps" in json.loads(line)["error"]
    monkeypatch.setattr(bench_worker, "measure", lambda _, on_slice: on_slice(3))
    answer(request(bundle, tmp_path / "none.h5").to_json())
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"done": 3}, {"result": None}]


def test_peak_memory_is_this_process_s_own():
    ask = "from ldmpir_edge.reconstruct.bench_worker import peak_memory_mib as p; {}; print(p())"

    def peak(statement):
        command = [sys.executable, "-c", ask.format(statement)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    bare = peak("pass")
    assert peak("block = b'x' * (128 * 2**20); del block") == pytest.approx(bare + 128, abs=16)
    # It does not inherit that of the process that started it, as it would by getrusage.
    block = b"x" * (512 * 2**20)
    assert peak_memory_mib() > 512
    assert peak("pass") == pytest.approx(bare, abs=16)
    del block


def test_two_processes_share_a_cache_of_their_own(fake):
    process, plan, asked = fake()
    steps = []
    (row,) = run_bench(plan, ONE, process, lambda *step: steps.append(step))
    (first, cache, pid), (second, same_cache, other_pid) = asked()
    assert (first["repeats"], second["repeats"]) == (0, 10)
    assert cache == same_cache
    assert pid != other_pid
    assert not os.path.exists(cache)  # noqa: PTH110
    assert first["started"] < second["started"] < time.monotonic()
    assert (row.first_start_s, row.cold_start_s) == (2.0, 12.0)
    assert (row.backend, row.precision, row.version, row.reason) == (
        "onnxruntime",
        "fp32",
        "1.2",
        "",
    )
    percentiles = np.percentile(np.arange(10), (50, 90, 99))
    for stage in (*STAGES, "slice"):
        found = row.seconds[stage]
        np.testing.assert_allclose((found.p50, found.p90, found.p99), percentiles)
    done = [done for _, done, _ in steps]
    assert done == sorted(done)
    assert steps[-1] == ("onnxruntime fp32", 2 + WARM_UP + 10, 2 + WARM_UP + 10)


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ('print(json.dumps({"error": "it does not fit"})); sys.exit()', "it does not fit"),
        ('raise ValueError("of all things")', "exit code 1: ValueError: of all things"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("sys.exit()", "the process ended with exit code 0"),
    ],
)
def test_a_failing_process_is_a_row_with_the_reason(fake, then, reason):
    process, plan, asked = fake(f'if request["backend"] == "onnxruntime":\n    {then}')
    failed, measured = run_bench(plan, TWO, process)
    assert reason in failed.reason
    assert (failed.seconds, failed.first_start_s) == ({}, None)
    assert measured.reason == ""
    assert measured.seconds
    assert [sent["backend"] for sent, _, _ in asked()] == 2 * ["onnxruntime"] + 2 * ["openvino"]


def test_what_only_compile_builds_is_found_in_the_user_s_cache(fake, monkeypatch, tmp_path):
    mine = str(tmp_path / "mine")
    monkeypatch.setenv("LDMPIR_CACHE_DIR", mine)
    unbuilt = 'print(json.dumps({"error": "compile it"})); sys.exit()'
    process, plan, asked = fake(f'if os.environ["LDMPIR_CACHE_DIR"] != {mine!r}:\n    {unbuilt}')
    (row,) = run_bench(plan, ONE, process)
    assert (row.first_start_s, row.cold_start_s, row.reason) == (None, 12.0, "")
    assert [cache for _, cache, _ in asked()][1] == mine


def test_an_interruption_ends_the_process(fake):
    process, plan, asked = fake("import time; sys.stdout.flush(); time.sleep(60)")

    def interrupt(_, done, __):
        if done:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(run_bench(plan, ONE, process, interrupt))
    assert time.monotonic() - started < 30
    ((_, _, pid),) = asked()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_the_bundle_lacks_is_an_error(bundle, tmp_path):
    with pytest.raises(BundleError, match="5 steps"):
        measure(request(bundle, tmp_path / "none.h5", n_steps=5), lambda _: None)
