"""The HTTP door over a real connection: scans in, states and images out."""

from __future__ import annotations

import io
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from running_appliance import QUICK, running, wait_delivered
from small_scans import write_fastmri

from ldmpir_edge.physics.problem import FAMILIES
from ldmpir_edge.serve.appliance import Appliance
from ldmpir_edge.serve.web import prompt_protocol

MAX_BYTES = 4_000_000
HTTP = {"listen": "127.0.0.1:0"}
LIMITS = {"min_free_bytes": 0, "max_payload_bytes": MAX_BYTES, "max_jobs": 6}


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    root = tmp_path_factory.mktemp("appliance")
    with running(root, http=HTTP, limits=LIMITS) as appliance:
        yield appliance


def client_of(appliance: Appliance, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=f"http://{appliance.open_doors['http']}", timeout=60, **options)


@pytest.fixture
def client(appliance: Appliance) -> Iterator[httpx.Client]:
    with client_of(appliance) as client:
        yield client


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "Doe^Jane.h5"
    write_fastmri(path, n_slices=2, acceleration=2)
    return path


def post(client: httpx.Client, data: bytes, name: str = "a.h5", **headers: str) -> httpx.Response:
    return client.post("/v1/reconstructions", files={"scan": (name, data)}, headers=headers)


def wait(client: httpx.Client, job_id: str) -> dict[str, Any]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        answer = client.get(f"/v1/reconstructions/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        if job["state"] not in {"queued", "running"}:
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def test_a_scan_in_and_its_images_out(
    appliance: Appliance, client: httpx.Client, scan: Path
) -> None:
    answer = post(client, scan.read_bytes(), scan.name)
    assert answer.status_code == 202
    assert set(answer.json()) == {"id", "state"}
    assert answer.headers["location"] == f"/v1/reconstructions/{answer.json()['id']}"
    job = wait(client, answer.json()["id"])
    assert (job["state"], job["reason"], job["source"]) == ("done", None, "http")
    assert job["checks"]["n_slices"] == 2
    assert [output["name"] for output in job["outputs"]] == ["image/0001.dcm", "image/0002.dcm"]
    for output in job["outputs"]:
        download = client.get(output["href"])
        assert download.headers["content-type"] == "application/dicom"
        assert len(download.content) == output["size"]
        assert pydicom.dcmread(io.BytesIO(download.content)).Rows == 48
    wait_delivered(appliance)
    (state,) = client.get(answer.headers["location"]).json()["deliveries"]
    assert state == {"target": "out", "waiting": 0, "delivered": 1, "error": None}


def test_what_is_no_scan_fails_with_its_reason(client: httpx.Client) -> None:
    job = wait(client, post(client, b"no scan at all").json()["id"])
    assert job["state"] == "failed"
    assert "not a scan" in job["reason"]
    assert (job["outputs"], job["checks"]) == ([], None)


def test_a_repeated_request_is_answered_with_the_first_id(client: httpx.Client) -> None:
    first, again, other = (
        post(client, b"data", **{"Idempotency-Key": key}).json()["id"] for key in ("1", "1", "2")
    )
    assert first == again != other
    assert post(client, b"data", **{"Idempotency-Key": "x" * 300}).status_code == 400


def test_a_large_scan_that_is_not_wanted_still_gets_its_answer(
    appliance: Appliance, client: httpx.Client
) -> None:
    """What the client still sends must not meet a closed connection, which loses the answer."""
    first = post(client, b"data", **{"Idempotency-Key": "large"}).json()["id"]
    for key, status in (("large", 202), ("x" * 300, 400)):
        answer = post(client, bytes(MAX_BYTES - 1000), **{"Idempotency-Key": key})
        assert answer.status_code == status
        assert status == 400 or answer.json()["id"] == first


def test_what_a_client_names_reaches_no_path(
    appliance: Appliance, client: httpx.Client, scan: Path
) -> None:
    answer = post(client, scan.read_bytes(), "../../../../tmp/evil.h5")
    job = wait(client, answer.json()["id"])
    wait_delivered(appliance)
    out = appliance.config.out
    assert out is not None
    assert [path.name for path in out.glob("evil-*")] == [f"evil-{job['id'][:12]}"]
    base = f"/v1/reconstructions/{job['id']}"
    for name in (
        "../thumbnail.png",
        "..%2Fthumbnail.png",
        "%2Fetc%2Fpasswd",
        "image",
        "image/../image/0001.dcm",
        "",
    ):
        with socket.create_connection(address(appliance)) as line:
            request = f"GET {base}/outputs/{name} HTTP/1.1\r\nHost: localhost\r\n"
            line.sendall(f"{request}Connection: close\r\n\r\n".encode())
            assert status_of(line) == 404, name
    for job_id in ("0" * 32, "..", "a" * 31, "A" * 32):
        assert client.get(f"/v1/reconstructions/{job_id}").status_code in {404, 422}


def address(appliance: Appliance) -> tuple[str, int]:
    host, _, port = appliance.open_doors["http"].rpartition(":")
    return host, int(port)


def status_of(line: socket.socket) -> int:
    line.settimeout(30)
    received = b""
    while b"\r\n" not in received and (data := line.recv(4096)):
        received += data
    return int(received.split()[1]) if received else 0


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n"])
def test_a_client_that_never_says_what_it_wants_is_dropped(
    appliance: Appliance, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(prompt_protocol, "HEADER_S", 0.2)
    with socket.create_connection(address(appliance)) as line:
        line.sendall(sent)
        line.settimeout(30)
        with suppress(ConnectionResetError):
            assert line.recv(1) == b""


def test_a_slow_client_that_says_it_in_time_is_heard(appliance: Appliance) -> None:
    with socket.create_connection(address(appliance)) as line:
        for part in (b"GET /healthz HTTP/1.1\r\n", b"Host: 127.0.0.1\r\n\r\n"):
            line.sendall(part)
            time.sleep(0.1)
        assert status_of(line) == 200


FORM = b'--b\r\nContent-Disposition: form-data; name="scan"; filename="a"\r\n\r\ndata\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("multipart/form-data; boundary=b", FORM, 202),
        ("multipart/form-data; boundary=b", FORM.replace(b"scan", b"file"), 400),
        ("multipart/form-data; boundary=b", FORM[:-4], 400),
        ("multipart/form-data; boundary=b", FORM[:20], 400),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 400),
        ("multipart/form-data; boundary=c", FORM, 400),
        ("multipart/form-data; boundary=b", FORM[:-8] + b"\r\n" + FORM, 400),
        ("multipart/form-data; boundary=b", b"--b\r\nA: " + b"x" * 50_000 + FORM[3:], 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\ndata\r\n--b--\r\n", 400),
        ("multipart/form-data", FORM, 400),
        ("multipart/form-data; boundary=" + "x" * 80, FORM, 400),
        ("application/json", b"{}", 400),
        ("", b"", 400),
    ],
)
def test_only_a_form_with_one_scan_is_taken(
    appliance: Appliance, client: httpx.Client, kind: str, body: bytes, status: int
) -> None:
    answer = client.post("/v1/reconstructions", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    if status != 202:
        assert not [*appliance.folder.incoming.iterdir()]


def test_a_scan_that_is_too_large_is_refused_while_it_arrives(
    appliance: Appliance, client: httpx.Client
) -> None:
    def pieces() -> Iterator[bytes]:
        yield FORM[: FORM.index(b"data\r\n--b--")]
        for _ in range(200):
            yield bytes(100_000)

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post("/v1/reconstructions", content=pieces(), headers=kind)
    assert answer.status_code == 413
    assert "split it" in answer.json()["detail"]
    wait_until_empty(appliance)


def test_a_client_that_asks_first_is_refused_before_it_sends(appliance: Appliance) -> None:
    head = (
        "POST /v1/reconstructions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n\r\n"
    )
    for size, status in ((10 * MAX_BYTES, 413), (1000, 100)):
        with socket.create_connection(address(appliance)) as line:
            line.sendall(head.format(size).encode())
            assert status_of(line) == status


def wait_until_empty(appliance: Appliance) -> None:
    until = time.monotonic() + 30
    while [*appliance.folder.incoming.iterdir()]:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_client_that_goes_away_leaves_nothing(appliance: Appliance) -> None:
    with socket.create_connection(address(appliance)) as line:
        head = "POST /v1/reconstructions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        line.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
        line.sendall(FORM[:-8] + bytes(1000))
        until = time.monotonic() + 30
        while not [*appliance.folder.incoming.iterdir()]:
            assert time.monotonic() < until
            time.sleep(0.02)
    wait_until_empty(appliance)


def test_a_full_queue_says_so(tmp_path: Path) -> None:
    routes = [{**QUICK, "targets": ["away"]}]
    pacs = {"away": {"address": "127.0.0.1:9", "ae_title": "AWAY"}}
    settings = {"http": HTTP, "pacs": pacs, "routes": routes}
    with (
        running(tmp_path, **settings, limits={"min_free_bytes": 0, "max_jobs": 2}) as appliance,
        client_of(appliance) as client,
    ):
        # Before the engines are loaded nothing leaves the queue.
        answers = [post(client, b"data") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 503]
        assert answers[-1].headers["retry-after"]
        assert "send this one again later" in answers[-1].json()["detail"]


def test_health_and_readiness(appliance: Appliance, client: httpx.Client) -> None:
    until = time.monotonic() + 60
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.05)
    first = client.get("/readyz").json()
    assert first["status"] == "ready"
    assert "quick/cartesian1d/fp32" in first["tested"]
    while (answer := client.get("/readyz").json())["untested"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert answer == {
        "status": "ready",
        "tested": [f"quick/{family}/fp32" for family in FAMILIES],
        "untested": [],
    }
    assert client.get("/healthz").json() == {"status": "ok"}


def test_metrics_count_what_happened(client: httpx.Client, scan: Path) -> None:
    def read() -> dict[tuple[str, ...], float]:
        text = client.get("/metrics").text
        assert "Doe" not in text
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    before = read()
    wait(client, post(client, scan.read_bytes(), scan.name).json()["id"])
    post(client, bytes(MAX_BYTES + 20_000))
    after = read()

    def grown(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    assert grown("ldmpir_jobs_received_total", "http") == 1
    assert grown("ldmpir_jobs_finished_total", "quick", "done") == 1
    assert grown("ldmpir_slices_total", "quick") == 2
    assert grown("ldmpir_jobs_refused_total", "PayloadTooLargeError", "http") == 1
    assert grown("ldmpir_stage_seconds_count", "engine") == 1
    assert grown("ldmpir_residual_count", "quick") == 1
    assert after["ldmpir_ready",] == 1
    assert after["ldmpir_jobs", "queued"] == 0
    assert after["ldmpir_disk_free_bytes",] > 0
    assert any(key[0] == "ldmpir_engine_info" and "ldmpir-2m" in key for key in after)


def test_the_schema_is_published(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/v1/reconstructions",
        "/v1/reconstructions/{job_id}",
        "/v1/reconstructions/{job_id}/outputs/{name}",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    body = schema["paths"]["/v1/reconstructions"]["post"]["requestBody"]["content"]
    assert body["multipart/form-data"]["schema"]["required"] == ["scan"]
    assert "internet" not in json.dumps(schema)


def test_the_status_page_is_complete_in_itself(client: httpx.Client, scan: Path) -> None:
    done = wait(client, post(client, scan.read_bytes(), scan.name).json()["id"])
    failed = wait(client, post(client, b"<script>alert(1)</script>", "<i>.h5").json()["id"])
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    page = answer.text
    for word in (done["id"][:12], failed["id"][:12], "ready", "ldmpir-2m", "ScanFormatError"):
        assert word in page
    # Nothing of the patient, nothing of a client's making, nothing from elsewhere.
    for word in ("Doe", "<script", "<i>", "http://", "https://"):
        assert word not in page
    picture = re.search(rf"/thumbnails/{done['id']}\.png", page)
    assert picture
    with Image.open(io.BytesIO(client.get(picture[0]).content)) as image:
        assert image.size == (48, 48)
        assert np.asarray(image).std() > 10
    assert client.get(f"/thumbnails/{failed['id']}.png").status_code == 404
