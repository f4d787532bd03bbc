"""The reference backend: the model's own answer, and weights that are not the bundle's."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_bundle import toy_variant

from ldmpir_edge.bundle import LoadedVariant, TensorSpec
from ldmpir_edge.errors import BackendError
from ldmpir_edge.runtimes import get_backend, torch_backend

torch = pytest.importorskip("torch", reason="torch is not installed")

IMAGE = ("B", 2, "H", "W")


def _tensor(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


@pytest.fixture
def model_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo with one small untrained model named `toy`."""
    from ldmpir_edge.models.config import ModelConfig
    from ldmpir_edge.models.ldmpir import LdmPir
    from ldmpir_edge.models.weights import save_weights

    torch.manual_seed(0)
    model = LdmPir(ModelConfig(widths=(8, 8, 8, 8), embedding=8, n_cg=2))
    (tmp_path / "zoo" / "toy").mkdir(parents=True)
    save_weights(model, tmp_path / "zoo" / "toy" / "weights.safetensors")
    monkeypatch.setattr(torch_backend, "MODEL_ZOO", tmp_path / "zoo")
    return tmp_path / "zoo"


def _variant(folder: Path, weights: Path, n_steps: int = 4) -> LoadedVariant:
    noise = (_tensor("noise", "B", "n_steps-1", *IMAGE[1:]),) if n_steps > 1 else ()
    return toy_variant(
        folder,
        n_steps=n_steps,
        inputs=(
            _tensor("b", *IMAGE),
            _tensor("x1", *IMAGE),
            _tensor("noise_level", "B"),
            _tensor("condition", "B", 7),
            *noise,
            _tensor("mask", "B", "H", "W"),
        ),
        source_hashes={"weights.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest()},
    )


def _inputs(rng: np.random.Generator, n_steps: int) -> dict[str, np.ndarray]:
    inputs = {
        "mask": np.ones((1, 32, 32), np.float32),
        "b": rng.standard_normal((1, 2, 32, 32), dtype=np.float32),
        "x1": rng.standard_normal((1, 2, 32, 32), dtype=np.float32),
        "noise_level": np.full(1, 0.1, np.float32),
        "condition": np.eye(1, 7, dtype=np.float32),
    }
    if n_steps > 1:
        inputs["noise"] = rng.standard_normal((1, n_steps - 1, 2, 32, 32), dtype=np.float32)
    return inputs


@pytest.mark.parametrize("n_steps", [1, 4])
def test_it_is_the_models_own_sampler(
    model_zoo: Path, tmp_path: Path, rng: np.random.Generator, n_steps: int
) -> None:
    from ldmpir_edge.models.sampler import sample
    from ldmpir_edge.models.weights import load_weights

    weights = model_zoo / "toy" / "weights.safetensors"
    inputs = _inputs(rng, n_steps)
    threads = torch.get_num_threads()
    with get_backend("torch").load(_variant(tmp_path, weights, n_steps), 1) as engine:
        image = engine.run(inputs)["image"]
    assert torch.get_num_threads() == threads
    t = {name: torch.tensor(array) for name, array in inputs.items()}
    with torch.no_grad():
        expected = sample(
            load_weights(weights),
            x1=t["x1"],
            b=t["b"],
            noise_level=t["noise_level"],
            condition=t["condition"],
            family="pointwise",
            tables={"mask": t["mask"]},
            n_steps=n_steps,
            noise=t.get("noise"),
        )
    np.testing.assert_allclose(image, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_other_weights_than_the_bundles_are_refused(model_zoo: Path, tmp_path: Path) -> None:
    weights = model_zoo / "toy" / "weights.safetensors"
    variant = _variant(tmp_path, weights)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(BackendError, match="is not what this bundle was exported from"):
        get_backend("torch").load(variant)
    weights.unlink()
    with pytest.raises(BackendError, match="use --backend onnxruntime"):
        get_backend("torch").load(variant)


def test_a_bundle_of_other_physics_than_the_codes_is_refused(
    model_zoo: Path, tmp_path: Path
) -> None:
    variant = _variant(tmp_path, model_zoo / "toy" / "weights.safetensors")
    older = replace(variant, inputs=variant.inputs[:-1])
    with pytest.raises(BackendError, match="another version of the model"):
        get_backend("torch").load(older)


def test_half_precision_is_left_to_the_engines(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="does not run fp16"):
        get_backend("torch").load(toy_variant(tmp_path, precision="fp16"))
