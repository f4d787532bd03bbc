"""The manifest: what strict parsing refuses, and that it says where."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError
from toy_bundle import toy_files, toy_manifest

from ldmpir_edge.bundle import Manifest
from ldmpir_edge.bundle.manifest import parse_manifest
from ldmpir_edge.errors import BundleError, UnsupportedSizeError


@pytest.fixture
def manifest() -> Manifest:
    return toy_manifest(toy_files())


def test_round_trip_and_stable_bytes(manifest: Manifest) -> None:
    data = manifest.to_bytes()
    again = parse_manifest(data, "toy")
    assert again == manifest
    assert again.to_bytes() == data


def test_the_format_is_stated_in_plain_json(manifest: Manifest) -> None:
    plain = json.loads(manifest.to_bytes())
    assert (plain["format"], plain["manifest_version"]) == ("ldmpir", 1)
    assert plain["created"] == "2026-11-22T00:00:00Z"
    assert plain["families"][0]["inputs"][2]["shape"] == ["B", "n_steps-1", 2, "H", "W"]


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m["model"].update(surprise=1), "model.surprise"),
        (lambda m: m.pop("scaling"), "scaling"),
        (lambda m: m["model"].update(n_parameters="4"), "model.n_parameters"),
        (lambda m: m["model"].update(n_parameters=-1), "model.n_parameters"),
        (lambda m: m.update(verified=1), "verified"),
        (lambda m: m.update(created="2026-11-22T00:00:00"), "created"),
        (lambda m: m["families"][0].update(name="polar"), "families.0.name"),
        (lambda m: m["families"][0]["inputs"][0].update(dtype="complex64"), "dtype"),
        (lambda m: m["families"][0]["inputs"][0].update(shape=["B", "H*W"]), "shape"),
        (lambda m: m["families"][0]["inputs"][0].update(shape=["B", 0]), "shape"),
        (lambda m: m["families"][0]["inputs"][0].update(name="mask"), "names a tensor twice"),
        (lambda m: m["variants"][0].update(graph="../evil.onnx"), "variants.0.graph"),
        (lambda m: m["variants"][0].update(weights=["weights.bin"]), "folder"),
        (lambda m: m["variants"][0].update(graph="graphs/absent.onnx"), "absent.onnx"),
        (lambda m: m["variants"][0].update(inputs=["b"]), "its family lacks"),
        (lambda m: m["variants"][0].update(n_steps=8), "nothing describes"),
        (lambda m: m["variants"][0].update(n_steps=4), "listed twice"),
        (lambda m: m["variants"][0].update(gate=[]), "has not passed its gate"),
        (lambda m: m["variants"][0]["gate"][0].update(passed=False), "has not passed its gate"),
        (lambda m: m["families"].append(m["families"][0]), "described twice"),
        (lambda m: m["sampler"].update(default_n_steps=8), "default_n_steps"),
        (lambda m: m["sampler"]["presets"][1].update(times=[1, 0.5, 0.7, 0.1, 0]), "times"),
        (lambda m: m["sampler"]["presets"][1].update(times=[1, 0]), "times"),
        (lambda m: m["limits"].update(min_width=1000), "minimum"),
        (lambda m: m["entries"]["graphs/weights-fp32.bin"].update(sha256="A" * 64), "sha256"),
        (lambda m: m["entries"].update({"a/../b": m["entries"].popitem()[1]}), "plain relative"),
    ],
)
def test_a_manifest_that_contradicts_the_schema_is_refused(
    manifest: Manifest, change: Change, where: str
) -> None:
    plain = json.loads(manifest.to_bytes())
    change(plain)
    with pytest.raises(BundleError) as caught:
        parse_manifest(json.dumps(plain).encode(), "toy")
    assert where in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failed_gate_is_allowed_in_an_unverified_bundle(manifest: Manifest) -> None:
    plain = json.loads(manifest.to_bytes())
    plain["verified"] = False
    plain["variants"][0]["gate"] = []
    assert not parse_manifest(json.dumps(plain).encode(), "toy").verified


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(manifest: Manifest, constant: str) -> None:
    data = manifest.to_bytes().replace(b"-0.001", constant.encode())
    assert constant.encode() in data
    with pytest.raises(BundleError):
        parse_manifest(data, "toy")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"[]",
        b"null",
        b'{"format": "zip"}',
        b'{"format": "ldmpir", "format": "ldmpir"}',
        b"[" * 200_000,
        b'{"format": ' + b"9" * 5000 + b"}",
    ],
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        parse_manifest(data, "toy")


def test_a_repeated_key_deep_inside_is_refused(manifest: Manifest) -> None:
    data = manifest.to_bytes().replace(b'"n_parameters": 4', b'"n_parameters": 4,"n_parameters":5')
    with pytest.raises(BundleError, match="repeated"):
        parse_manifest(data, "toy")


def test_manifests_are_frozen(manifest: Manifest) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        manifest.verified = False


def test_a_time_without_zone_cannot_be_written() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        toy_manifest(toy_files(), created=datetime(2026, 1, 1))


def test_an_absent_variant_or_family_lists_what_there_is(manifest: Manifest) -> None:
    with pytest.raises(BundleError, match=r"1 steps fp32, 4 steps fp32"):
        manifest.variant("pointwise", 8, "fp32")
    with pytest.raises(BundleError, match="it holds pointwise"):
        manifest.family("rays")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((15, 32), "height is 15; this bundle takes 16 to 64"),
        ((64, 49), "width is 49; this bundle takes 16 to 48"),
        ((64, 48, 9), "coils is 9; this bundle takes 1 to 8"),
        ((64, 48, 0), "coils is 0"),
        ((64, 48, 1, 91), "views is 91"),
    ],
)
def test_sizes_outside_the_limits_are_refused(
    manifest: Manifest, size: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UnsupportedSizeError, match=message):
        manifest.limits.check(*size)


def test_sizes_on_the_limits_are_taken(manifest: Manifest) -> None:
    manifest.limits.check(16, 16)
    manifest.limits.check(64, 48, 8, 90)
