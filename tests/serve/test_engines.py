"""Golden pairs on this device, and a bundle replaced while the old one serves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_bundle import INPUTS, golden_pair, toy_files, toy_graph, toy_manifest

from ldmpir_edge.bundle import GoldenPair, generate_key, load_signing_key, pack_golden, write_bundle
from ldmpir_edge.errors import BundleError
from ldmpir_edge.serve.config import Route
from ldmpir_edge.serve.engines import Engines


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
    return route, Engines([route], allow_unsigned=True, families=["pointwise", "rays"])


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


def test_a_new_file_serves_once_it_has_passed(tmp_path: Path) -> None:
    path = tmp_path / "toy.ldmpir"
    write_toy(path)
    route, engines = load(path)
    old = engines.of(route)
    assert not engines.refresh()

    write_toy(path, licence="MIT", answer=1.01)
    assert engines.refresh()
    assert engines.of(route) is old
    assert "golden" in engines.describe()[0]["bundle_not_taken"]
    assert not engines.refresh()  # it is not tried again and again

    path.write_bytes(path.read_bytes()[:-100])
    assert engines.refresh()
    assert engines.of(route) is old

    write_toy(path, licence="MIT")
    assert engines.refresh()
    assert engines.of(route) is not old
    assert engines.of(route).bundle.manifest.model.licence == "MIT"
    assert engines.describe()[0]["bundle_not_taken"] is None
    assert engines.usable(route) == ((4, "fp32"),)


def test_a_file_that_is_away_for_a_moment_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "toy.ldmpir"
    write_toy(path)
    route, engines = load(path)
    old = engines.of(route)
    path.rename(tmp_path / "away")
    assert not engines.refresh()
    (tmp_path / "away").rename(path)
    assert not engines.refresh()
    assert engines.of(route) is old
    assert old.reconstructor((4, "fp32")).engine("pointwise") is not None


def test_only_trusted_bundles_are_loaded_and_reloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "toy.ldmpir"
    write_toy(path)
    route = Route(name="toy", bundle=str(path), backend="onnxruntime")
    with pytest.raises(BundleError, match="not signed"):
        Engines([route], allow_unsigned=False, families=[])
    keys = tmp_path / "keys"
    keys.mkdir()
    monkeypatch.setenv("LDMPIR_TRUSTED_KEYS", str(keys))
    public = generate_key(tmp_path / "key.pem")
    files = toy_files()
    signed = load_signing_key(tmp_path / "key.pem")
    write_bundle(path, toy_manifest(files), files, signed)
    with pytest.raises(BundleError, match="signed by an untrusted key"):
        Engines([route], allow_unsigned=False, families=[])
    public.rename(keys / "ours.pem")
    engines = Engines([route], allow_unsigned=False, families=[])
    write_toy(path)
    os.utime(path, ns=(1, 1))
    assert engines.refresh()
    assert "not signed" in engines.describe()[0]["bundle_not_taken"]


def test_routes_of_one_bundle_share_its_engines(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy.ldmpir")
    routes = [
        Route(name=name, bundle=str(tmp_path / "toy.ldmpir"), backend="onnxruntime", steps=steps)
        for name, steps in (("one", (1,)), ("four", (4,)))
    ]
    engines = Engines(routes, allow_unsigned=True, families=["pointwise"])
    assert engines.of(routes[0]) is engines.of(routes[1])
    assert [engines.usable(route) for route in routes] == [((1, "fp32"),), ((4, "fp32"),)]
