"""The DICOM door and PACS as targets, with real peers: DCMTK, pynetdicom's programs, Orthanc."""

from __future__ import annotations

import io
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from certificates import Authority
from dicom_peers import Orthanc, free_port, storage_scp, store, write_series
from dicom_validator import dciodvfy_errors
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification
from running_appliance import QUICK, WAIT_S, running, send, wait, wait_delivered
from small_scans import write_fastmri, write_sinogram

from ldmpir_edge.serve.appliance import Appliance
from ldmpir_edge.serve.dicom.receiver import MAX_PDU_BYTES
from ldmpir_edge.serve.jobs import Job

DICOM = {"listen": "127.0.0.1:0", "calling_ae_titles": ["SCANNER1"], "quiet_s": 0.5}
# A socket that pynetdicom could not connect is closed when it is collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROUTES = [{**QUICK, "label": "SCANNER*"}]


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    with running(tmp_path_factory.mktemp("appliance"), dicom=DICOM, routes=ROUTES) as appliance:
        yield appliance


def address(appliance: Appliance) -> tuple[str, int]:
    host, _, port = appliance.open_doors["dicom"].rpartition(":")
    return host, int(port)


def wait_new(appliance: Appliance, known: set[str], n_jobs: int = 1) -> list[Job]:
    """Wait until new jobs have ended; gives them in order."""
    until = time.monotonic() + WAIT_S
    while len(new := appliance.queue.known() - known) < n_jobs:
        assert time.monotonic() < until
        time.sleep(0.02)
    return [
        wait(appliance, job.id) for job in reversed(appliance.queue.recent(99)) if job.id in new
    ]


def test_a_series_comes_out_denoised(appliance: Appliance, tmp_path: Path) -> None:
    known = appliance.queue.known()
    paths = write_series(tmp_path, 3)
    assert store(appliance.open_doors["dicom"], paths) == 0
    (job,) = wait_new(appliance, known)
    assert (job.state, job.source, job.report["task"]) == ("done", "dicom", "denoise")
    wait_delivered(appliance)
    assert appliance.config.out is not None
    (folder,) = appliance.config.out.glob(f"*-{job.id[:12]}")
    made = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    for source, ds in zip(map(pydicom.dcmread, paths), made, strict=True):
        assert ds.PatientID == "1234"
        assert list(ds.ImageType)[:2] == ["DERIVED", "PRIMARY"]
        (reference,) = ds.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        before, after = (d.pixel_array.astype(float) for d in (source, ds))
        assert 0 < np.abs(after - before).mean() < 0.2 * before.mean()


def test_two_series_at_once_are_two_jobs(appliance: Appliance, tmp_path: Path) -> None:
    known = appliance.queue.known()
    one, two = (write_series(tmp_path / str(n), n, seed=n) for n in (2, 3))
    mixed = [path for pair in zip(one, two, strict=False) for path in pair] + two[2:]
    assert store(appliance.open_doors["dicom"], mixed) == 0
    assert sorted(job.report["n_slices"] for job in wait_new(appliance, known, 2)) == [2, 3]


def associate(appliance: Appliance, calling: str = "SCANNER1", called: str = "LDMPIR") -> Any:
    ae = AE(calling)
    ae.add_requested_context(Verification)
    for storage in (MRImageStorage, CTImageStorage, SecondaryCaptureImageStorage):
        ae.add_requested_context(storage, ExplicitVRLittleEndian)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    return ae.associate(*address(appliance), ae_title=called)


def test_only_known_titles_are_let_in(appliance: Appliance) -> None:
    for calling, called, welcome in (
        ("SCANNER1", "LDMPIR", True),
        ("SCANNER2", "LDMPIR", False),
        ("SCANNER1", "OTHER", False),
        ("scanner1", "LDMPIR", False),
    ):
        association = associate(appliance, calling, called)
        assert association.is_established is welcome, (calling, called)
        if welcome:
            assert association.send_c_echo().Status == 0
            assert [cx.abstract_syntax for cx in association.rejected_contexts] == [
                SecondaryCaptureImageStorage
            ]
            association.release()


def test_data_sets_that_may_swell_are_not_taken(appliance: Appliance) -> None:
    ae = AE("SCANNER1")
    ae.add_requested_context(MRImageStorage, DeflatedExplicitVRLittleEndian)
    association = ae.associate(*address(appliance), ae_title="LDMPIR")
    assert association.rejected_contexts
    association.abort()


def test_only_peers_of_the_network_are_heard(tmp_path: Path) -> None:
    door = {"listen": "127.0.0.1:0", "peers": ["192.0.2.0/24"]}
    with running(tmp_path, dicom=door) as appliance:
        assert not associate(appliance).is_established


def test_what_cannot_be_understood_is_refused(appliance: Appliance, tmp_path: Path) -> None:
    known = appliance.queue.known()
    (path,) = write_series(tmp_path, 1)
    association = associate(appliance)
    ds = pydicom.dcmread(path)
    del ds.SeriesInstanceUID
    assert association.send_c_store(ds).Status == 0xC000
    association.release()
    assert appliance.queue.known() == known
    assert not [*appliance.folder.series.iterdir()]


def test_a_full_appliance_says_so(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path / "series", 1)
    limits = {"min_free_bytes": 10**18}
    with running(tmp_path, dicom=DICOM, limits=limits) as appliance:
        association = associate(appliance)
        assert association.send_c_store(pydicom.dcmread(path)).Status == 0xA700
        association.release()


def test_a_series_that_no_route_takes_is_refused(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path / "series", 1)
    with running(tmp_path, dicom=DICOM, routes=[{**QUICK, "sources": ["http"]}]) as appliance:
        association = associate(appliance)
        assert association.send_c_store(pydicom.dcmread(path)).Status == 0x0124
        association.release()


def test_a_pdu_beyond_all_measure_ends_the_connection(appliance: Appliance) -> None:
    for length in (MAX_PDU_BYTES + 1, 2**32 - 1):
        with socket.create_connection(address(appliance), timeout=30) as line:
            line.sendall(struct.pack(">BBL", 1, 0, length) + bytes(1000))
            while line.recv(4096):  # an abort, perhaps; then the end
                pass
    association = associate(appliance)
    assert association.is_established
    association.release()


def test_a_silent_peer_does_not_keep_others_out(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue("appliance")
    tls = {"certificate": certificate, "key": key, "client_ca": authority.ca}
    with running(tmp_path, dicom={**DICOM, "tls": tls}) as appliance, ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(address(appliance)))
        ae = AE("SCANNER1")
        ae.add_requested_context(Verification)
        context = ssl.create_default_context(cafile=authority.ca)
        stranger = ae.associate(
            *address(appliance), ae_title="LDMPIR", tls_args=(context, "localhost")
        )
        assert not stranger.is_established
        assert not associate(appliance).is_established
        context.load_cert_chain(*authority.issue("scanner"))
        known = ae.associate(
            *address(appliance), ae_title="LDMPIR", tls_args=(context, "localhost")
        )
        assert known.is_established
        assert known.send_c_echo().Status == 0
        known.release()


def pacs(port: int, **changes: Any) -> dict[str, Any]:
    return {"main": {"address": f"127.0.0.1:{port}", "ae_title": "PACS", **changes}}


def test_images_reach_a_pacs(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", n_slices=3, acceleration=2)
    port = free_port()
    # A route without DICOM files in its folder sends DICOM all the same.
    routes = [{**QUICK, "formats": ["npy"]}]
    with (
        storage_scp(tmp_path / "pacs", port),
        running(tmp_path, pacs=pacs(port), routes=routes) as appliance,
    ):
        job = wait(appliance, send(appliance, tmp_path / "a.h5"))
        wait_delivered(appliance)
        result = appliance.supervisor.result(job)
        sent = {pydicom.dcmread(path).SOPInstanceUID for path in result.rglob("*.dcm")}
    arrived = [pydicom.dcmread(path) for path in (tmp_path / "pacs").iterdir()]
    assert {ds.SOPInstanceUID for ds in arrived} == sent
    assert len(arrived) == 3


def test_a_lost_pacs_gets_its_images_when_it_is_back(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", n_slices=2, acceleration=2)
    port = free_port()
    with running(tmp_path, pacs=pacs(port)) as appliance:
        job = wait(appliance, send(appliance, tmp_path / "a.h5"))
        until = time.monotonic() + WAIT_S
        while "check its address" not in str(appliance.queue.delivery_states(job.id)):
            assert time.monotonic() < until
            time.sleep(0.05)
    # Nor does a restart lose them.
    with running(tmp_path, pacs=pacs(port)) as appliance:
        states = {d["target"]: d["waiting"] for d in appliance.queue.delivery_states(job.id)}
        assert states == {"main": 2, "out": 0}
        with storage_scp(tmp_path / "pacs", port):
            wait_delivered(appliance)
    assert len([*(tmp_path / "pacs").iterdir()]) == 2


def test_what_a_pacs_refuses_is_sent_again_and_the_rest_is_not(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", n_slices=3, acceleration=2)
    seen: list[int] = []

    def take(event: evt.Event) -> int:
        number = int(event.dataset.InstanceNumber)
        seen.append(number)
        return 0xA700 if number == 2 and seen.count(2) < 3 else 0x0000

    ae = AE("PACS")
    ae.add_supported_context(MRImageStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    try:
        with running(tmp_path, pacs=pacs(server.server_address[1])) as appliance:
            wait(appliance, send(appliance, tmp_path / "a.h5"))
            wait_delivered(appliance)
    finally:
        ae.shutdown()
    assert seen[:3] == [1, 2, 3]
    assert seen[3:] == [2, 2]


def test_a_pacs_that_does_not_answer_does_not_hold_up_the_end(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", n_slices=3, acceleration=2)
    asked, over = threading.Event(), threading.Event()

    def hang(_: evt.Event) -> int:
        asked.set()
        over.wait(60)
        return 0x0000

    ae = AE("PACS")
    ae.add_supported_context(MRImageStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, hang)])
    try:
        with running(tmp_path, pacs=pacs(server.server_address[1])) as appliance:
            job = wait(appliance, send(appliance, tmp_path / "a.h5"))
            assert asked.wait(60)
            started = time.monotonic()
        assert time.monotonic() - started < 20
    finally:
        over.set()
        ae.shutdown()
    with running(tmp_path, pacs=pacs(free_port())) as appliance:
        states = {d["target"]: d["waiting"] for d in appliance.queue.delivery_states(job.id)}
    assert states["main"] == 3


def test_a_pacs_is_reached_over_mutual_tls(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "a.h5", acceleration=2)
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue("pacs")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    seen: list[str] = []
    handlers = [
        (evt.EVT_C_STORE, lambda event: seen.append(event.request.AffectedSOPInstanceUID) or 0)
    ]
    ae = AE("PACS")
    ae.add_supported_context(MRImageStorage)
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context
    )
    ours = dict(zip(("certificate", "key"), authority.issue("appliance"), strict=True))
    try:
        settings = pacs(server.server_address[1], tls={**ours, "client_ca": authority.ca})
        with running(tmp_path, pacs=settings) as appliance:
            wait(appliance, send(appliance, tmp_path / "a.h5"))
            wait_delivered(appliance)
    finally:
        ae.shutdown()
    assert len(seen) == 1


def test_orthanc_shows_the_images_and_a_rerun_replaces_them(tmp_path: Path) -> None:
    scans = {"mri": tmp_path / "mri.h5", "ct": tmp_path / "ct.h5"}
    write_fastmri(scans["mri"], n_slices=2, acceleration=2)
    write_sinogram(scans["ct"])
    (source,) = write_series(tmp_path / "series", 1)
    orthanc = Orthanc(tmp_path / "orthanc")
    try:
        settings = pacs(orthanc.port, ae_title="ORTHANC")
        with running(tmp_path, pacs=settings, dicom=DICOM, routes=[QUICK]) as appliance:

            def deliver() -> list[str]:
                known = appliance.queue.known()
                jobs = [wait(appliance, send(appliance, path)) for path in scans.values()]
                assert store(appliance.open_doors["dicom"], [source]) == 0
                jobs += wait_new(appliance, known | {job.id for job in jobs})
                assert [job.state for job in jobs] == ["done"] * 3
                wait_delivered(appliance)
                return sorted(orthanc.instances())

            first = deliver()
            assert len(first) == 4
            modalities = []
            for number, instance in enumerate(first):
                path = tmp_path / f"{number}.dcm"
                path.write_bytes(orthanc.get(f"/instances/{instance}/file").content)
                assert dciodvfy_errors(path) == []
                ds = pydicom.dcmread(path)
                modalities.append(ds.Modality)
                picture = orthanc.get(f"/instances/{instance}/preview").content
                with Image.open(io.BytesIO(picture)) as shown:
                    assert shown.size == (ds.Columns, ds.Rows)
                    assert np.ptp(np.asarray(shown)) > 50
            assert sorted(modalities) == ["CT", "MR", "MR", "MR"]
            assert deliver() == first
    finally:
        orthanc.end()


def test_an_acknowledged_image_survives_a_stop(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "series", 2)
    patient = {**DICOM, "quiet_s": 3600}
    with running(tmp_path, dicom=patient) as appliance:
        assert store(appliance.open_doors["dicom"], paths[:1]) == 0
        assert appliance.queue.known() == set()
    with running(tmp_path, dicom={**DICOM, "quiet_s": 2}) as appliance:
        assert store(appliance.open_doors["dicom"], paths[1:]) == 0
        (job,) = wait_new(appliance, set())
    assert job.report["n_slices"] == 2


def test_no_threads_are_left_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with running(tmp_path, dicom=DICOM) as appliance:
        association = associate(appliance)
        assert association.is_established
    association.abort()
    until = time.monotonic() + 30
    while set(threading.enumerate()) - before:
        assert time.monotonic() < until, threading.enumerate()
        time.sleep(0.05)
