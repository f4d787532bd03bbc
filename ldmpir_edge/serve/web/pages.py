"""The status page: rendered here, complete in itself, and without anything that names a patient."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

import ldmpir_edge
from ldmpir_edge.serve.jobs import Job
from ldmpir_edge.serve.web.api import JobId
from ldmpir_edge.serve.web.plots import bar_plot
from ldmpir_edge.serve.work import THUMBNAIL

if TYPE_CHECKING:
    from ldmpir_edge.serve.appliance import Appliance

N_SHOWN = 24
N_PLOTTED = 60
WINDOW_MINUTES = 60


def add_pages(app: FastAPI, appliance: Appliance) -> None:
    """Add the status page and its thumbnails to the application."""
    pages = Environment(
        loader=PackageLoader("ldmpir_edge.serve.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = pages.get_template("status.html")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def status() -> str:
        return template.render(_view(appliance, time.time()))

    @app.get("/thumbnails/{job_id}.png", response_class=Response, include_in_schema=False)
    def thumbnail(job_id: JobId) -> Response:
        job = appliance.queue.get(job_id)
        path = None if job is None else appliance.supervisor.result(job).parent / THUMBNAIL
        if path is None or not path.is_file():
            raise HTTPException(404, "there is no such picture, or it is kept no longer")
        encoded = io.BytesIO()
        with Image.open(path) as picture:
            picture.save(encoded, format="PNG")
        return Response(encoded.getvalue(), media_type="image/png")


def _view(appliance: Appliance, now: float) -> dict[str, Any]:
    recent = appliance.queue.recent(N_PLOTTED)
    ended = [job for job in reversed(recent) if job.finished is not None]
    n_jobs, n_bytes = appliance.queue.load()
    return {
        "version": ldmpir_edge.__version__,
        "moment": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "not_ready": appliance.supervisor.not_ready,
        "counts": appliance.queue.counts(),
        "undelivered": {"jobs": n_jobs, "bytes": n_bytes},
        "max_jobs": appliance.config.limits.max_jobs,
        "free_bytes": appliance.folder.free_bytes(),
        "waiting": {
            name: appliance.queue.waiting_deliveries().get(name, 0) for name in appliance.couriers
        },
        "doors": appliance.open_doors,
        "engines": appliance.supervisor.engines,
        "jobs": [_row(appliance, job) for job in recent[:N_SHOWN]],
        "latency": bar_plot([_seconds(job) for job in ended]),
        "throughput": bar_plot(_slices_by_minute(appliance.queue.recent(2000), now)),
        "window_minutes": WINDOW_MINUTES,
    }


def _row(appliance: Appliance, job: Job) -> dict[str, Any]:
    report = job.report
    picture = appliance.supervisor.result(job).parent / THUMBNAIL
    return {
        "id": job.id,
        "state": job.state,
        "source": job.source,
        "route": job.route,
        "received": datetime.fromtimestamp(job.received, UTC).strftime("%H:%M:%S"),
        "seconds": None if job.finished is None else _seconds(job),
        "n_slices": report.get("n_slices"),
        "n_fallbacks": report.get("n_fallbacks", 0),
        "residual": report.get("max_residual"),
        "steps": report.get("steps"),
        "precision": report.get("precision"),
        "backend": report.get("backend"),
        # A failure's own words may quote the scan; its class does not.
        "reason": report.get("error", "failed") if job.state == "failed" else job.reason,
        "has_picture": picture.is_file(),
        "waiting": sum(d["waiting"] for d in appliance.queue.delivery_states(job.id)),
    }


def _seconds(job: Job) -> float:
    return 0.0 if job.finished is None else max(job.finished - job.received, 0.0)


def _slices_by_minute(jobs: list[Job], now: float) -> list[float]:
    counts = [0.0] * WINDOW_MINUTES
    for job in jobs:
        if job.finished is None:
            continue
        age = int((now - job.finished) // 60)
        if 0 <= age < WINDOW_MINUTES:
            counts[WINDOW_MINUTES - 1 - age] += job.report.get("n_slices", 0)
    return counts
