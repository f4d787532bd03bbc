"""Golden pairs on this device, and a bundle replaced while the old one serves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_bundle import INPUTS, golden_pair, toy_files, toy_graph, toy_manifest

from ldmpir_edge.bundle import (
    GoldenPair,
    LoadedVariant,
    generate_key,
    load_signing_key,
    pack_golden,
    write_bundle,
)
from ldmpir_edge.errors import BackendError, BundleError
from ldmpir_edge.physics.problem import FAMILIES, Family
from ldmpir_edge.runtimes import Engine
from ldmpir_edge.serve import engines as engines_module
from ldmpir_edge.serve.config import Route, Source
from ldmpir_edge.serve.engines import Engines, GoldenTest
from ldmpir_edge.serve.families import route_families
from ldmpir_edge.serve.kept_bundles import KeptBundles


def write_toy(path: Path, *, answer: float = 1.0, licence: str = "Apache-2.0") -> None:
    """Write a bundle that runs; its golden answer is `answer` times what the graph gives."""
    pair = golden_pair()
    inputs = {**pair.inputs, "noise": np.zeros((1, 3, 2, 4, 6), np.float32)}
    outputs = {"image": answer * pair.outputs["image"]}
    files = toy_files() | {
        "graphs/pointwise-1-fp32.onnx": toy_graph(),
        "graphs/pointwise-4-fp32.onnx": toy_graph(),
        "golden/pointwise.npz": pack_golden(GoldenPair(pair.inputs, outputs)),
    }
    manifest = toy_manifest(files)
    variants = tuple(v.model_copy(update={"inputs": ("x1", "mask")}) for v in manifest.variants)
    model = manifest.model.model_copy(update={"licence": licence})
    manifest = manifest.model_copy(update={"variants": variants, "model": model})
    assert inputs.keys() == {spec.name for spec in INPUTS}
    temporary = path.with_suffix(".new")
    write_bundle(temporary, manifest, files)
    temporary.replace(path)


def load(path: Path, **changes: Any) -> tuple[Route, Engines]:
    route = Route(name="toy", bundle=str(path), backend="onnxruntime", **changes)
    engines = Engines([route], allow_unsigned=True, doors=["dicom"])
    assert not engines.has_untested
    return route, engines


def take_up(engines: Engines) -> None:
    """Do what the worker does in its idle time, until nothing is left."""
    engines.refresh()
    while engines.has_untested:
        engines.test_next()


def test_a_right_engine_passes(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy.ldmpir")
    route, engines = load(tmp_path / "toy.ldmpir")
    (test,) = engines.of(route).tests
    assert (test.family, test.backend, test.failure) == ("pointwise", "onnxruntime", None)
    assert test.seconds > 0
    assert engines.usable(route) == ((4, "fp32"),)


def test_a_wrong_engine_is_not_used(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy.ldmpir", answer=1.01)
    route, engines = load(tmp_path / "toy.ldmpir", steps=(4, 1))
    assert engines.usable(route) == ()
    assert "failed its golden pair" in str(engines.of(route).refusal("fp32"))
    (described,) = engines.describe()
    assert described["golden"][0]["failure"]


class OneImage(Engine):
    """An engine that answers the golden image times `factor`, or fails where that is None."""

    def __init__(self, name: str, variant: LoadedVariant, factor: float | None) -> None:
        super().__init__(name, variant)
        self.factor = factor

    def close(self) -> None:
        """Hold nothing."""

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if self.factor is None:
            raise RuntimeError("boom")
        return {"image": self.factor * golden_pair().outputs["image"]}


def test_an_engine_that_takes_over_gives_the_golden_pair_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(tmp_path / "toy.ldmpir")
    _, engines = load(tmp_path / "toy.ldmpir")
    (bundle_engines,) = engines._engines.values()
    reconstructor = bundle_engines.reconstructor((4, "fp32"))
    engine = reconstructor.engine("pointwise")
    engine._engine = OneImage("first", engine.variant, None)
    others = [OneImage("wrong", engine.variant, 1.01), OneImage("right", engine.variant, 1.0)]

    class Scripted:
        def __init__(self, engine: OneImage) -> None:
            self.engine, self.name = engine, engine.backend

        def load(self, *_: Any) -> OneImage:
            return self.engine

    engine._remaining = ((Scripted(one), f"{one.backend} is next") for one in others)
    pair = golden_pair()
    noise = np.zeros((1, 3, 2, 4, 6), np.float32)
    image = reconstructor.engine("pointwise").run({**pair.inputs, "noise": noise})["image"]
    np.testing.assert_array_equal(image, pair.outputs["image"])
    assert "failed its golden pair" in engine.reason
    (test,) = bundle_engines.tests
    assert (test.backend, test.failure) == ("right", None)


def test_a_new_file_serves_once_it_has_passed(tmp_path: Path) -> None:
    path = tmp_path / "toy.ldmpir"
    write_toy(path)
    route, engines = load(path)
    old = engines.of(route)
    take_up(engines)
    assert engines.of(route) is old

    write_toy(path, licence="MIT", answer=1.01)
    engines.refresh()
    assert engines.has_untested
    assert engines.of(route) is old
    engines.test_next()
    assert engines.of(route) is old
    assert "golden" in engines.describe()[0]["bundle_not_taken"]
    engines.refresh()
    assert not engines.has_untested  # it is not tried again and again

    path.write_bytes(path.read_bytes()[:-100])
    take_up(engines)
    assert engines.of(route) is old

    write_toy(path, licence="MIT")
    engines.refresh()
    assert engines.of(route) is old
    engines.test_next()
    assert engines.of(route) is not old
    assert engines.of(route).bundle.manifest.model.licence == "MIT"
    assert engines.describe()[0]["bundle_not_taken"] is None
    assert engines.usable(route) == ((4, "fp32"),)


def test_a_file_replaced_before_it_was_tested_never_serves(tmp_path: Path) -> None:
    path = tmp_path / "toy.ldmpir"
    write_toy(path)
    route, engines = load(path)
    old = engines.of(route)
    write_toy(path, licence="MIT")
    engines.refresh()
    path.write_bytes(path.read_bytes()[:-100])
    take_up(engines)
    assert engines.of(route) is old
    assert engines.describe()[0]["bundle_not_taken"]


@pytest.mark.parametrize("fate", ["broken", "gone"])
def test_what_becomes_of_a_file_in_service_costs_nothing(tmp_path: Path, fate: str) -> None:
    path = tmp_path / "toy.ldmpir"
    write_toy(path)
    route, engines = load(path, steps=(4, 1))
    if fate == "broken":
        path.write_bytes(bytes(path.stat().st_size))
    else:
        path.unlink()
    take_up(engines)
    served = engines.of(route)
    # Nothing of the variant with one step has been read so far.
    assert served.reconstructor((1, "fp32")).engine("pointwise") is not None
    assert served.bundle.golden("pointwise").outputs
    assert engines.usable(route) == ((4, "fp32"), (1, "fp32"))


@pytest.mark.parametrize("fate", ["broken", "gone"])
def test_a_worker_that_starts_on_a_broken_file_serves_what_served_before(
    tmp_path: Path, fate: str
) -> None:
    path = tmp_path / "toy.ldmpir"
    write_toy(path)
    routes = [Route(name=name, bundle=str(path), backend="onnxruntime") for name in ("a", "b")]
    kept = KeptBundles(tmp_path / "kept")

    def start() -> Engines:
        return Engines(routes, allow_unsigned=True, doors=["dicom"], kept=kept)

    digest = start().of(routes[0]).bundle.digest
    if fate == "broken":
        path.write_bytes(bytes(path.stat().st_size))
    else:
        path.unlink()
    engines = start()
    take_up(engines)
    for route, told in zip(routes, engines.describe(), strict=True):
        assert engines.usable(route) == ((4, "fp32"),)
        assert (told["bundle_sha256"], told["bundle_origin"]) == (digest, "kept")
        assert (told["bundle_not_taken"] is None) == (fate == "gone")
    write_toy(path, licence="MIT")
    take_up(engines)
    assert {told["bundle_origin"] for told in engines.describe()} == {"configured"}
    assert engines.of(routes[1]).bundle.manifest.model.licence == "MIT"
    path.unlink()
    assert start().of(routes[1]).bundle.manifest.model.licence == "MIT"
    # Copies are bundles like others: no signature, no service.
    with pytest.raises(BundleError, match="not signed"):
        Engines(routes, allow_unsigned=False, doors=["dicom"], kept=kept)


def test_a_file_that_is_away_for_a_moment_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "toy.ldmpir"
    write_toy(path)
    route, engines = load(path)
    old = engines.of(route)
    path.rename(tmp_path / "away")
    take_up(engines)
    (tmp_path / "away").rename(path)
    take_up(engines)
    assert engines.of(route) is old
    assert old.reconstructor((4, "fp32")).engine("pointwise") is not None


def test_only_trusted_bundles_are_loaded_and_reloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "toy.ldmpir"
    write_toy(path)
    route = Route(name="toy", bundle=str(path), backend="onnxruntime")
    with pytest.raises(BundleError, match="not signed"):
        Engines([route], allow_unsigned=False, doors=())
    keys = tmp_path / "keys"
    keys.mkdir()
    monkeypatch.setenv("LDMPIR_TRUSTED_KEYS", str(keys))
    public = generate_key(tmp_path / "key.pem")
    files = toy_files()
    signed = load_signing_key(tmp_path / "key.pem")
    write_bundle(path, toy_manifest(files), files, signed)
    with pytest.raises(BundleError, match="signed by an untrusted key"):
        Engines([route], allow_unsigned=False, doors=())
    public.rename(keys / "ours.pem")
    engines = Engines([route], allow_unsigned=False, doors=())
    write_toy(path)
    os.utime(path, ns=(1, 1))
    take_up(engines)
    assert "not signed" in engines.describe()[0]["bundle_not_taken"]


def test_routes_of_one_bundle_share_its_engines(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy.ldmpir")
    routes = [
        Route(name=name, bundle=str(tmp_path / "toy.ldmpir"), backend="onnxruntime", steps=steps)
        for name, steps in (("one", (1,)), ("four", (4,)))
    ]
    engines = Engines(routes, allow_unsigned=True, doors=["dicom"])
    assert engines.of(routes[0]) is engines.of(routes[1])
    assert [engines.usable(route) for route in routes] == [((1, "fp32"),), ((4, "fp32"),)]


def shipped(**changes: Any) -> tuple[Route, Engines]:
    route = Route(name="mr", backend="onnxruntime", steps=(1,), **changes)
    return route, Engines([route], allow_unsigned=False, doors=["mrd", "dicom"])


def families(tests: list[GoldenTest]) -> list[str]:
    return [test.family for test in tests]


def test_the_likeliest_engine_is_tested_first_and_the_others_in_turn() -> None:
    route, engines = shipped()
    served = engines.of(route)
    assert families(served.tests) == ["cartesian1d"]
    assert served.untested == [("fp32", "separable"), ("fp32", "pointwise")]
    assert engines.describe()[0]["untested"] == [
        {"family": "separable", "precision": "fp32"},
        {"family": "pointwise", "precision": "fp32"},
    ]
    while engines.has_untested:
        engines.test_next()
    assert families(served.tests) == ["cartesian1d", "separable", "pointwise"]
    engines.close()


def test_no_engine_is_given_before_it_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    route, engines = shipped()
    served = engines.of(route)
    reconstructor = served.reconstructor((1, "fp32"))
    assert reconstructor.engine("toeplitz") is not None
    assert families(served.tests) == ["cartesian1d", "toeplitz"]
    assert reconstructor.engine("toeplitz") is not None
    assert families(served.tests) == ["cartesian1d", "toeplitz"]  # once

    monkeypatch.setattr(engines_module, "psnr_db", lambda *_: 12.0)
    with pytest.raises(BackendError, match=r"pointwise engine failed its golden pair: 12\.0 dB"):
        reconstructor.engine("pointwise")
    assert engines.usable(route) == ()
    engines.close()


def test_where_engines_are_built_for_minutes_all_are_tested_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines_module, "SLOW_S", 0.0)
    route, engines = shipped()
    assert families(engines.of(route).tests) == ["cartesian1d", "separable", "pointwise"]
    engines.close()


@pytest.mark.parametrize(
    ("doors", "route", "expected"),
    [
        (["mrd"], {}, ("cartesian1d", "separable")),
        (["dicom"], {}, ("pointwise",)),
        (["mrd", "dicom"], {"sources": ("dicom",)}, ("pointwise",)),
        (["mrd"], {"sources": ("dicom",)}, ()),
        (["dicom", "http"], {"task": "super-resolve"}, ("separable",)),
        (["http"], {"task": "denoise"}, ("pointwise",)),
        (["mrd", "http"], {"task": "denoise"}, ("cartesian1d", "separable", "pointwise")),
        (["dicom", "watch"], {}, ("pointwise", *(f for f in FAMILIES if f != "pointwise"))),
    ],
)
def test_what_doors_can_bring(
    doors: list[Source], route: dict[str, Any], expected: tuple[Family, ...]
) -> None:
    assert route_families(Route(name="a", **route), doors) == expected
