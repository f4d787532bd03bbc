"""From a bundle to compiled engines to a run that uses them, on a pretended GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import PLAN, FakeCuda, FakeLibrary
from toy_bundle import toy_answer, toy_files, toy_graph, toy_manifest

from ldmpir_edge.bundle import (
    Bundle,
    EngineSpec,
    LoadedVariant,
    generate_key,
    load_signing_key,
    open_bundle,
    pack_engines,
    write_bundle,
)
from ldmpir_edge.errors import BackendError, BundleError, OutputError, UsageError
from ldmpir_edge.runtimes import choose_backend, get_backend, load_engine
from ldmpir_edge.runtimes.tensorrt import (
    TensorRtBackend,
    TensorRtRtxBackend,
    backend,
    cache,
    install,
)
from ldmpir_edge.runtimes.tensorrt.cache import EngineCache, engine_name
from ldmpir_edge.runtimes.tensorrt.compile import BuiltEngine
from ldmpir_edge.runtimes.tensorrt.hardware import Gpu, why_no_gpu
from ldmpir_edge.runtimes.tensorrt.install import choose_compiler, engine_platform, install_engines

READY = b"a plan from the bundle"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the library was asked to build, in order; it answers at once."""
    asked: list[dict[str, Any]] = []

    def build(library: Any, graph: Path, profile: Any, **options: Any) -> BuiltEngine:
        options["on_progress"](0.5)
        asked.append({"graph": graph.name, "profile": profile, **options})
        timing = options["timing_cache"]
        return BuiltEngine(PLAN, None if timing is None else timing + b"times;")

    monkeypatch.setattr(install, "build_engine", build)
    return asked


def make_bundle(folder: Path, *, sign: bool = False, **engine: Any) -> Bundle:
    """The toy bundle with one engine compiled ahead of time, signed with a trusted key or not."""
    pack = pack_engines([READY])
    files = {**toy_files(), "graphs/pointwise-1-fp32.onnx": toy_graph(), "engines/e.xz": pack}
    spec: dict[str, Any] = {
        "family": "pointwise",
        "n_steps": 1,
        "precision": "fp32",
        "backend": "tensorrt",
        "version": "11.4.0",
        "platform": engine_platform(),
        "compute_capabilities": ("8.6", "8.9"),
        "validity": "unchecked",
        "pack": "engines/e.xz",
        "offset": 0,
        "size": len(READY),
        "sha256": hashlib.sha256(READY).hexdigest(),
    }
    manifest = toy_manifest(files, engines=(EngineSpec(**spec | engine),))
    key = None
    if sign:
        public = generate_key(folder / "works.pem")
        trusted = folder / "config" / "ldmpir-edge" / "trusted_keys"
        trusted.mkdir(parents=True)
        public.rename(trusted / "works.pem")
        key = load_signing_key(folder / "works.pem")
    write_bundle(folder / "toy.ldmpir", manifest, files, key)
    return open_bundle(folder / "toy.ldmpir")


def install_all(bundle: Bundle, n_steps: tuple[int, ...] = (1,), **options: Any) -> list[str]:
    made = install_engines(bundle, TensorRtBackend(), ("fp32",), n_steps, **options)
    return [engine.origin for engine in made]


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "x1": rng.standard_normal((1, 2, 16, 16), dtype=np.float32),
        "mask": rng.random((1, 16, 16), dtype=np.float32),
    }


def test_what_is_compiled_is_used_from_then_on(
    tmp_path: Path, cuda: FakeCuda, builds: list[dict[str, Any]], rng: np.random.Generator
) -> None:
    bundle = make_bundle(tmp_path)
    variant = bundle.extract("pointwise", 1, "fp32")
    given = inputs(rng)
    with load_engine(variant) as engine:
        assert engine.backend == "openvino"
        assert "tensorrt has no engine of pointwise, 1 steps, fp32 for this GPU" in engine.reason
        assert "ldmpir-edge compile BUNDLE" in engine.reason
        np.testing.assert_allclose(engine.run(given)["image"], toy_answer(**given), rtol=1e-6)
    assert install_all(bundle) == ["compiled"]
    with load_engine(variant) as engine:
        assert engine.backend == "tensorrt"
        assert "11.4.0" in engine.reason
        np.testing.assert_allclose(engine.run(given)["image"], toy_answer(**given), rtol=1e-6)
    assert install_all(bundle) == ["kept"]
    assert len(builds) == 1
    # Another variant of the same bundle is not compiled by that.
    with pytest.raises(BackendError, match="--precision fp32 --steps 4` first"):
        get_backend("tensorrt").load(bundle.extract("pointwise", 4, "fp32"))


def test_a_scan_too_large_for_the_engine_goes_to_the_next_backend(
    tmp_path: Path, cuda: FakeCuda, builds: list[dict[str, Any]], rng: np.random.Generator
) -> None:
    bundle = make_bundle(tmp_path)
    install_all(bundle)
    large = {
        "x1": rng.standard_normal((1, 2, 80, 16), dtype=np.float32),
        "mask": rng.random((1, 80, 16), dtype=np.float32),
    }
    with load_engine(bundle.extract("pointwise", 1, "fp32")) as engine:
        np.testing.assert_allclose(engine.run(large)["image"], toy_answer(**large), rtol=1e-6)
        assert engine.backend == "openvino"
        assert "'x1' has shape (1, 2, 80, 16)" in engine.reason
    assert cuda.live == {}


def test_progress_goes_over_all_variants(
    tmp_path: Path, cuda: FakeCuda, builds: list[dict[str, Any]]
) -> None:
    seen: list[tuple[str, float]] = []
    bundle = make_bundle(tmp_path)
    install_all(bundle, (1, 4), on_progress=lambda what, part: seen.append((what, part)))
    assert seen == [
        ("pointwise, 1 steps, fp32", 0.0),
        ("pointwise, 1 steps, fp32", 0.25),
        ("pointwise, 4 steps, fp32", 0.5),
        ("pointwise, 4 steps, fp32", 0.75),
    ]


def test_the_recipe_is_followed(
    tmp_path: Path, cuda: FakeCuda, builds: list[dict[str, Any]]
) -> None:
    install_all(make_bundle(tmp_path), (1, 4))
    first, second = builds
    assert first["profile"]["x1"] == ((1, 2, 16, 16), (1, 2, 64, 48), (1, 2, 64, 48))
    assert first["workspace_mib"] is None
    # What was timed for one engine serves the next.
    assert (first["timing_cache"], second["timing_cache"]) == (b"", b"times;")


def test_an_engine_of_a_trusted_bundle_is_taken(
    tmp_path: Path, cuda: FakeCuda, builds: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "engine_validity", lambda library, plan: "valid")
    assert install_all(make_bundle(tmp_path, sign=True)) == ["bundle"]
    assert builds == []


@pytest.mark.parametrize(
    ("sign", "validity", "engine"),
    [
        (False, "valid", {}),  # machine code of nobody knows whom
        (True, "invalid", {}),
        (True, "unchecked", {}),
        (True, "valid", {"version": "11.5.0"}),
        (True, "valid", {"platform": "win32-amd64"}),
        (True, "valid", {"compute_capabilities": ("8.6", "12.0")}),
        (True, "valid", {"backend": "tensorrt_rtx"}),
        (True, "valid", {"n_steps": 4}),
    ],
)
def test_any_other_is_compiled_here(
    tmp_path: Path,
    cuda: FakeCuda,
    builds: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    sign: bool,
    validity: str,
    engine: dict[str, Any],
) -> None:
    monkeypatch.setattr(install, "engine_validity", lambda library, plan: validity)
    assert install_all(make_bundle(tmp_path, sign=sign, **engine)) == ["compiled"]


def test_a_damaged_engine_is_none(
    tmp_path: Path, cuda: FakeCuda, builds: list[dict[str, Any]], cache_folder: Path
) -> None:
    bundle = make_bundle(tmp_path)
    install_all(bundle)
    (path,) = cache_folder.glob("tensorrt-*.sealed")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    variant = bundle.extract("pointwise", 1, "fp32")
    with load_engine(variant) as engine:
        assert engine.backend == "openvino"
    assert install_all(bundle) == ["compiled"]


def test_a_full_disk_is_said_and_not_called_success(
    tmp_path: Path, cuda: FakeCuda, builds: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", len(PLAN))
    with pytest.raises(OutputError, match=r"cannot be kept.*LDMPIR_CACHE_DIR"):
        install_all(make_bundle(tmp_path))


def test_a_variant_that_the_bundle_lacks_is_refused_before_any_work(
    tmp_path: Path, cuda: FakeCuda, builds: list[dict[str, Any]]
) -> None:
    with pytest.raises(BundleError, match="no pointwise variant with 8 steps"):
        install_all(make_bundle(tmp_path), (1, 8))
    assert builds == []


GPU = Gpu("Toy RTX 5000", "8.9", "CUDA 13.2")


@pytest.mark.parametrize("change", ["content", "gpu", "driver", "version", "library", "shapes"])
def test_whatever_an_engine_depends_on_is_in_its_name(variant: LoadedVariant, change: str) -> None:
    vouched = dataclasses.replace(variant, content_sha256="0" * 64)
    profile = {"x1": ((1, 2), (1, 2), (1, 2))}
    before = engine_name(vouched, "tensorrt", "11.4.0", GPU, profile)
    assert before == engine_name(vouched, "tensorrt", "11.4.0", GPU, profile)
    arguments: dict[str, Any] = {
        "variant": vouched, "backend": "tensorrt", "version": "11.4.0", "gpu": GPU,
        "profile": profile,
    }  # fmt: skip
    arguments |= {
        "content": {"variant": dataclasses.replace(variant, content_sha256="1" * 64)},
        "gpu": {"gpu": dataclasses.replace(GPU, name="Toy RTX 6000")},
        "driver": {"gpu": dataclasses.replace(GPU, driver="CUDA 13.3")},
        "version": {"version": "11.4.1"},
        "library": {"backend": "tensorrt_rtx"},
        "shapes": {"profile": {"x1": ((1, 2), (1, 2), (1, 3))}},
    }[change]
    assert engine_name(**arguments) != before


def test_files_that_no_bundle_vouches_for_have_no_engine(variant: LoadedVariant) -> None:
    assert not EngineCache().holds_any(variant, "tensorrt")


COMPILING = """
import sys
from ldmpir_edge.runtimes.tensorrt.cache import EngineCache
with EngineCache().one_at_a_time(lambda: None):
    print("compiling", flush=True)
    sys.stdin.readline()
"""


def test_a_second_compilation_waits_for_the_first(tmp_path: Path) -> None:
    """The lock also goes with the process that holds it."""
    other = subprocess.Popen(
        [sys.executable, "-c", COMPILING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "compiling\n"
    waited: list[bool] = []

    def on_wait() -> None:
        waited.append(other.poll() is None)
        other.kill()

    with EngineCache().one_at_a_time(on_wait):
        pass
    other.communicate()
    assert waited == [True]
    with EngineCache().one_at_a_time(lambda: pytest.fail("nobody holds it")):
        pass


def test_the_compiler_is_the_bundles_or_the_one_there_is(tmp_path: Path, cuda: FakeCuda) -> None:
    bundle = make_bundle(tmp_path)
    assert choose_compiler(bundle, None).name == "tensorrt"
    assert choose_compiler(bundle, "tensorrt_rtx").name == "tensorrt_rtx"
    with pytest.raises(UsageError, match="openvino does not compile; choose of tensorrt, "):
        choose_compiler(bundle, "openvino")


def test_without_any_library_each_ones_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (backend, install):
        monkeypatch.setattr(module, "why_no_gpu", lambda: "")

    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    bundle = make_bundle(tmp_path)
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(BackendError) as caught:
        choose_compiler(bundle, None)
    for word in ("JetPack", "pip install tensorrt", "pip install 'ldmpir-edge[tensorrt]'"):
        assert word in str(caught.value)


@pytest.mark.skipif(not why_no_gpu(), reason="this machine has an NVIDIA GPU")
def test_who_has_no_gpu_hears_nothing_of_tensorrt_in_a_run() -> None:
    _, reason = choose_backend()
    assert "tensorrt" not in reason


def test_the_kernels_of_tensorrt_rtx_are_kept_beside_the_engine(
    tmp_path: Path,
    cuda: FakeCuda,
    builds: list[dict[str, Any]],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    cache_folder: Path,
) -> None:
    libraries: list[FakeLibrary] = []

    def fake(self: TensorRtRtxBackend) -> FakeLibrary:
        libraries.append(FakeLibrary(cuda, rtx=True))
        return libraries[-1]

    monkeypatch.setattr(TensorRtRtxBackend, "_import", fake)
    bundle = make_bundle(tmp_path)
    made = install_engines(bundle, TensorRtRtxBackend(), ("fp32",), (1,))
    assert [engine.origin for engine in made] == ["compiled"]
    assert builds[0]["timing_cache"] is None
    variant = bundle.extract("pointwise", 1, "fp32")
    for _ in range(2):
        with get_backend("tensorrt_rtx").load(variant) as engine:
            engine.run(inputs(rng))
    assert libraries[-1].took_kernels == b"kernel for (1 16 16)"
    assert len(list(cache_folder.glob("*-kernels.sealed"))) == 1
