"""Logs are JSON, and nothing that a scan or a client has said is in them."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_peers import store, write_series
from running_appliance import QUICK, running, send, wait, wait_delivered
from small_scans import write_ismrmrd

from ldmpir_edge.serve.logs import configure_logs

SECRET = "Doe^Jane"  # noqa: S105 - a patient's name


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    hooks = threading.excepthook, sys.excepthook
    written = io.StringIO()
    configure_logs(written, logging.DEBUG)
    yield written
    root.handlers[:] = before
    root.setLevel(level)
    threading.excepthook, sys.excepthook = hooks


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_own_records_keep_their_fields(stream: io.StringIO) -> None:
    logging.getLogger("ldmpir_edge.serve.x").info("job finished", extra={"job": "1", "n": 2})
    (record,) = records(stream)
    assert (record["event"], record["job"], record["n"]) == ("job finished", "1", 2)
    assert (record["level"], record["logger"]) == ("info", "ldmpir_edge.serve.x")
    assert record["timestamp"].endswith("Z")


def test_other_libraries_words_are_not_repeated(stream: io.StringIO) -> None:
    other = logging.getLogger("pydicom")
    other.warning("invalid value for PN: %s", SECRET, extra={"value": SECRET})
    try:
        raise ValueError(SECRET)
    except ValueError:
        other.exception("cannot decode %s", SECRET)
        logging.getLogger("ldmpir_edge.serve.x").exception("refused")
    assert SECRET not in stream.getvalue()
    first, second, third = records(stream)
    assert (first["logger"], first["level"], second["error"]) == (
        "pydicom",
        "warning",
        "ValueError",
    )
    assert (third["event"], third["error"]) == ("refused", "ValueError")
    assert third["where"].startswith("test_logs.py:")


def test_what_nobody_caught_is_told_without_its_words(stream: io.StringIO) -> None:
    def fail() -> None:
        raise ValueError(SECRET)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert SECRET not in stream.getvalue()
    (record,) = records(stream)
    assert (record["event"], record["error"]) == ("unexpected exception", "ValueError")


def test_no_patient_is_in_the_logs_or_metrics(stream: io.StringIO, tmp_path: Path) -> None:
    write_ismrmrd(tmp_path / f"{SECRET}.h5", np.random.default_rng(0))
    (tmp_path / "bad.h5").write_bytes(f"no scan of {SECRET}".encode())
    paths = write_series(tmp_path / "series", 2)
    damaged = pydicom.dcmread(paths[1])
    damaged.PatientName = SECRET
    damaged.Rows = 3
    damaged.save_as(paths[1])
    door = {"listen": "127.0.0.1:0", "quiet_s": 0.3}
    with running(tmp_path, dicom=door, routes=[QUICK]) as appliance:
        jobs = [
            send(appliance, tmp_path / f"{SECRET}.h5", origin=SECRET),
            send(appliance, tmp_path / "bad.h5"),
        ]
        states = [wait(appliance, job_id).state for job_id in jobs]
        assert store(appliance.open_doors["dicom"], paths) == 0
        while len(appliance.queue.recent(9)) < 3:
            pass
        states.append(wait(appliance, appliance.queue.recent(1)[0].id).state)
        wait_delivered(appliance)
        metrics = appliance.metrics.render().decode()
    assert states == ["done", "failed", "failed"]
    written = stream.getvalue()
    assert written.count('"job finished"') == 3
    for word in (SECRET, "Doe", "Jane", "Phantom", "SIMULATED"):
        assert word not in written
        assert word not in metrics
