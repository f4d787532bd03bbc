"""The MRD door: a scanner's stream in, images back on the same connection."""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pydicom
import pytest
from certificates import Authority
from mrd_client import (
    ACQUISITION,
    CLOSE,
    CONFIG_FILE,
    CONFIG_TEXT,
    HEADER,
    IMAGE,
    TEXT,
    WAVEFORM,
    Answer,
    MrdClient,
    read_file,
    send_scan,
)
from running_appliance import QUICK, running, wait, wait_delivered
from small_scans import write_ismrmrd

from ldmpir_edge.reconstruct import load
from ldmpir_edge.serve.appliance import Appliance
from ldmpir_edge.serve.intake import Incoming
from ldmpir_edge.serve.mrd import server
from ldmpir_edge.serve.mrd.reply import IMAGE_HEAD

MRD = {"listen": "127.0.0.1:0"}
ROUTES = [
    {**QUICK, "name": "late", "label": "late*", "deadline_s": 0.001},
    {**QUICK, "name": "knee", "label": "[!n]*", "formats": ["dicom", "h5"]},
]


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    with running(tmp_path_factory.mktemp("appliance"), mrd=MRD, routes=ROUTES) as appliance:
        yield appliance


@pytest.fixture
def client(appliance: Appliance) -> Iterator[MrdClient]:
    with MrdClient(appliance.open_doors["mrd"]) as client:
        yield client


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "raw.h5"
    write_ismrmrd(path, np.random.default_rng(3))
    return path


def exchange(appliance: Appliance, path: Path, config: str = "knee") -> Answer:
    with MrdClient(appliance.open_doors["mrd"]) as client:
        send_scan(client, *read_file(path), config)
        return client.receive()


def test_images_come_back_as_they_are_made_from_the_file(appliance: Appliance, scan: Path) -> None:
    answer = exchange(appliance, scan)
    assert (answer.closed, answer.texts) == (True, [])
    expected = load(backend="onnxruntime", n_steps=1)(scan).image
    assert len(answer.images) == len(expected)
    for image, values in zip(answer.images, expected, strict=True):
        assert image.data.shape == (1, 1, *values.shape)
        np.testing.assert_array_equal(image.data[0, 0], values)


def oblique(path: Path, n_slices: int = 3) -> None:
    """Write slices of unequal pixels on a tilted plane, with a counter in every field."""
    rng = np.random.default_rng(5)
    write_ismrmrd(path, rng)
    with ismrmrd.Dataset(str(path), "dataset", mode="r") as dataset:
        header, lines = (
            dataset.read_xml_header(),
            [dataset.read_acquisition(i) for i in range(dataset.number_of_acquisitions())],
        )
    path.unlink()
    tilt = np.deg2rad(25)
    read_dir = np.array([np.cos(tilt), np.sin(tilt), 0])
    phase_dir = np.array([-np.sin(tilt) * 0.8, np.cos(tilt) * 0.8, 0.6])
    slice_dir = np.cross(read_dir, phase_dir)
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as dataset:
        dataset.write_xml_header(header)
        for index in range(n_slices):
            for line in lines:
                line.read_dir[:], line.phase_dir[:] = read_dir, phase_dir
                line.slice_dir[:] = slice_dir
                line.position[:] = np.array([5.0, -7.0, 11.0]) + 4.0 * index * slice_dir
                line.idx.slice = index
                line.measurement_uid = 77
                line.acquisition_time_stamp = 1000 + index
                line.physiology_time_stamp[0] = 300 + index
                line.patient_table_position[:] = (1, 2, 3)
                dataset.append_acquisition(line)


def test_geometry_and_meta(appliance: Appliance, tmp_path: Path) -> None:
    oblique(tmp_path / "raw.h5")
    answer = exchange(appliance, tmp_path / "raw.h5")
    _, lines = read_file(tmp_path / "raw.h5")
    job = appliance.queue.recent(1)[0]
    dicoms = sorted((appliance.supervisor.result(job) / "image").glob("*.dcm"))
    assert len(answer.images) == len(dicoms) == 3
    for index, (image, path) in enumerate(zip(answer.images, dicoms, strict=True)):
        head = image.getHead()
        source = next(line for line in lines if line.idx.slice == index and not is_noise(line))
        assert (head.slice, head.image_index, head.image_series_index) == (index, index + 1, 1)
        assert (head.measurement_uid, head.acquisition_time_stamp) == (77, 1000 + index)
        assert head.physiology_time_stamp[0] == 300 + index
        for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position"):
            np.testing.assert_allclose(getattr(head, name), getattr(source, name), atol=1e-4)
        # The same place as the DICOM image's, whose position is its first pixel.
        ds = pydicom.dcmread(path)
        rows, columns = ds.Rows, ds.Columns
        row_dir, column_dir = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
        row_mm, column_mm = map(float, ds.PixelSpacing)
        centre = np.array(ds.ImagePositionPatient, float)
        centre += columns // 2 * column_mm * row_dir + rows // 2 * row_mm * column_dir
        np.testing.assert_allclose(head.position, centre, atol=1e-3)
        np.testing.assert_allclose(head.read_dir, row_dir, atol=1e-5)
        assert list(head.matrix_size) == [columns, rows, 1]
        np.testing.assert_allclose(
            head.field_of_view, [columns * column_mm, rows * row_mm, float(ds.SliceThickness)]
        )
        meta = ismrmrd.Meta.deserialize(image.attribute_string)
        assert meta["DataRole"] == "Image"
        assert meta["LdmpirBundle"][0] == "ldmpir-2m"
        assert meta["LdmpirVariant"] == ["1 steps", "fp32", "onnxruntime"]
        assert "NOT FOR DIAGNOSTIC USE" in meta["ImageComment"]
        assert "LdmpirFallback" not in meta
        assert 0 < float(meta["LdmpirResidual"]) < 1
        np.testing.assert_allclose([float(v) for v in meta["ImageRowDir"]], row_dir, atol=1e-6)
        assert float(meta["WindowWidth"]) > 0


def is_noise(line: ismrmrd.Acquisition) -> bool:
    return bool(line.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT))


def test_the_headers_are_the_reference_packages() -> None:
    from ismrmrd.hdf5 import acquisition_header_dtype

    from ldmpir_edge.scans.mrd_spool import ACQUISITION_HEAD

    assert acquisition_header_dtype == ACQUISITION_HEAD
    theirs = ismrmrd.ImageHeader()
    ours = np.zeros((), IMAGE_HEAD)
    assert len(bytes(theirs)) == IMAGE_HEAD.itemsize
    for number, (name, *_) in enumerate(ismrmrd.ImageHeader._fields_, start=1):
        ours[name] = number
        field = getattr(theirs, name)
        if hasattr(field, "__len__"):
            field[:] = [number] * len(field)
        else:
            setattr(theirs, name, number)
    assert ours.tobytes() == bytes(theirs)


def test_a_late_image_is_classical_and_says_so(appliance: Appliance, scan: Path) -> None:
    answer = exchange(appliance, scan, "late-please")
    assert ["deadline" in text for text in answer.texts] == [True]
    meta = ismrmrd.Meta.deserialize(answer.images[0].attribute_string)
    assert "deadline" in meta["LdmpirFallback"]
    assert "CLASSICAL IMAGE" in meta["ImageComment"]


def test_what_is_not_an_image_is_passed_over(
    appliance: Appliance, client: MrdClient, scan: Path
) -> None:
    xml, lines = read_file(scan)
    client.text("hello")
    client.config_text("<anything/>")
    client.text("still here")
    client.header(xml)
    client.waveform(2, 100)
    for number, line in enumerate(lines):
        if number % 20 == 0:
            client.waveform(5, 3)
            client.text("on the way")
        client.acquisition(line)
    client.close()
    # A configuration as text has no name: none of the routes that ask for one takes it.
    answer = client.receive()
    assert ["no route takes" in text for text in answer.texts] == [True]


def test_four_clients_at_once_get_their_own_images_in_order(
    appliance: Appliance, tmp_path: Path
) -> None:
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.h5")
        oblique(paths[-1], n_slices=number + 2)
        with h5py.File(paths[-1], "r+") as file:
            heads = file["dataset/data"][:]
            heads["head"]["measurement_uid"] = number
            file["dataset/data"][:] = heads
    answers: dict[int, Answer] = {}

    def run(number: int) -> None:
        answers[number] = exchange(appliance, paths[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        heads = [image.getHead() for image in answers[number].images]
        assert [head.measurement_uid for head in heads] == [number] * (number + 2)
        assert [head.slice for head in heads] == list(range(number + 2))


def test_what_is_no_scan_fails_with_words(appliance: Appliance, client: MrdClient) -> None:
    client.config("knee")
    client.header(b"<ismrmrdHeader/>")
    client.acquisition(ismrmrd.Acquisition.from_array(np.ones((2, 16), np.complex64)))
    client.close()
    answer = client.receive()
    assert (answer.images, answer.closed) == ([], True)
    assert "there is no image: " in answer.texts[0]
    assert "encodedSpace" in answer.texts[0]


def test_a_connection_without_a_scan_is_no_job(appliance: Appliance) -> None:
    before = len(appliance.queue.recent(1000))
    for n_messages in range(3):
        with MrdClient(appliance.open_doors["mrd"]) as client:
            if n_messages > 0:
                client.config("knee")
            if n_messages > 1:
                client.header(b"<ismrmrdHeader/>")
            client.close()
            answer = client.receive()
            assert (answer.images, answer.texts, answer.closed) == ([], [], True)
    assert len(appliance.queue.recent(1000)) == before


ALLOWED = {
    0: {CONFIG_FILE, CONFIG_TEXT, TEXT, CLOSE},
    1: {HEADER, TEXT, CLOSE},
    2: {ACQUISITION, WAVEFORM, TEXT, CLOSE},
}


KINDS = (CONFIG_FILE, CONFIG_TEXT, HEADER, TEXT, ACQUISITION, IMAGE, WAVEFORM, 0, 6, 1009, 65535)


@pytest.mark.parametrize(
    ("n_before", "kind"),
    [(n_before, kind) for n_before in range(3) for kind in {*KINDS} - ALLOWED[n_before]],
)
def test_messages_that_may_not_come_are_refused(
    appliance: Appliance, client: MrdClient, n_before: int, kind: int
) -> None:
    if n_before > 0:
        client.config("knee")
    if n_before > 1:
        client.header(b"<ismrmrdHeader/>")
    client.send(struct.pack("<H", kind) + bytes(5000))
    answer = client.receive()
    assert f"MRD message {kind} " in answer.texts[0]
    assert answer.closed
    assert not [*appliance.folder.incoming.iterdir()]


def head_of(n_samples: int, n_coils: int, n_dimensions: int = 0) -> bytes:
    head = ismrmrd.AcquisitionHeader()
    head.number_of_samples, head.active_channels = n_samples, n_coils
    head.trajectory_dimensions = n_dimensions
    return struct.pack("<H", ACQUISITION) + bytes(head)


HUGE = 2**32 - 1


@pytest.mark.parametrize(
    ("n_before", "message"),
    [
        (0, struct.pack("<HI", CONFIG_TEXT, HUGE)),
        (0, struct.pack("<HI", TEXT, HUGE)),
        (1, struct.pack("<HI", HEADER, HUGE)),
        (2, struct.pack("<HI", TEXT, HUGE)),
        (2, head_of(65535, 65535)),
        (2, head_of(65535, 512)),
        (2, head_of(10, 1, 65535)),
        (2, struct.pack("<H", WAVEFORM) + b"\xff" * 40),
    ],
)
def test_lengths_are_refused_before_anything_is_read(
    appliance: Appliance, client: MrdClient, n_before: int, message: bytes
) -> None:
    if n_before > 0:
        client.config("knee")
    if n_before > 1:
        client.header(b"<ismrmrdHeader/>")
    client.send(message)
    # Nothing follows: a server that wanted to read it would wait.
    answer = client.receive()
    assert len(answer.texts) == 1
    assert answer.closed


def test_nothing_that_a_client_names_is_imported(
    appliance: Appliance, client: MrdClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "knee_of_evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    client.config("knee_of_evil")
    client.header(b"<ismrmrdHeader/>")
    client.acquisition(ismrmrd.Acquisition.from_array(np.ones((2, 16), np.complex64)))
    client.close()
    assert client.receive().closed
    assert "knee_of_evil" not in sys.modules


@pytest.mark.parametrize("name", ["knee/../../../x", "knee\x1b[2J\n", "knee" + "é" * 400])
def test_a_configurations_name_is_only_a_word(
    appliance: Appliance, client: MrdClient, scan: Path, name: str
) -> None:
    send_scan(client, *read_file(scan), name)
    assert client.receive().images
    stem = appliance.queue.recent(1)[0].stem
    assert stem.isascii()
    assert not set("/\\\n\x1b") & set(stem)
    assert stem


def test_a_client_that_does_not_wait_has_its_scan_delivered(
    appliance: Appliance, scan: Path
) -> None:
    known = appliance.queue.known()
    with MrdClient(appliance.open_doors["mrd"]) as client:
        send_scan(client, *read_file(scan), "knee")
    job_id = new_job(appliance, known)
    assert wait(appliance, job_id).state == "done"
    wait_delivered(appliance)
    assert appliance.config.out is not None
    assert [*appliance.config.out.glob(f"*-{job_id[:12]}")]


def new_job(appliance: Appliance, known: set[str]) -> str:
    until = time.monotonic() + 30
    while not (new := appliance.queue.known() - known):
        assert time.monotonic() < until
        time.sleep(0.01)
    return new.pop()


@contextmanager
def hour_long_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Appliance]:
    """Run an appliance with two places at its door and a worker that never answers."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(server, "LOOK_S", 0.05)
    with small(tmp_path) as appliance:
        until = time.monotonic() + 60
        while appliance.supervisor.not_ready:
            assert time.monotonic() < until
            time.sleep(0.01)
        worker = appliance.supervisor._worker
        assert worker is not None
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            yield appliance
        finally:
            os.kill(worker.pid, signal.SIGCONT)


def waiting_client(appliance: Appliance, scan: Path, stack: ExitStack) -> MrdClient:
    known = appliance.queue.known()
    client = stack.enter_context(MrdClient(appliance.open_doors["mrd"]))
    send_scan(client, *read_file(scan))
    new_job(appliance, known)
    return client


def test_clients_that_have_gone_give_their_places_back(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hour_long_queue(tmp_path, monkeypatch) as appliance:
        for _ in range(4):
            with ExitStack() as stack:
                waiting_client(appliance, scan, stack)
        assert len(appliance.queue.known()) == 4


def test_a_client_that_closed_its_half_alone_keeps_its_place_while_there_are_others(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hour_long_queue(tmp_path, monkeypatch) as appliance, ExitStack() as stack:
        patient = waiting_client(appliance, scan, stack)
        patient._socket.shutdown(socket.SHUT_WR)
        waiting_client(appliance, scan, stack)
        time.sleep(1.0)
        patient._socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            patient._socket.recv(1)
        # A third has to have a place, and turns out who may have gone, not who is there.
        waiting_client(appliance, scan, stack)
        patient._socket.settimeout(10)
        assert patient._socket.recv(1) == b""


def test_a_broken_line_is_told_from_a_broken_disk(
    appliance: Appliance, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Incoming, "accept", broken)
    answer = exchange(appliance, scan)
    assert answer.texts == ["the scan could not be stored"]


def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    appliance: Appliance, scan: Path
) -> None:
    known = appliance.queue.known()
    xml, lines = read_file(scan)
    with MrdClient(appliance.open_doors["mrd"]) as client:
        client.config("knee")
        client.header(xml)
        for line in lines[:20]:
            client.acquisition(line)
        client.send(struct.pack("<H", ACQUISITION) + b"half a header")
    until = time.monotonic() + 30
    while [*appliance.folder.incoming.iterdir()]:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert appliance.queue.known() == known


def small(tmp_path: Path, **settings: Any) -> Any:
    return running(tmp_path, **{"mrd": MRD, "routes": [QUICK], **settings})


def test_a_full_queue_is_said_before_the_data_come(tmp_path: Path, scan: Path) -> None:
    limits = {"min_free_bytes": 10**18}
    with (
        small(tmp_path, limits=limits) as appliance,
        MrdClient(appliance.open_doors["mrd"]) as client,
    ):
        client.config("a")
        client.header(read_file(scan)[0])
        answer = client.receive()
    assert "send this scan again later" in answer.texts[0]


def test_a_scan_beyond_the_limit_is_refused_while_it_arrives(tmp_path: Path, scan: Path) -> None:
    limits = {"min_free_bytes": 0, "max_payload_bytes": 20_000}
    with small(tmp_path, limits=limits) as appliance:
        answer = exchange(appliance, scan)
        assert "larger than 20000 bytes" in answer.texts[0]
        assert not appliance.queue.known()


def test_a_stopping_appliance_ends_its_connections(tmp_path: Path, scan: Path) -> None:
    answers: list[Answer] = []
    with small(tmp_path) as appliance:
        known = appliance.queue.known()
        thread = threading.Thread(target=lambda: answers.append(exchange(appliance, scan)))
        thread.start()
        job_id = new_job(appliance, known)
    thread.join(30)
    assert not thread.is_alive()
    with small(tmp_path) as appliance:
        assert wait(appliance, job_id).state == "done"


def test_only_peers_with_a_certificate_are_heard(tmp_path: Path, scan: Path) -> None:
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue("appliance")
    tls = {"certificate": certificate, "key": key, "client_ca": authority.ca}
    with small(tmp_path, mrd={**MRD, "tls": tls}) as appliance:
        context = ssl.create_default_context(cafile=authority.ca)
        context.load_cert_chain(*authority.issue("scanner"))
        with MrdClient(appliance.open_doors["mrd"], context) as client:
            send_scan(client, *read_file(scan))
            assert len(client.receive().images) == 1
        nobody = ssl.create_default_context(cafile=authority.ca)
        for stranger in (nobody, None):
            # Its client sees the connection end, as its library says it: TLS 1.3 tells late.
            with (
                pytest.raises((OSError, AssertionError)),
                MrdClient(appliance.open_doors["mrd"], stranger) as client,
            ):
                client.config("a")
                assert client.receive().closed
        assert len(appliance.queue.known()) == 1


def test_a_partitioned_volume_comes_back_slice_by_slice(
    appliance: Appliance, tmp_path: Path
) -> None:
    oblique(tmp_path / "flat.h5", n_slices=1)
    xml, lines = read_file(tmp_path / "flat.h5")
    text = xml.decode()
    deep = text.replace("<z>1</z>", "<z>4</z>")
    assert deep != text
    with MrdClient(appliance.open_doors["mrd"]) as client:
        client.config("knee")
        client.header(deep.encode())
        for partition in range(4):
            for line in lines:
                line.idx.kspace_encode_step_2 = partition
                # Other partitions are weaker: the object is a sheet of unequal sides.
                line.data[:] *= 0.6 + 0.3j if partition else 1.0
                client.acquisition(line)
        client.close()
        answer = client.receive()
    heads = [image.getHead() for image in answer.images]
    assert [head.image_index for head in heads] == [1, 2, 3, 4]
    steps = np.diff([list(head.position) for head in heads], axis=0)
    normal = np.array(heads[0].slice_dir)
    np.testing.assert_allclose(np.cross(steps, normal), 0, atol=1e-3)
    assert (steps @ normal > 0).all()
