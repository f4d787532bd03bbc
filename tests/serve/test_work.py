"""One job in the worker: its image, or the classical one and why, or what is wrong with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from small_scans import write_dicom, write_fastmri, write_sinogram

from ldmpir_edge.bundle import Precision
from ldmpir_edge.errors import BackendError, OutputError
from ldmpir_edge.physics.problem import Family
from ldmpir_edge.reconstruct import Reconstructor, reconstructor
from ldmpir_edge.scans import sample_files
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.writers import volume_page
from ldmpir_edge.serve import engines as engines_module
from ldmpir_edge.serve import work
from ldmpir_edge.serve.config import Route
from ldmpir_edge.serve.engines import BundleEngines, Engines, GoldenTest
from ldmpir_edge.serve.schedule import Cost, Latencies, ScanSize
from ldmpir_edge.serve.work import Order, Outcome, reconstruct

ROUTE = Route(name="quick", backend="onnxruntime", steps=(4, 1), deadline_s=30.0)
SIZE = ScanSize("mri", (48, 48), 4)


@pytest.fixture(scope="module")
def engines() -> Engines:
    return Engines([ROUTE], allow_unsigned=False, doors=())


class Bench:
    """A folder with payloads, and a worker's means."""

    def __init__(self, root: Path, engines: Engines) -> None:
        self.engines = engines
        self.latencies = Latencies(root / "latencies.json")
        self.payload, self.attempt = root / "payload", root / "attempt-1"
        self.payload.mkdir()
        self.slices: list[int] = []

    def run(self, route: Route = ROUTE, **changes: Any) -> Outcome:
        order = Order("a", route.name, str(self.payload), str(self.attempt), **changes)
        return reconstruct(order, route, self.engines, self.latencies, self.slices.append)

    def images(self) -> list[pydicom.Dataset]:
        return [pydicom.dcmread(path) for path in sorted(self.attempt.rglob("*.dcm"))]


@pytest.fixture
def bench(tmp_path: Path, engines: Engines) -> Bench:
    return Bench(tmp_path, engines)


def test_a_scan_becomes_images(bench: Bench) -> None:
    write_fastmri(bench.payload / "scan", n_slices=3, acceleration=2)
    outcome = bench.run()
    assert (outcome.state, outcome.reason) == ("done", None)
    report = outcome.report
    assert report["outputs"] == [f"image/000{n}.dcm" for n in (1, 2, 3)]
    assert (report["n_slices"], report["shape"]) == (3, [48, 48])
    assert (report["steps"], report["precision"], report["backend"]) == (4, "fp32", "onnxruntime")
    assert report["n_fallbacks"] == 0
    assert 0 < report["max_residual"] < 1
    assert bench.slices == [0, 1, 2]
    assert [ds.InstanceNumber for ds in bench.images()] == [1, 2, 3]
    measured = bench.latencies.expect(report["bundle_sha256"], (4, "fp32"), SIZE)
    assert measured is not None
    assert 0 < measured.engine_s <= report["seconds"]["engine"]


def test_a_series_is_one_scan(bench: Bench, rng: np.random.Generator) -> None:
    write_dicom(bench.payload / "0001.dcm", rng)
    first = pydicom.dcmread(bench.payload / "0001.dcm")
    first.SOPInstanceUID = pydicom.uid.generate_uid()
    first.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    first.InstanceNumber = 2
    first.ImagePositionPatient = [0, 0, 50]
    first.save_as(bench.payload / "0002.dcm")
    outcome = bench.run()
    assert (outcome.state, outcome.report["task"]) == ("done", "denoise")
    assert outcome.report["n_slices"] == 2


def test_a_route_enlarges_by_its_factor(bench: Bench, rng: np.random.Generator) -> None:
    write_dicom(bench.payload / "0001.dcm", rng)
    (image,) = bench.run().report["shape"][:1]
    shutil.rmtree(bench.attempt)
    outcome = bench.run(ROUTE.model_copy(update={"task": "super-resolve", "factor": 4}))
    assert (outcome.state, outcome.report["task"]) == ("done", "super-resolve")
    assert outcome.report["shape"] == [4 * image, 4 * image]


@pytest.mark.parametrize("route", [ROUTE, ROUTE.model_copy(update={"task": "denoise"})])
def test_ct_is_reconstructed_by_its_content(bench: Bench, route: Route) -> None:
    """Whatever the route does with images."""
    write_sinogram(bench.payload / "scan")
    outcome = bench.run(route)
    assert (outcome.state, outcome.report["task"]) == ("done", "ct")


def test_what_is_done_beside_the_engine_is_counted_once_a_slice(bench: Bench) -> None:
    write_fastmri(bench.payload / "scan", acceleration=2)
    report = bench.run().report
    measured = bench.latencies.expect(report["bundle_sha256"], (4, "fp32"), SIZE)
    assert measured is not None
    seconds = report["seconds"]
    beside = sum(seconds[stage] for stage in ("prepare", "check", "write"))
    assert measured.beside_s == pytest.approx(beside, rel=0.05)


def assert_classical(bench: Bench, outcome: Outcome, *words: str, cause: str = "engine") -> None:
    """Every slice is the classical image, and its header says why."""
    assert outcome.state == "fallback"
    assert outcome.report["fallback_cause"] == cause
    assert outcome.report["n_fallbacks"] == outcome.report["n_slices"]
    with open_scan(bench.payload / "scan") as scan:
        reference = Reconstructor(bench.engines.of(ROUTE).bundle)
        pieces = list(reference.stream(scan, withhold=lambda _: "classical"))
    for word in words:
        assert word in str(outcome.reason)
    for ds, piece in zip(bench.images(), pieces, strict=True):
        for word in words:
            assert word in ds.ImageComments
        mapping = ds.RealWorldValueMappingSequence[0]
        image = ds.pixel_array * mapping.RealWorldValueSlope
        np.testing.assert_allclose(image, piece.image, atol=mapping.RealWorldValueSlope)


def test_the_engine_may_be_left_out(bench: Bench) -> None:
    write_fastmri(bench.payload / "scan", n_slices=2, acceleration=2)
    assert_classical(bench, bench.run(classical="it crashed before"), "it crashed before")


def test_past_the_deadline_the_classical_image_goes_out(bench: Bench) -> None:
    write_fastmri(bench.payload / "scan", n_slices=2, acceleration=2)
    outcome = bench.run(remaining_s=-1.0, deadline_s=30.0)
    assert_classical(bench, outcome, "missed the deadline of 30 s", cause="deadline")


def test_a_job_keeps_the_deadline_that_its_route_has_lost(bench: Bench) -> None:
    write_fastmri(bench.payload / "scan", acceleration=2)
    since = ROUTE.model_copy(update={"deadline_s": None})
    outcome = bench.run(since, remaining_s=-1.0, deadline_s=20.0)
    assert_classical(bench, outcome, "missed the deadline of 20 s", cause="deadline")


def test_fewer_steps_are_taken_to_be_in_time(bench: Bench) -> None:
    write_fastmri(bench.payload / "scan", acceleration=2)
    digest = bench.engines.of(ROUTE).bundle.digest
    bench.latencies.record(digest, (4, "fp32"), SIZE, Cost(3600.0, 0.01))
    bench.latencies.record(digest, (1, "fp32"), SIZE, Cost(0.01, 0.01))
    outcome = bench.run(remaining_s=60.0)
    assert (outcome.state, outcome.report["steps"]) == ("done", 1)


def test_an_engine_that_failed_its_golden_pair_is_not_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fastmri(bench.payload / "scan", acceleration=2)
    monkeypatch.setattr(BundleEngines, "refusal", lambda *_: "the golden pair failed")
    assert_classical(bench, bench.run(), "golden pair failed")


def test_a_job_waits_until_its_engine_has_passed(
    bench: Bench, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.engines = Engines([ROUTE], allow_unsigned=False, doors=["mrd"])
    served = bench.engines.of(ROUTE)
    assert [test.family for test in served.tests] == ["cartesian1d"]
    events: list[str] = []
    test = BundleEngines._test

    def told(self: BundleEngines, family: Family, precision: Precision) -> GoldenTest:
        events.append(f"test {family}")
        return test(self, family, precision)

    monkeypatch.setattr(BundleEngines, "_test", told)
    monkeypatch.setattr(bench, "slices", SimpleNamespace(append=lambda n: events.append(f"{n}")))
    write_dicom(bench.payload / "0001.dcm", rng)
    assert bench.run().state == "done"
    assert events == ["test pointwise", "0"]


def test_an_engine_found_wrong_by_the_job_that_needs_it_is_not_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "engines", Engines([ROUTE], allow_unsigned=False, doors=["dicom"]))
    monkeypatch.setattr(engines_module, "psnr_db", lambda *_: 12.0)
    write_fastmri(bench.payload / "scan", n_slices=2, acceleration=2)
    assert_classical(bench, bench.run(), "cartesian1d engine failed its golden pair: 12.0 dB")
    # What it would have been known for, had its turn come first: the others are not trusted either.
    assert bench.engines.usable(ROUTE) == ()
    (described,) = bench.engines.describe()
    assert [test["family"] for test in described["golden"]] == ["pointwise", "cartesian1d"]


def write_large(kind: str, folder: Path) -> None:
    """Write a scan with one number above the shipped bundle's limits."""
    if kind == "views":
        write_sinogram(folder / "scan", n_views=4001)
    else:
        rng = np.random.default_rng(0)
        image = np.abs(np.add.outer(np.linspace(0, 1, 1040), np.linspace(0, 1, 48)))
        image += 0.01 * rng.standard_normal(image.shape)
        sample_files.write_dicom(folder / "scan", image.astype(np.float32), seed_text="large")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("views", ("number of views is 4001", "takes 1 to 4000")),
        ("matrix", ("height is 1040", "takes 16 to 1024")),
    ],
)
def test_a_scan_larger_than_the_network_may_have_gives_the_classical_image(
    bench: Bench, kind: str, words: tuple[str, ...]
) -> None:
    write_large(kind, bench.payload)
    outcome = bench.run()
    assert (outcome.state, outcome.report["fallback_cause"]) == ("fallback", "size")
    (ds,) = bench.images()
    for word in words:
        assert word in str(outcome.reason)
        assert word in ds.ImageComments
    image = ds.pixel_array
    assert image.std() > 0
    if kind == "matrix":
        assert image.shape == (1040, 48)


def test_more_coils_than_the_network_may_have_are_compressed(bench: Bench) -> None:
    write_fastmri(bench.payload / "scan", n_coils=40, size=32, acceleration=2)
    assert bench.engines.of(ROUTE).bundle.manifest.limits.max_coils < 40
    assert bench.run().state == "done"


def test_a_scan_that_needs_too_much_memory_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(work, "open_outputs", refuse)
    write_fastmri(bench.payload / "scan", acceleration=2)
    outcome = bench.run()
    assert (outcome.state, outcome.report) == ("failed", {"error": "MemoryError"})
    assert "6 GiB" in str(outcome.reason)


def test_an_engine_that_cannot_be_loaded_costs_no_image(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise BackendError("no engine today")

    monkeypatch.setattr(bench, "engines", Engines([ROUTE], allow_unsigned=False, doors=()))
    monkeypatch.setattr(reconstructor, "load_engine", load)
    write_fastmri(bench.payload / "scan", acceleration=2)
    assert_classical(bench, bench.run(), "no engine today")


def test_what_is_no_scan_fails_and_says_why(bench: Bench) -> None:
    (bench.payload / "scan").write_bytes(b"%PDF-1.4")
    outcome = bench.run()
    assert outcome.state == "failed"
    assert "not a scan that is known here" in str(outcome.reason)
    assert outcome.report == {"error": "ScanFormatError"}
    assert not bench.attempt.exists()


def test_a_place_that_cannot_be_written_is_not_the_scans_fault(bench: Bench) -> None:
    write_fastmri(bench.payload / "scan", acceleration=2)
    bench.attempt.touch()
    assert bench.run().state == "unwritable"


def test_an_image_that_no_format_can_hold_is_not_tried_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OutputError("DICOM cannot hold it")

    monkeypatch.setattr(work, "open_outputs", refuse)
    write_fastmri(bench.payload / "scan", acceleration=2)
    outcome = bench.run()
    assert (outcome.state, outcome.report) == ("failed", {"error": "OutputError"})


def test_a_format_that_cannot_hold_the_scan_costs_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_page, "MAX_VOXELS", 1)
    write_fastmri(bench.payload / "scan", acceleration=2)
    outcome = bench.run(formats=("viewer", "dicom"))
    assert outcome.state == "done"
    assert outcome.report["outputs"] == ["image/0001.dcm"]
    assert any("a page holds 1 voxels" in note for note in outcome.report["notes"])


def test_a_surprise_costs_one_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(*_: object) -> None:
        raise ZeroDivisionError("what nobody thought of")

    monkeypatch.setattr(work, "least_grid", surprise)
    write_fastmri(bench.payload / "scan", acceleration=2)
    outcome = bench.run()
    assert outcome.state == "failed"
    assert outcome.reason == "unexpected ZeroDivisionError: what nobody thought of"
