"""Five scans and a base → `finetune` → a signed bundle that `run` takes, or the base is kept."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, ldmpir_edge
from site_scans import write_site
from tiny_model import TARGET, awake_model, save_model

from ldmpir_edge.bundle import generate_key, open_bundle
from ldmpir_edge.cli.finetune import BASE_KEPT
from ldmpir_edge.export import bundle_writer
from ldmpir_edge.finetuning import site_gate
from ldmpir_edge.finetuning.recipe import FinetuneRecipe


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scans, a base, a target and a key."""
    folder = tmp_path_factory.mktemp("site")
    write_site(folder / "scans", "mri")
    save_model(folder / "base", awake_model())
    (folder / "tiny.toml").write_text(TARGET)
    generate_key(folder / "key.pem")
    return folder


def arguments(site: Path, output: Path, *more: object) -> tuple[object, ...]:
    scans = sorted((site / "scans").glob("*.h5"))
    base, target = site / "base", site / "tiny.toml"
    return ("finetune", *scans, "--base", base, "--target", target, "-o", output, *more)


@pytest.fixture(scope="module")
def made(site):
    """The bundle, and the report of the command that made it."""
    path = site / "out" / "site.ldmpir"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_writer, "CASE_SIZE", 32)
        # The base of this test is noise: what its golden images become is no matter.
        patch.setattr(site_gate, "GOLDEN_LIMIT", 10.0)
        done = ldmpir_edge(*arguments(site, path, "--key", site / "key.pem", "--json"))
    return path, done.report


def test_the_bundle_says_where_its_weights_come_from(site, made):
    path, report = made
    manifest = open_bundle(path).manifest
    assert report["improved"]
    assert report["outputs"] == [str(path)]
    assert report["manifest"] == manifest.model_dump(mode="json")
    assert manifest.verified
    told = manifest.finetuning
    assert told is not None
    weights = (site / "base" / "weights.safetensors").read_bytes()
    assert told.base_weights == hashlib.sha256(weights).hexdigest()
    assert told.base.id == "tiny"
    assert manifest.model.version == "0.0.1+finetuned"
    assert len(told.scans) == 5
    assert told.held_out == report["held_out"] <= 0.98
    assert (told.loss, told.seed, told.n_updates) == ("equivariant", 0, report["updates"])
    text = manifest.to_bytes().decode()
    assert "scan0" not in text
    assert "patient" not in text.lower()


def test_the_bundle_is_signed_with_the_sites_key(made):
    assert str(open_bundle(made[0]).trust).startswith("untrusted key")


def test_run_takes_the_bundle(site, made, tmp_path):
    scan = site / "scans" / "scan0.h5"
    report = ldmpir_edge(
        "run", scan, "--bundle", made[0], "-o", tmp_path, "--format", "npy", "--json"
    ).report
    assert np.isfinite(np.load(report["outputs"][0])).all()


def test_nothing_but_the_bundle_is_left(made):
    assert list(made[0].parent.iterdir()) == [made[0]]


def test_without_a_gain_the_base_is_kept_and_no_bundle_written(site, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ldmpir_edge.finetuning.recipe.FinetuneRecipe",
        lambda **given: FinetuneRecipe(**given, margin=0.99, n_updates=2),
    )
    done = ldmpir_edge(*arguments(site, tmp_path / "site.ldmpir"))
    assert done.code == BASE_KEPT
    assert done.out.startswith("no improvement: base kept")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_forgets_is_refused(site, tmp_path, monkeypatch):
    monkeypatch.setattr(site_gate, "GOLDEN_LIMIT", 0.0)
    done = ldmpir_edge(*arguments(site, tmp_path / "site.ldmpir"))
    done.assert_refused(50, "golden image", "limit 0")
    assert not (tmp_path / "site.ldmpir").exists()


def test_an_interrupted_run_says_how_to_go_on(site, tmp_path):
    """The signal comes once the first checkpoint is there; nothing is printed but two lines."""
    command = [
        sys.executable,
        "-c",
        "from ldmpir_edge.cli.app import main; main()",
        *map(str, arguments(site, tmp_path / "site.ldmpir", "--rank", "1")),
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        # A shell starts what runs in its background deaf to this signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    checkpoint = tmp_path / "site.finetune.pt"
    until = time.monotonic() + 100
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    first, second = err.splitlines()
    assert str(checkpoint) in first
    assert "same command goes on" in first
    assert second == "error: interrupted"
    assert checkpoint.exists()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--loss", "magic"), 2, ("magic", "equivariant, split, supervised")),
        (("--precision", "int4"), 2, ("int4", "fp32")),
        (("--base", "no-such-model"), 20, ("no-such-model",)),
        (("--key", "none.pem"), 20, ("none.pem",)),
        (("--noise-level", "3"), 2, ("--noise-level is for images",)),
    ],
)
def test_what_cannot_be_is_one_line(site, tmp_path, more, code, words):
    done = ldmpir_edge(*arguments(site, tmp_path / "site.ldmpir"), *more)
    done.assert_refused(code, *words)
    assert list(tmp_path.iterdir()) == []
