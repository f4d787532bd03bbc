"""`finetune --from-queue`: what an appliance has collected → a candidate, in idle time only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Finished, ldmpir_edge
from site_scans import write_site
from tiny_model import TARGET, awake_model, save_model
from tuned_bundle import trust_new_key, write_toy_bundle

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.export import bundle_writer
from ldmpir_edge.finetuning import site_bundle, site_gate
from ldmpir_edge.finetuning.loop import Finetuner
from ldmpir_edge.finetuning.recipe import FinetuneRecipe
from ldmpir_edge.serve import background
from ldmpir_edge.serve.candidates import KEPT, Candidates
from ldmpir_edge.serve.collection import CollectedScans
from ldmpir_edge.serve.config import Collection
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.queue import JobQueue
from ldmpir_edge.serve.sealing import new_key, read_key


class Site:
    """An appliance's folders, as it leaves them, with five collected scans."""

    def __init__(self, root: Path) -> None:
        self.root, self.state = root, root / "state"
        self.key = trust_new_key(root)
        save_model(root / "base", awake_model())
        (root / "tiny.toml").write_text(TARGET)
        weights = (root / "base" / "weights.safetensors").read_bytes()
        write_toy_bundle(
            root / "toy.ldmpir",
            self.key,
            tuned=False,
            weights=hashlib.sha256(weights).hexdigest(),
        )
        new_key(root / "collection.key")
        (root / "appliance.toml").write_text(
            f'state = "{self.state}"\n[collection]\nkey = "{root}/collection.key"\n'
            f'[[routes]]\nname = "toy"\ncollect = true\nbackend = "onnxruntime"\n'
            f'bundle = "{root}/toy.ldmpir"\n[[routes]]\nname = "rest"\n'
        )
        self.now = 1.8e9
        self.made: list[tuple[str, ...]] = []
        self.scans = write_site(root / "scans", "mri", 6)
        for path in self.scans[:5]:
            self.collect(path)

    @property
    def collected(self) -> CollectedScans:
        key = self.root / "collection.key"
        folder = self.state / "collected"
        return CollectedScans(folder, Collection(key=key), read_key(key), lambda: self.now)

    def collect(self, path: Path) -> None:
        self.collected.add("toy", [path], lambda: False)
        self.now += 1

    def finetune(self, *more: object, **changes: object) -> Finished:
        given = {
            "--from-queue": self.root / "appliance.toml",
            "--route": "toy",
            "--base": self.root / "base",
            "--target": self.root / "tiny.toml",
            "--key": self.key,
            **{f"--{name}".replace("_", "-"): value for name, value in changes.items()},
        }
        flat = [part for pair in given.items() if pair[1] is not None for part in pair]
        return ldmpir_edge("finetune", *flat, *more)

    def candidates(self) -> list[Path]:
        return sorted((self.state / "candidates").glob("*.ldmpir"))

    def left_of_scans(self, *folders: Path) -> list[Path]:
        """Files that hold anything of the scans' own bytes."""
        parts = []
        for path in self.scans:
            data = path.read_bytes()
            parts += [data[at : at + 24] for at in range(0, len(data) - 24, 4999)]
        parts = [part for part in parts if len(set(part)) > 12]
        assert len(parts) > 20
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        return [file for file in files if any(part in file.read_bytes() for part in parts)]


@pytest.fixture
def site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Site]:
    """A site whose runs are short; the test's own process keeps its priority."""
    monkeypatch.setenv("LDMPIR_TRUSTED_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    calls: list[None] = []
    monkeypatch.setattr(background, "give_way", lambda: calls.append(None))
    monkeypatch.setattr(bundle_writer, "CASE_SIZE", 32)
    # The base of this test is noise: what its golden images become is no matter.
    monkeypatch.setattr(site_gate, "GOLDEN_LIMIT", 10.0)
    monkeypatch.setattr(
        "ldmpir_edge.finetuning.recipe.FinetuneRecipe",
        lambda **given: FinetuneRecipe(**given, n_updates=40, check_every=20),
    )
    site = Site(tmp_path)

    def export(outcome: Any, folder: Path, output: Path, scans: Any, *_: Any, **more: Any) -> Any:
        """Stand for the gate and the export, which take a minute, with a toy."""
        more["on_progress"]("exporting", 0, 1)
        site.made.append(scans.digests)
        return open_bundle(write_toy_bundle(output, site.key)).manifest

    if "real_export" not in request.fixturenames:
        monkeypatch.setattr(site_bundle, "write_site_bundle", export)
    yield site
    assert calls


@pytest.fixture
def real_export() -> None:
    """Have candidates exported as they are, by a test that asks for it before `site`."""


def digest(path: Path) -> str:
    """Give what a scan of one file is called in a manifest."""
    return hashlib.sha256(hashlib.sha256(path.read_bytes()).digest()).hexdigest()


@pytest.mark.usefixtures("real_export")
def test_a_candidate_is_made_and_promoted_and_nothing_else_happens(site: Site) -> None:
    report = site.finetune("--json").report
    (path,) = site.candidates()
    assert report["outputs"] == [str(path)]
    bundle = open_bundle(path)
    assert str(bundle.trust) == "trusted:ours"
    told = bundle.manifest.finetuning
    assert told is not None
    assert set(told.scans) == {digest(scan) for scan in site.scans[:5]}
    assert (site.state / "candidates").stat().st_mode & 0o777 == 0o700
    assert not list((site.state / "candidates").glob("*.pt"))
    assert not (site.state / "promoted").exists()
    assert site.left_of_scans(site.state, site.root / "tmp") == []
    # The search finds what is there.
    assert sorted(site.left_of_scans(site.root / "scans")) == site.scans

    where = ("--config", site.root / "appliance.toml", "--route", "toy", "--json")
    promoted = ldmpir_edge("promote", path, *where).report
    assert promoted["bundle_sha256"] == bundle.digest
    assert promoted["golden_pairs_passed"] == 5


def test_the_same_scans_are_not_learned_from_twice(site: Site) -> None:
    assert site.finetune().code == 0
    site.finetune().assert_refused(52, "since the last run")
    site.collect(site.scans[5])
    assert site.finetune().code == 0
    assert len(site.candidates()) == len(site.made) == 2
    assert set(site.made[1]) == {digest(scan) for scan in site.scans[1:]}


def test_no_update_happens_while_a_job_waits_or_runs(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = JobQueue(site.state / "queue.sqlite3")
    events: list[str] = []
    step = Finetuner._step

    def arrive() -> None:
        queue.add(
            Job(
                id=f"job{len(events)}",
                source="http",
                route="toy",
                stem="scan",
                received=0.0,
                n_bytes=1,
            )
        )
        events.append("arrives")

    def update(self: Finetuner) -> None:
        assert queue.load() == (0, 0)
        events.append("update")
        if self.update in {3, 7}:
            arrive()  # while this update is under way
        step(self)

    def sleep(seconds: float) -> None:
        """Stand for the time in which the appliance works."""
        counts = queue.counts()
        if counts["queued"]:
            queue.claim()
            events.append("runs")
        else:
            (running,) = [job for job in queue.recent(9) if job.state == "running"]
            queue.finish(running.id, "done")
            events.append("ends")

    monkeypatch.setattr(Finetuner, "_step", update)
    monkeypatch.setattr(background.time, "sleep", sleep)
    arrive()
    site.finetune("--json")
    queue.close()
    one = ["arrives", "runs", "ends"]
    updates = ["update"] * 4
    assert events[:17] == [*one, *updates, *one, *updates, *one]
    assert events.count("update") == 40


def test_a_stopped_run_goes_on_with_its_scans_though_others_came(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Finetuner._step

    def stop(self: Finetuner) -> None:
        step(self)
        if self.update == 25:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Finetuner, "_step", stop)
        done = site.finetune()
    assert done.code == 130
    assert "the same command goes on from there" in done.err
    assert site.candidates() == []
    (checkpoint,) = (site.state / "candidates").glob("*.pt")
    assert site.left_of_scans(site.state, site.root / "tmp") == []
    site.collect(site.scans[5])
    first: list[int] = []

    def note(self: Finetuner) -> None:
        first.append(self.update)
        step(self)

    monkeypatch.setattr(Finetuner, "_step", note)
    done = site.finetune("--json")
    assert "going on" in done.err
    assert first[0] == 25
    (path,) = site.candidates()
    assert path.with_suffix(".finetune.pt") == checkpoint
    assert not checkpoint.exists()
    assert done.code == 0
    assert set(site.made[0]) == {digest(scan) for scan in site.scans[:5]}


def test_a_stopped_run_whose_scans_are_gone_starts_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Finetuner) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Finetuner, "_step", stop)
        assert site.finetune().code == 130
    assert len(list((site.state / "candidates").glob("*.pt"))) == 1
    oldest = site.collected.names("toy")[-1]
    (site.state / "collected" / "toy" / oldest).unlink()
    done = site.finetune()
    assert (done.code, "going on" in done.err) == (0, False)
    assert len(site.made[0]) == 4
    assert not list((site.state / "candidates").glob("*.pt"))


def test_a_run_without_gain_is_not_repeated_on_the_same_scans(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ldmpir_edge.finetuning.recipe.FinetuneRecipe",
        lambda **given: FinetuneRecipe(**given, margin=0.99, n_updates=2),
    )
    assert site.finetune().code == 51
    assert site.candidates() == []
    site.finetune().assert_refused(52, "since the last run", "--seed")
    assert site.finetune(seed=1).code == 51


def test_a_model_that_fails_its_gate_is_not_tried_again_on_the_same_scans(
    real_export: None, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_gate, "GOLDEN_LIMIT", 0.0)
    site.finetune().assert_refused(50, "golden image")
    site.finetune().assert_refused(52, "since the last run")
    assert site.candidates() == []


def test_two_at_once_are_one_too_many(site: Site) -> None:
    with Candidates(site.state / "candidates", "toy").hold():
        site.finetune().assert_refused(61, "another fine-tuning of route toy")
    assert site.finetune().code == 0


def test_too_few_scans(site: Site) -> None:
    for name in site.collected.names("toy")[2:]:
        (site.state / "collected" / "toy" / name).unlink()
    done = site.finetune()
    done.assert_refused(52, "has collected 2 scans", "of which 2 go together", "needs 3")


def test_a_damaged_scan_is_left_out_and_said(site: Site) -> None:
    name = site.collected.names("toy")[0]
    path = site.state / "collected" / "toy" / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = site.finetune()
    assert f"{name} is left out: the collected scan toy/{name} cannot be read" in done.err
    assert (done.code, len(site.made[0])) == (0, 4)


def test_another_key_is_no_want_of_scans(site: Site) -> None:
    (site.root / "collection.key").unlink()
    new_key(site.root / "collection.key")
    done = site.finetune("--quiet")
    done.assert_refused(62, "another key")


def test_weights_of_another_model_are_refused(site: Site) -> None:
    site.finetune(base="ldmpir-2m").assert_refused(20, "does not belong to", "--base")
    site.finetune(base="no-such-model").assert_refused(20, "no-such-model", "--base")
    # Named after the model that serves, which models/ does not have.
    site.finetune(base=None).assert_refused(20, "models/toy")


def test_a_route_that_collects_nothing(site: Site) -> None:
    site.finetune(route="rest").assert_refused(2, "rest collects no scans", "collect = true")
    site.finetune(route="knee").assert_refused(2, "'knee'")


def test_a_folder_holds_so_many_candidates(site: Site) -> None:
    folder = site.state / "candidates"
    candidates = Candidates(folder, "toy")
    for k in range(KEPT + 3):
        (folder / f"toy-2026010{k + 1}T000000Z.ldmpir").write_bytes(b"")
    (folder / "toy-knee-20250101T000000Z.ldmpir").write_bytes(b"")
    candidates.end(candidates.begin(["a"], {}))
    assert len(list(folder.glob("toy-2026*"))) == KEPT
    assert (folder / "toy-knee-20250101T000000Z.ldmpir").exists()
    background.give_way()


@pytest.mark.parametrize(
    "given",
    [
        (),
        ("--route", "toy"),
        ("a.h5",),
        ("-o", "out.ldmpir"),
        ("--from-queue", "a.toml"),
        ("--from-queue", "a.toml", "--route", "toy"),
        ("--from-queue", "a.toml", "--route", "toy", "--key", "k", "a.h5"),
        ("--from-queue", "a.toml", "--route", "toy", "--key", "k", "-o", "x"),
    ],
)
def test_what_does_not_go_together_is_one_line(given: tuple[Any, ...]) -> None:
    ldmpir_edge("finetune", *given).assert_refused(2, "--from-queue")
