"""Finding bundles, the content-addressed cache, golden pairs."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_bundle import INPUTS, MIX, OUTPUTS, golden_pair, toy_files, toy_manifest

from ldmpir_edge.bundle import (
    Bundle,
    find_bundle,
    open_bundle,
    packaged_bundles,
    store,
    write_bundle,
)
from ldmpir_edge.errors import BundleError


def test_a_variant_is_extracted_with_its_weights(bundle_path: Path, tmp_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    loaded = bundle.extract("pointwise", 1, "fp32")
    assert loaded.graph.read_bytes() == b"graph one"
    assert (loaded.graph.parent / "weights-fp32.bin").read_bytes() == MIX.tobytes()
    assert loaded.graph.is_relative_to(tmp_path / "cache" / bundle.digest[:16])
    assert not (loaded.graph.parent / "pointwise-4-fp32.onnx").exists()


def test_a_graph_has_only_the_inputs_that_it_takes(bundle_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    assert bundle.extract("pointwise", 1, "fp32").inputs == INPUTS[:2]
    assert bundle.extract("pointwise", 4, "fp32").inputs == INPUTS
    assert bundle.extract("pointwise", 4, "fp32").outputs == OUTPUTS


def test_an_intact_cache_is_used_again(bundle_path: Path) -> None:
    first = Bundle(bundle_path).extract("pointwise", 1, "fp32")
    before = first.graph.stat().st_ino
    assert Bundle(bundle_path).extract("pointwise", 1, "fp32") == first
    assert first.graph.stat().st_ino == before


def test_a_changed_cache_file_is_rewritten(bundle_path: Path) -> None:
    loaded = Bundle(bundle_path).extract("pointwise", 1, "fp32")
    for content in (b"evil  one", b"", b"a longer graph"):
        loaded.graph.write_bytes(content)
        Bundle(bundle_path).extract("pointwise", 1, "fp32")
        assert loaded.graph.read_bytes() == b"graph one"
    assert sorted(path.name for path in loaded.graph.parent.iterdir()) == [
        "pointwise-1-fp32.onnx",
        "weights-fp32.bin",
    ]


def test_two_bundles_do_not_share_a_cache(bundle_path: Path, tmp_path: Path) -> None:
    files = toy_files()
    write_bundle(tmp_path / "b.ldmpir", toy_manifest(files, notes="other"), files)
    first = open_bundle(bundle_path).extract("pointwise", 1, "fp32")
    second = open_bundle(tmp_path / "b.ldmpir").extract("pointwise", 1, "fp32")
    assert first.graph != second.graph


def test_an_unwritable_cache_falls_back_to_a_temporary_folder(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in the way").write_text("")
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "in the way"))
    loaded = open_bundle(bundle_path).extract("pointwise", 1, "fp32")
    assert loaded.graph.read_bytes() == b"graph one"
    assert not loaded.graph.is_relative_to(tmp_path / "in the way")


def test_no_place_at_all_is_one_clear_error(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Bundle, "_place", full_disk)
    with pytest.raises(BundleError, match=r"No space left on device; .*LDMPIR_CACHE_DIR"):
        open_bundle(bundle_path).extract("pointwise", 1, "fp32")


def test_the_cache_follows_xdg(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LDMPIR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    loaded = open_bundle(bundle_path).extract("pointwise", 1, "fp32")
    assert loaded.graph.parents[2] == tmp_path / "xdg" / "ldmpir-edge"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    loaded = open_bundle(bundle_path).extract("pointwise", 1, "fp32")
    assert loaded.graph.parents[2] == tmp_path / "home" / ".cache" / "ldmpir-edge"


def test_packaged_bundles_are_found_by_name(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "assets").mkdir()
    bundle_path.rename(tmp_path / "assets" / "ldmpir-toy.ldmpir")
    monkeypatch.setattr(store, "files", lambda _: tmp_path)
    monkeypatch.chdir(tmp_path)
    assert list(packaged_bundles()) == ["ldmpir-toy"]
    assert open_bundle("ldmpir-toy").manifest.model.id == "toy"
    with pytest.raises(BundleError, match="packaged bundles are: ldmpir-toy"):
        find_bundle("ldmpir-2x")


def test_the_golden_pair_survives(bundle_path: Path) -> None:
    pair, expected = open_bundle(bundle_path).golden("pointwise"), golden_pair()
    for got, want in ((pair.inputs, expected.inputs), (pair.outputs, expected.outputs)):
        assert got.keys() == want.keys()
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("1/0",))


ONE = np.ones((1, 2, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a zip", "invalid"),
        (pickle.dumps(_Evil()), "invalid"),
        (_npz(image=np.array([_Evil()], dtype=object)), "invalid"),
        (_npz(x1=ONE), "does not hold"),
        (_npz(image=ONE, stray=ONE), "does not hold"),
        (_npz(image=np.zeros(20_000_000, np.float32)), "expands to"),
    ],
)
def test_a_hostile_golden_pair_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    files = {**toy_files(), "golden/pointwise.npz": content}
    write_bundle(tmp_path / "evil.ldmpir", toy_manifest(files), files)
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path / "evil.ldmpir").golden("pointwise")


def test_golden_bytes_do_not_depend_on_the_clock() -> None:
    data = toy_files()["golden/pointwise.npz"]
    with zipfile.ZipFile(io.BytesIO(data)) as container:
        assert {info.date_time for info in container.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_bundle_without_golden_pair_says_so(tmp_path: Path) -> None:
    files = toy_files()
    family = toy_manifest(files).families[0].model_copy(update={"golden": None})
    write_bundle(tmp_path / "a.ldmpir", toy_manifest(files, families=(family,)), files)
    with pytest.raises(BundleError, match="no golden pair"):
        open_bundle(tmp_path / "a.ldmpir").golden("pointwise")
