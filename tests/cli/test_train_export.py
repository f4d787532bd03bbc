"""Images → `train` → `export` → `run`: what a user makes, a user can use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import ldmpir_edge
from small_scans import disc
from tiny_model import MODEL_TOML, TARGET

from ldmpir_edge.bundle import generate_key, open_bundle
from ldmpir_edge.export import bundle_writer

RECIPE = f"""{MODEL_TOML}
[training]
seed = 1
tasks = {{ mri-columns = 0.4, denoise = 0.6 }}

[[training.stages]]
n_updates = 2
learning_rate = 1e-3
size = [32]

[[training.stages]]
n_updates = 1
learning_rate = 1e-3
n_steps = [1]
size = [32]
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of both kinds, a recipe, a target and a signing key."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "images").mkdir()
    np.savez(folder / "images" / "mr.npz", slices=np.stack([500 * disc(48)] * 2))
    hu = (1000 * disc(48) - 1000)[None]
    np.savez(folder / "images" / "ct.npz", slices=hu, meta='{"unit": "HU"}')
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "tiny.toml").write_text(TARGET)
    generate_key(folder / "key.pem")
    return folder


@pytest.fixture(scope="module")
def trained(workplace):
    """The model folder that `train` left, and its report."""
    folder = workplace / "tiny"
    report = ldmpir_edge(
        "train", workplace / "images", "--recipe", workplace / "recipe.toml",
        "-o", folder, "--workers", "0", "--json",
    ).report  # fmt: skip
    return folder, report


@pytest.fixture(scope="module")
def exported(workplace, trained):
    """The bundle that `export` made of it, and its report."""
    folder, _ = trained
    (folder / "model.toml").write_text(RECIPE)
    path = workplace / "out" / "mine.ldmpir"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_writer, "CASE_SIZE", 32)
        report = ldmpir_edge(
            "export", folder, "--target", workplace / "tiny.toml", "-o", path, "--json",
            "--precision", "fp32,fp16,fp32", "--sign", workplace / "key.pem",
            "--gate-images", workplace / "images",
        ).report  # fmt: skip
    return path, report


def test_train_writes_weights_and_says_where(trained):
    folder, report = trained
    assert report == {"outputs": [str(folder / "weights.safetensors")], "updates": 3}
    assert (folder / "weights.safetensors").is_file()
    assert len((folder / "log.csv").read_text().splitlines()) >= 2


def test_training_again_goes_on_from_the_end(workplace, trained):
    folder, report = trained
    before = (folder / "weights.safetensors").read_bytes()
    again = ldmpir_edge(
        "train", workplace / "images", "--recipe", workplace / "recipe.toml",
        "-o", folder, "--workers", "0", "--json",
    )  # fmt: skip
    assert again.report == report
    assert (folder / "weights.safetensors").read_bytes() == before


def test_export_writes_a_gated_and_signed_bundle(exported):
    path, report = exported
    assert report["outputs"] == [str(path)]
    opened = open_bundle(path)
    assert report["manifest"] == opened.manifest.model_dump(mode="json")
    assert opened.manifest.verified
    assert [p.name for p in opened.manifest.precisions] == ["fp32", "fp16"]
    assert str(opened.trust).startswith("untrusted key")
    assert "ct, mr" in opened.manifest.notes


def test_run_takes_the_bundle(exported, scans, tmp_path):
    path, truth = scans["mri"]
    report = ldmpir_edge(
        "run", path, "--bundle", exported[0], "-o", tmp_path, "--format", "npy", "--json"
    ).report
    assert report["steps"] == 1
    assert np.load(report["outputs"][0]).shape == truth.shape
    assert not any("not verified" in note for note in report["notes"])


def test_a_bundle_without_gate_says_so_at_every_use(workplace, trained, exported, scans, tmp_path):
    path = tmp_path / "raw.ldmpir"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_writer, "CASE_SIZE", 32)
        made = ldmpir_edge(
            "export", trained[0], "--target", workplace / "tiny.toml", "-o", path, "--no-gate"
        )
    assert made.code == 0
    assert "unverified" in made.err
    assert made.out.splitlines() == [
        f"{path}: 5 variants, not gated",
        "Exported without the gate.",
    ]
    used = ldmpir_edge("run", scans["dicom"][0], "--bundle", path, "-o", tmp_path, "--json")
    assert "--no-gate" in used.err
    assert any("not verified" in note for note in used.report["notes"])
    assert "unverified" in ldmpir_edge("inspect", path).out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("export", "{model}", "--precision", "int4"), 2, ("int4", "fp32, fp16")),
        (("export", "{model}", "--precision", ","), 2, ("precision", "fp32, fp16")),
        (("export", "{model}", "--target", "toaster"), 2, ("toaster", "cpu")),
        (("export", "{model}", "--target", "none.toml"), 2, ("none.toml",)),
        (("export", "no-such-model"), 20, ("no-such-model",)),
        (("export", "{model}", "--sign", "none.pem"), 20, ("none.pem",)),
        (("train", "{images}", "--recipe", "none.toml", "-o", "x"), 2, ("none.toml",)),
        (("train", "{model}", "--recipe", "{recipe}", "-o", "x"), 12, ("no training image",)),
    ],
)
def test_what_cannot_be_made_is_one_line(
    workplace, trained, tmp_path, monkeypatch, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    places = {
        "model": trained[0],
        "images": workplace / "images",
        "recipe": workplace / "recipe.toml",
    }
    finished = ldmpir_edge(*(word.format(**places) for word in arguments))
    finished.assert_refused(code, *words)
    assert list(tmp_path.iterdir()) == []
