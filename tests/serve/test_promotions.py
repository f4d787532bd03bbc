"""Promoted bundles: which serves, who wanted it, and how it is taken up and back while serving."""

from __future__ import annotations

import getpass
import json
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_appliance import QUICK, running, send, wait
from small_scans import write_fastmri
from tuned_bundle import trust_new_key, write_toy_bundle, write_tuned_shipped

from ldmpir_edge import atomic
from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.errors import (
    BundleError,
    GateError,
    LdmpirError,
    NothingPromotedError,
    StateError,
    UsageError,
)
from ldmpir_edge.serve.candidate import open_candidate, try_candidate
from ldmpir_edge.serve.config import Route
from ldmpir_edge.serve.engines import Engines
from ldmpir_edge.serve.promotions import Promotions


class Site:
    """A toy that serves, a key that is trusted, and a state folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.key = root, trust_new_key(root)
        self.path = write_toy_bundle(root / "toy.ldmpir", self.key, tuned=False)
        self.route = Route(name="toy", bundle=str(self.path), backend="onnxruntime")
        self.promotions = Promotions(root / "state")

    def candidate(self, seed: int = 1, **changes: Any) -> Path:
        name = f"candidate{len(list(self.root.glob('candidate*')))}.ldmpir"
        return write_toy_bundle(
            self.root / name, **{"key": self.key, "seed": seed, "base": "0" * 64} | changes
        )

    def serving(self) -> str:
        return open_bundle(self.promotions.in_service(self.route).bundle).digest

    def promote(self, path: Path) -> str:
        serving = open_bundle(self.promotions.in_service(self.route).bundle)
        bundle = open_candidate(path, self.route, serving)
        assert try_candidate(bundle, self.route, lambda done, total: None) == 1
        return self.promotions.promote(self.route, bundle).now

    def record(self) -> list[dict[str, str]]:
        text = (self.root / "state" / "promotions.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("LDMPIR_TRUSTED_KEYS", str(tmp_path / "keys"))
    return Site(tmp_path)


def test_the_last_promoted_serves_and_rollback_goes_back_one_at_a_time(site: Site) -> None:
    digests = [site.serving()]
    for seed in (1, 2, 3):
        digests.append(site.promote(site.candidate(seed)))
        assert site.serving() == digests[-1]
    assert len(set(digests)) == 4
    for expected in digests[2::-1]:
        assert site.promotions.rollback(site.route).now == site.serving() == expected
    with pytest.raises(NothingPromotedError, match=r"toy\.ldmpir, as configured, serves"):
        site.promotions.rollback(site.route)
    assert site.serving() == digests[0]


def test_every_change_is_recorded_and_no_line_is_ever_changed(site: Site) -> None:
    configured = site.serving()
    first = site.promote(site.candidate(1))
    path = site.root / "state" / "promotions.jsonl"
    before = path.read_bytes()
    site.promotions.rollback(site.route)
    assert path.read_bytes().startswith(before)
    assert path.stat().st_mode & 0o777 == 0o600
    told = [(line["action"], line["route"], line["was"], line["now"]) for line in site.record()]
    assert told == [
        ("promote", "toy", configured, first),
        ("rollback", "toy", first, configured),
    ]
    for line in site.record():
        assert line["user"] == getpass.getuser()
        assert line["time"].endswith("+00:00")


def test_other_routes_keep_their_bundle(site: Site) -> None:
    other = site.route.model_copy(update={"name": "other"})
    site.promote(site.candidate())
    assert site.promotions.in_service(other) is other


def test_a_crash_before_the_rename_leaves_the_old_bundle_and_a_line(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = site.serving()
    candidate = site.candidate()
    child = os.fork()
    if child == 0:
        atomic.flush_file = lambda path: os._exit(9)
        site.promote(candidate)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert site.serving() == old
    assert [line["action"] for line in site.record()] == ["promote"]
    new = site.promote(candidate)
    assert site.serving() == new != old


def test_a_promotion_that_cannot_be_recorded_does_not_happen(site: Site) -> None:
    (site.root / "state" / "promotions.jsonl").mkdir(parents=True)
    old = site.serving()
    with pytest.raises(StateError, match="cannot write the state folder"):
        site.promote(site.candidate())
    assert site.serving() == old


def test_another_user_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root left there the appliance could not read, and would not start with."""
    site.promote(site.candidate(1))
    before = site.serving(), site.record()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    candidate = open_bundle(site.candidate(2))
    with pytest.raises(StateError, match=f"run this as that user: sudo -u {getpass.getuser()} "):
        site.promotions.promote(site.route, candidate)
    with pytest.raises(StateError, match="sudo -u"):
        site.promotions.rollback(site.route)
    assert (site.serving(), site.record()) == before


def test_a_damaged_promoted_bundle_can_be_taken_back(site: Site) -> None:
    old = site.serving()
    site.promote(site.candidate())
    promoted = Path(site.promotions.in_service(site.route).bundle)
    promoted.write_bytes(promoted.read_bytes()[:-9])
    change = site.promotions.rollback(site.route)
    assert (change.was, change.now) == (None, old)
    assert site.serving() == old


def test_what_is_not_signed_by_a_trusted_key_is_refused(site: Site, tmp_path: Path) -> None:
    stranger = trust_new_key(tmp_path, "stranger")
    (tmp_path / "keys" / "stranger.pem").unlink()
    for key, words in ((None, "is not signed"), (stranger, "signed by an untrusted key")):
        with pytest.raises(BundleError, match=words):
            site.promote(site.candidate(key=key))
    assert site.serving() == open_bundle(site.path).digest


def test_what_was_changed_is_refused(site: Site) -> None:
    path = site.candidate()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="damaged or was changed"):
        site.promote(path)


def test_only_what_was_fine_tuned_from_the_serving_model_is_taken(site: Site) -> None:
    with pytest.raises(BundleError, match="was not fine-tuned"):
        site.promote(write_toy_bundle(site.root / "plain.ldmpir", site.key, tuned=False, seed=9))
    with pytest.raises(BundleError, match=r"fine-tuned from .*ffffffffffff.*not from toy 1\.0"):
        site.promote(site.candidate(base="f" * 64))
    site.promote(site.candidate(1))
    site.promote(site.candidate(2))  # from the same base as the one that serves
    site.promote(site.candidate(3, base=f"{3:064x}"))  # from the one that serves
    with pytest.raises(BundleError, match="not from"):
        site.promote(site.candidate(4, base=f"{2:064x}"))  # from one that served before


def test_what_fails_its_golden_pair_here_is_refused(site: Site) -> None:
    with pytest.raises(GateError, match="failed its golden pair on this device"):
        site.promote(site.candidate(answer=1.01))
    assert site.serving() == open_bundle(site.path).digest


def test_what_lacks_a_variant_of_the_route_is_refused(site: Site) -> None:
    site.route = site.route.model_copy(update={"precisions": ("fp32", "int8")})
    with pytest.raises(BundleError, match="int8"):
        site.promote(site.candidate())


def test_what_serves_already_is_not_promoted_again(site: Site) -> None:
    path = site.candidate()
    site.promote(path)
    with pytest.raises(UsageError, match="already"):
        site.promote(path)


def test_a_file_that_changes_while_it_is_checked_is_not_taken(site: Site) -> None:
    path = site.candidate(1)
    bundle = open_candidate(path, site.route, open_bundle(site.path))
    path.write_bytes(site.candidate(2).read_bytes())
    with pytest.raises(BundleError, match="has changed"):
        site.promotions.promote(site.route, bundle)
    assert site.serving() == open_bundle(site.path).digest


def take_up(engines: Engines) -> None:
    engines.refresh()
    while engines.has_untested:
        engines.test_next()


def test_engines_follow_promotion_and_rollback_of_one_of_two_routes(site: Site) -> None:
    other = site.route.model_copy(update={"name": "other"})
    engines = Engines(
        [site.route, other],
        allow_unsigned=False,
        doors=["dicom"],
        in_service=site.promotions.in_service,
    )
    old = engines.of(site.route)
    assert engines.of(other) is old
    new = site.promote(site.candidate())
    engines.refresh()
    assert engines.of(site.route) is old  # until the new one has passed
    engines.test_next()
    assert engines.of(site.route).bundle.digest == new
    assert engines.of(other) is old
    told = {one["route"]: one for one in engines.describe()}
    assert (told["toy"]["bundle_version"], told["toy"]["bundle_origin"]) == (
        "1.0+finetuned",
        "promoted",
    )
    assert told["other"]["bundle_origin"] == "configured"
    site.promotions.rollback(site.route)
    take_up(engines)
    assert engines.of(site.route) is engines.of(other) is old
    assert len(engines._engines) == 1


def test_a_promoted_bundle_that_fails_on_the_appliance_does_not_serve(site: Site) -> None:
    """As where another engine or driver is in use than when it was promoted."""
    engines = Engines(
        [site.route],
        allow_unsigned=False,
        doors=["dicom"],
        in_service=site.promotions.in_service,
    )
    old = engines.of(site.route)
    bundle = open_bundle(site.candidate(answer=1.01))
    site.promotions.promote(site.route, bundle)
    take_up(engines)
    assert engines.of(site.route) is old
    assert "golden pair" in engines.describe()[0]["bundle_not_taken"]
    site.promotions.rollback(site.route)
    take_up(engines)
    assert engines.describe()[0]["bundle_not_taken"] is None


def test_a_running_appliance_serves_what_is_promoted_until_it_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDMPIR_TRUSTED_KEYS", str(tmp_path / "keys"))
    key = trust_new_key(tmp_path)
    scan, path = tmp_path / "a.h5", tmp_path / "tuned.ldmpir"
    write_fastmri(scan, acceleration=2)
    write_tuned_shipped(path, key)
    route = Route(**QUICK)
    promotions = Promotions(tmp_path / "state")
    doors = {"mrd": {"listen": "127.0.0.1:0"}, "http": {"listen": "127.0.0.1:0"}}
    routes = [{**QUICK, "sources": ["mrd"]}, {**QUICK, "name": "rest"}]
    with running(tmp_path, **doors, routes=routes) as appliance:

        def reconstructed() -> str:
            job = wait(appliance, send(appliance, scan))
            assert job.state == "done", job.reason
            return str(job.report["bundle_version"])

        def serving(version: str) -> None:
            # Under a steady load engines are looked after between two jobs, every ten seconds.
            until = time.monotonic() + 120
            while time.monotonic() < until:
                if reconstructed() == version:
                    return
            raise AssertionError(appliance.supervisor.engines)

        def shown() -> tuple[str, str]:
            place = f"http://{appliance.open_doors['http']}"
            return httpx.get(place).text, httpx.get(f"{place}/metrics").text

        configured = open_bundle("ldmpir-2m")
        rest = route.model_copy(update={"name": "rest"})
        bundle = open_candidate(path, rest, configured)
        assert reconstructed() == configured.manifest.model.version
        promotions.promote(rest, bundle)
        serving(bundle.manifest.model.version)
        page, metrics = shown()
        assert f"{bundle.digest[:12]}</code> promoted" in page
        assert f'origin="promoted",route="rest",sha256="{bundle.digest}"' in metrics
        assert f'origin="configured",route="quick",sha256="{configured.digest}"' in metrics
        promotions.rollback(rest)
        serving(configured.manifest.model.version)
        page, metrics = shown()
        assert "promoted" not in page
        assert 'origin="promoted"' not in metrics
    # A restart finds what was promoted.
    promotions.promote(rest, bundle)
    with running(tmp_path, routes=routes) as appliance:
        assert reconstructed() == bundle.manifest.model.version


def test_a_damaged_promoted_bundle_is_no_silent_fallback(site: Site) -> None:
    site.promote(site.candidate())
    promoted = Path(site.promotions.in_service(site.route).bundle)
    promoted.write_bytes(promoted.read_bytes()[:-9])
    with pytest.raises(LdmpirError, match="promoted"):
        Engines(
            [site.route],
            allow_unsigned=False,
            doors=["dicom"],
            in_service=site.promotions.in_service,
        )
