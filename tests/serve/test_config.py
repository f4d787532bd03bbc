"""The configuration: what the page shows is taken, and everything doubtful is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import ldmpir_edge
from readme_blocks import read_blocks
from toy_bundle import toy_files, toy_manifest

from ldmpir_edge.bundle import write_bundle
from ldmpir_edge.errors import UsageError
from ldmpir_edge.serve.address import parse_address
from ldmpir_edge.serve.config import ServeConfig, load_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "appliance.md"


def read(tmp_path: Path, text: str, **flags: Any) -> ServeConfig:
    (tmp_path / "a.toml").write_text(text)
    return load_config(tmp_path / "a.toml", flags)


def test_the_example_of_the_page_is_valid(tmp_path: Path) -> None:
    example, tls, *_ = (b.text for b in read_blocks(PAGE.read_text()) if b.language == "toml")
    config = read(tmp_path, f"{example}\n{tls}")
    assert config.doors == {
        "mrd": "10.0.0.2:9002",
        "dicom": "10.0.0.2:11112",
        "http": "127.0.0.1:8080",
        "watch": "/srv/scans",
    }
    assert config.http is not None
    assert config.http.tls is not None
    assert config.http.tls.client_ca == Path("/etc/ldmpir-edge/peers.pem")


def test_limits_shown_on_the_page_are_the_defaults(tmp_path: Path) -> None:
    example = next(b.text for b in read_blocks(PAGE.read_text()) if b.language == "toml")
    assert read(tmp_path, example).limits == read(tmp_path, 'state = "s"').limits


def test_flags_go_before_the_file_and_leave_the_rest(tmp_path: Path) -> None:
    text = 'state = "s"\n[dicom]\nlisten = ":104"\nae_title = "EDGE"\nquiet_s = 2'
    config = read(tmp_path, text, state=tmp_path, dicom={"listen": "127.0.0.1:11112"})
    assert config.state == tmp_path
    assert config.dicom is not None
    assert (str(config.dicom.listen), config.dicom.ae_title) == ("127.0.0.1:11112", "EDGE")
    assert config.dicom.quiet_s == 2


def test_every_door_is_off_unless_named(tmp_path: Path) -> None:
    assert load_config(None, {"state": tmp_path}).doors == {}


def test_the_environment_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOW_UNSIGNED", "1")
    monkeypatch.setenv("OUT", str(tmp_path))
    config = load_config(None, {"state": tmp_path / "s"})
    assert (config.allow_unsigned, config.out) == (False, None)


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:9002", "127.0.0.1", 9002, True),
        (":80", "127.0.0.1", 80, True),
        ("8080", "127.0.0.1", 8080, True),
        ("localhost:1", "localhost", 1, True),
        ("[::1]:104", "::1", 104, True),
        ("127.8.0.1:0", "127.8.0.1", 0, True),
        ("10.0.0.1:9002", "10.0.0.1", 9002, False),
        ("[::]:9002", "::", 9002, False),
        ("scanner:9002", "scanner", 9002, False),
    ],
)
def test_addresses(text: str, host: str, port: int, loopback: bool) -> None:
    address = parse_address(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "host:", "host:http", "1:2:3", "host:65536", "host:٣", "a:-1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        parse_address(text)


OPEN = 'state = "s"\n[{door}]\nlisten = "0.0.0.0:9002"\n'


@pytest.mark.parametrize("door", ["mrd", "dicom", "http"])
def test_a_door_beyond_the_loopback_says_who_may_come_in(tmp_path: Path, door: str) -> None:
    text = OPEN.format(door=door)
    with pytest.raises(UsageError, match=r"0\.0\.0\.0:9002 can be reached from other machines"):
        read(tmp_path, text)
    read(tmp_path, f'{text}peers = ["10.0.0.0/8"]')
    keys = 'tls = {certificate = "c", key = "k"'
    with pytest.raises(UsageError, match="can be reached"):
        read(tmp_path, f"{text}{keys}}}")
    read(tmp_path, f'{text}{keys}, client_ca = "a"}}')


def test_a_door_may_know_its_peers_by_their_own_means(tmp_path: Path) -> None:
    read(tmp_path, OPEN.format(door="dicom") + 'calling_ae_titles = ["SCANNER1"]')
    read(tmp_path, OPEN.format(door="http") + f'tokens = {{ris = "sha256:{"0" * 64}"}}')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "state is missing"),
        ("state = ", "is not TOML"),
        ('state = "s"\nsate = 1', "sate: Extra inputs"),
        ('state = "s"\n[mrd]\nport = 1', "mrd.listen is missing"),
        ('state = "s"\n[mrd]\nlisten = "x"', "mrd.listen: no address.*'x'"),
        ('state = "s"\n[watch]\nfolder = "w"\nsettle_s = -1', "watch.settle_s.*-1"),
        ('state = "s"\n[dicom]\nlisten = ":1"\nae_title = "A\\\\B"', "dicom.ae_title"),
        ('state = "s"\n[dicom]\nlisten = ":1"\nae_title = "SEVENTEEN LETTERS"', "dicom.ae_title"),
        ('state = "s"\n[[routes]]\nname = "a"\nformats = ["jpg"]', "choose of dicom, h5"),
        ('state = "s"\n[[routes]]\nname = "a"\nprecisions = ["fp8"]', "routes.0.precisions.0"),
        ('state = "s"\n[[routes]]\nname = "a"\nfactor = 3', "routes.0.factor"),
        ('state = "s"\n[[routes]]\nname = "a"\nfactor = 4', 'goes with task = "super-resolve"'),
        ('state = "s"\n[[routes]]\nname = "a"\ntargets = ["main"]', "delivers to main"),
        ('state = "s"\n[[routes]]\nname = "a"\ntargets = ["out"]', "delivers to out"),
        ('state = "s"\n[[routes]]\nname = "a"\n[[routes]]\nname = "a"', "same name"),
        ('state = "s"\nroutes = []', "routes"),
        ('state = "s"\nout = "s/o"', "lie in one another"),
        ('state = "s"\nout = "w"\n[watch]\nfolder = "w"', "lie in one another"),
        ('state = "s"\n[pacs.out]\naddress = ":104"\nae_title = "P"', "cannot be called out"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        read(tmp_path, text)
    assert "\n" not in str(raised.value)


def test_a_token_in_place_of_its_hash_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tokens") as raised:
        read(tmp_path, 'state = "s"\n[http]\nlisten = ":1"\ntokens = {ris = "hunter2"}')
    assert "hunter2" not in str(raised.value)


ROUTES = """
state = "s"
out = "o"
[pacs.main]
address = "pacs:104"
ae_title = "MAIN"
[pacs.copy]
address = "copy:104"
ae_title = "COPY"
[[routes]]
name = "knee"
sources = ["mrd", "dicom"]
label = "knee*"
targets = ["copy"]
[[routes]]
name = "web"
sources = ["http"]
"""


@pytest.mark.parametrize(
    ("source", "label", "expected"),
    [
        ("mrd", "knee-fast", "knee"),
        ("dicom", "knee", "knee"),
        ("mrd", "Knee", None),
        ("mrd", "", None),
        ("http", "knee", "web"),
        ("http", "", "web"),
        ("watch", "", None),
    ],
)
def test_the_first_route_that_fits(
    tmp_path: Path, source: Any, label: str, expected: str | None
) -> None:
    route = read(tmp_path, ROUTES).route(source, label)
    assert (route.name if route else None) == expected


def test_targets_are_all_there_are_unless_named(tmp_path: Path) -> None:
    config = read(tmp_path, ROUTES)
    knee, web = config.routes
    assert config.targets(knee) == ("copy",)
    assert config.targets(web) == ("out", "main", "copy")


def test_check_prints_what_would_run(tmp_path: Path) -> None:
    folders = ("--state", tmp_path / "s", "--watch", tmp_path / "w", "--out", tmp_path / "o")
    finished = ldmpir_edge(
        *("serve", *folders, "--mrd", "127.0.0.1:9002", "--dicom", "127.0.0.1:11112"),
        *("--http", "127.0.0.1:8080", "--check", "--json"),
    )
    report = finished.report
    assert report["mrd"]["listen"] == "127.0.0.1:9002"
    assert report["dicom"]["listen"] == "127.0.0.1:11112"
    assert report["http"]["listen"] == "127.0.0.1:8080"
    assert report["watch"]["folder"] == str(tmp_path / "w")
    (route,) = report["routes"]
    assert (route["bundle"], route["steps"], route["targets"]) == ("ldmpir-2m", [4], ["out"])
    assert not [*tmp_path.iterdir()]
    shown = ldmpir_edge("serve", *folders, "--http", ":8080", "--check").out
    for word in ("127.0.0.1:8080", "4 steps fp32", "trusted:"):
        assert word in shown


def test_check_refuses_what_could_not_run(tmp_path: Path) -> None:
    files = toy_files()
    write_bundle(tmp_path / "toy.ldmpir", toy_manifest(files), files)
    (tmp_path / "a.toml").write_text(
        f'state = "s"\n[[routes]]\nname = "a"\nsteps = [4, 2]\nbundle = "{tmp_path}/toy.ldmpir"'
    )
    run = ("serve", "--config", tmp_path / "a.toml", "--check")
    ldmpir_edge(*run).assert_refused(20, "route a", "not signed", "--allow-unsigned")
    ldmpir_edge(*run, "--allow-unsigned").assert_refused(20, "2 steps")
    ldmpir_edge("serve", "--state", "s", "--json").assert_refused(2, "--check")
    ldmpir_edge("serve", "--config", tmp_path / "b.toml").assert_refused(2, "b.toml")
