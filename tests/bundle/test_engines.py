"""Engines in a bundle: what was packed comes out, and nothing else does."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_bundle import toy_files, toy_manifest

from ldmpir_edge.bundle import (
    BuildRecipe,
    EngineSpec,
    Manifest,
    open_bundle,
    pack_engines,
    packaged_bundles,
    write_bundle,
)
from ldmpir_edge.bundle import engines as engines_module
from ldmpir_edge.bundle.archive import MANIFEST, Archive
from ldmpir_edge.bundle.manifest import parse_manifest
from ldmpir_edge.errors import BundleError, BundleTamperedError

PACK = "engines/fp32.xz"
WEIGHTS = np.random.default_rng(5).bytes(300_000)
ENGINES = (b"one step" + WEIGHTS, b"four steps" + WEIGHTS + b"!")


def spec(number: int, **changes: Any) -> EngineSpec:
    fields: dict[str, Any] = {
        "family": "pointwise",
        "n_steps": (1, 4)[number],
        "precision": "fp32",
        "backend": "tensorrt_rtx",
        "version": "1.7.1.116",
        "platform": "linux-x86_64",
        "compute_capabilities": ("8.6", "12.0"),
        "validity": "unchecked",
        "pack": PACK,
        "offset": number * len(ENGINES[0]),
        "size": len(ENGINES[number]),
        "sha256": hashlib.sha256(ENGINES[number]).hexdigest(),
    }
    return EngineSpec(**fields | changes)


def bundle(path: Path, pack: bytes, *specs: EngineSpec) -> Path:
    files = {**toy_files(), PACK: pack}
    write_bundle(path, toy_manifest(files, engines=specs), files)
    return path


def test_engines_come_out_as_they_went_in(tmp_path: Path) -> None:
    opened = open_bundle(bundle(tmp_path / "a.ldmpir", pack_engines(ENGINES), spec(0), spec(1)))
    for entry, engine in zip(opened.manifest.engines, ENGINES, strict=True):
        assert opened.engine(entry) == engine


def test_weights_that_engines_share_are_stored_once() -> None:
    assert len(pack_engines(ENGINES)) < 1.05 * len(WEIGHTS)


@pytest.mark.parametrize(
    ("pack", "changes"),
    [
        (b"not xz at all", {}),
        (pack_engines(ENGINES)[:-200], {"n_steps": 4, "offset": 10, "size": 600_000}),
        (pack_engines(ENGINES), {"offset": 1}),
        (pack_engines([ENGINES[0][:-1] + b"x"]), {}),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, pack: bytes, changes: dict[str, Any]) -> None:
    opened = open_bundle(bundle(tmp_path / "a.ldmpir", pack, spec(0, **changes)))
    with pytest.raises(BundleTamperedError, match="export the bundle again"):
        opened.engine(opened.manifest.engines[0])


def test_a_pack_cannot_fill_the_memory(tmp_path: Path) -> None:
    """Neither by what it says, nor by what it unpacks to, nor by the dictionary it asks for."""
    bomb = lzma.compress(bytes(50_000_000))
    opened = open_bundle(bundle(tmp_path / "a.ldmpir", bomb, spec(0)))
    with pytest.raises(BundleTamperedError):
        opened.engine(opened.manifest.engines[0])
    large = spec(0, offset=engines_module.MAX_PACK_BYTES)
    opened = open_bundle(bundle(tmp_path / "b.ldmpir", bomb, large))
    with pytest.raises(BundleError, match="at most 1073741824"):
        opened.engine(large)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 256 * 2**20}]
    greedy = lzma.compress(ENGINES[0], format=lzma.FORMAT_XZ, filters=filters)
    opened = open_bundle(bundle(tmp_path / "c.ldmpir", greedy, spec(0)))
    with pytest.raises(BundleTamperedError, match=r"(?i)memory"):
        opened.engine(opened.manifest.engines[0])


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"n_steps": 8}, "of no variant"),
        ({"pack": "engines/absent.xz"}, "absent.xz"),
        ({"pack": "../evil.xz"}, "pack"),
        ({"compute_capabilities": []}, "compute_capabilities"),
        ({"compute_capabilities": ["sm_86"]}, "compute_capabilities"),
        ({"size": 0}, "size"),
    ],
)
def test_a_manifest_with_a_wrong_engine_is_refused(changes: dict[str, Any], where: str) -> None:
    files = {**toy_files(), PACK: pack_engines(ENGINES)}
    plain = json.loads(toy_manifest(files, engines=(spec(0),)).to_bytes())
    plain["engines"][0].update(changes)
    with pytest.raises(BundleError, match=where):
        parse_manifest(json.dumps(plain).encode(), "toy")


def test_a_bundle_without_engines_reads_as_before_there_were_any() -> None:
    plain = json.loads(toy_manifest(toy_files()).to_bytes())
    assert not {"engines", "recipe"} & plain.keys()
    assert parse_manifest(json.dumps(plain).encode(), "toy").recipe is None
    with_recipe = toy_manifest(toy_files(), recipe=BuildRecipe(workspace_mib=512))
    again = parse_manifest(with_recipe.to_bytes(), "toy")
    assert again == with_recipe
    assert again.recipe is not None
    assert again.recipe.typical.coils == 8


def test_packaged_bundles_keep_their_bytes() -> None:
    for path in packaged_bundles().values():
        archive = Archive(path)
        stored = archive._content(MANIFEST, 2**22)
        assert Manifest.model_validate_json(stored).engines == ()
        assert {"engines", "recipe"}.isdisjoint(json.loads(stored))
        assert archive.trust.status == "trusted"


def test_a_variant_knows_the_sizes_and_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    recipe = BuildRecipe(backend="tensorrt_rtx")
    write_bundle(tmp_path / "a.ldmpir", toy_manifest(toy_files(), recipe=recipe), toy_files())
    opened = open_bundle(tmp_path / "a.ldmpir")
    variant = opened.extract("pointwise", 4, "fp32")
    assert (variant.limits, variant.recipe) == (opened.manifest.limits, recipe)
