"""`promote` and `rollback` as a user types them: what changes, what is printed, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import ldmpir_edge
from tuned_bundle import trust_new_key, write_toy_bundle

from ldmpir_edge.bundle import open_bundle


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, a bundle that serves, a key and two candidates."""
    monkeypatch.setenv("LDMPIR_TRUSTED_KEYS", str(tmp_path / "keys"))
    key = trust_new_key(tmp_path)
    write_toy_bundle(tmp_path / "toy.ldmpir", key, tuned=False)
    for n in (1, 2):
        write_toy_bundle(tmp_path / f"{n}.ldmpir", key, seed=n)
    (tmp_path / "appliance.toml").write_text(
        f'state = "{tmp_path}/state"\n'
        f'[[routes]]\nname = "toy"\nbackend = "onnxruntime"\nbundle = "{tmp_path}/toy.ldmpir"\n'
    )
    return tmp_path


def options(site: Path) -> tuple[object, ...]:
    return "--config", site / "appliance.toml", "--route", "toy"


def in_service(site: Path) -> str:
    (route,) = ldmpir_edge(
        "serve", "--config", site / "appliance.toml", "--check", "--json"
    ).report["routes"]
    assert open_bundle(route["bundle_in_service"]).digest == route["bundle_sha256"]
    return str(route["bundle_sha256"])


def test_there_and_back(site: Path) -> None:
    digests = [open_bundle(site / f"{name}.ldmpir").digest for name in ("toy", 1, 2)]
    assert in_service(site) == digests[0]
    report = ldmpir_edge("promote", site / "1.ldmpir", *options(site), "--json").report
    assert report == {
        "route": "toy",
        "bundle": "toy",
        "bundle_version": "1.0+finetuned",
        "bundle_sha256": digests[1],
        "replaces_sha256": digests[0],
        "golden_pairs_passed": 1,
    }
    assert in_service(site) == digests[1]
    done = ldmpir_edge("promote", site / "2.ldmpir", *options(site))
    assert done.code == 0
    assert digests[2][:12] in done.out
    assert "rollback" in done.err
    assert in_service(site) == digests[2]
    shown = ldmpir_edge("serve", "--config", site / "appliance.toml", "--check").out
    assert "in place of" in shown

    report = ldmpir_edge("rollback", *options(site), "--json").report
    assert report == {
        "route": "toy",
        "bundle_sha256": digests[1],
        "replaces_sha256": digests[2],
    }
    assert in_service(site) == digests[1]
    done = ldmpir_edge("rollback", *options(site))
    assert (done.code, in_service(site)) == (0, digests[0])
    assert str(site / "toy.ldmpir") in done.out
    ldmpir_edge("rollback", *options(site)).assert_refused(53, "nothing is promoted", "toy.ldmpir")
    assert in_service(site) == digests[0]


def test_an_unsigned_candidate_is_one_line(site: Path) -> None:
    write_toy_bundle(site / "unsigned.ldmpir")
    before = in_service(site)
    done = ldmpir_edge("promote", site / "unsigned.ldmpir", *options(site))
    done.assert_refused(20, "is not signed", "fine-tune with --key")
    assert in_service(site) == before
    assert not (site / "state" / "promoted").exists()


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_a_route_that_is_not_there(site: Path, command: str) -> None:
    given = [site / "1.ldmpir"] if command == "promote" else []
    where = ("--config", site / "appliance.toml", "--route", "knee")
    ldmpir_edge(command, *given, *where).assert_refused(2, "'knee'", "choose of toy")


def test_a_candidate_that_is_not_there(site: Path) -> None:
    done = ldmpir_edge("promote", site / "none.ldmpir", *options(site))
    done.assert_refused(20, "none.ldmpir")
