"""The HTTP API: scans in, states and images out."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
from fastapi import APIRouter, FastAPI, HTTPException, Path, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers

import ldmpir_edge
from ldmpir_edge.errors import LdmpirError, OverloadError, UsageError
from ldmpir_edge.serve.intake import PayloadTooLargeError
from ldmpir_edge.serve.jobs import Job, State
from ldmpir_edge.serve.web.body import Body
from ldmpir_edge.serve.web.upload import FormError, Upload

if TYPE_CHECKING:
    from ldmpir_edge.serve.appliance import Appliance

RETRY_S = 10
MAX_KEY = 256
MAX_FORM = 16_384
"""Bytes that a form may have around its scan."""

REPEAT_S = 600.0
"""How long a scan that is here already may take to be sent again."""

_PIECE = 2**20
_STATUS: tuple[tuple[type[LdmpirError], int], ...] = (
    (PayloadTooLargeError, 413),
    (OverloadError, 503),
    (FormError, 400),
    (UsageError, 400),
)

JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class Accepted(BaseModel):
    """A scan that is on disk and will be reconstructed."""

    id: str
    state: State


class Output(BaseModel):
    """A file of the result."""

    name: str
    size: int
    href: str


class Checks(BaseModel):
    """What the reconstruction says about itself."""

    n_slices: int
    n_fallbacks: int
    max_residual: float | None
    backend: str
    bundle: str
    bundle_version: str | None = None  # of jobs before there was one
    bundle_sha256: str
    steps: int
    precision: str
    seconds: dict[str, float]
    notes: list[str]


class TargetState(BaseModel):
    """How far the delivery to a target has come, in items."""

    target: str
    waiting: int
    delivered: int
    error: str | None


class Reconstruction(BaseModel):
    """A job; `reason` says why it failed or holds classical images."""

    id: str
    state: State
    source: str
    route: str
    received: datetime
    finished: datetime | None
    reason: str | None
    checks: Checks | None
    outputs: list[Output]
    deliveries: list[TargetState]


class Health(BaseModel):
    """One word for monitoring."""

    status: Literal["ok", "ready", "not ready"]


class Readiness(BaseModel):
    """Whether scans are reconstructed by the model, and which of its engines may do so by now."""

    status: Literal["ready", "not ready"]
    tested: list[str]
    untested: list[str]


_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["scan"],
                    "properties": {
                        "scan": {
                            "type": "string",
                            "format": "binary",
                            "description": "fastMRI, ISMRMRD or sinogram HDF5, DICOM, NPY, NIfTI",
                        }
                    },
                }
            }
        },
    },
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "maxLength": MAX_KEY},
            "description": "A repeated request with the same key is answered with the first id.",
        }
    ],
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "No form with a scan, or no route takes it"},
    401: {"description": "No valid token"},
    413: {"description": "The scan is larger than is taken"},
    429: {"description": "Too many requests"},
    503: {"description": "The queue or the disk is full: try again later"},
}


def build_app(appliance: Appliance) -> FastAPI:
    """Build the application of a running appliance, without its `Guard`."""
    app = FastAPI(
        title="ldmpir-edge",
        version=ldmpir_edge.__version__,
        description="Reconstruct MRI and CT scans beside the scanner.",
        # Their pages load scripts from the internet; the schema itself is published.
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(_reconstructions(appliance))
    app.include_router(_monitoring(appliance))
    app.add_exception_handler(LdmpirError, _refuse)
    return app


def describe(appliance: Appliance, job: Job) -> Reconstruction:
    """Describe a job as the API gives it."""
    report = job.report
    return Reconstruction(
        id=job.id,
        state=job.state,
        source=job.source,
        route=job.route,
        received=_moment(job.received),
        finished=None if job.finished is None else _moment(job.finished),
        reason=job.reason,
        checks=Checks.model_validate(report) if "n_slices" in report else None,
        outputs=_outputs(appliance, job),
        deliveries=[TargetState(**d) for d in appliance.queue.delivery_states(job.id)],
    )


def _reconstructions(appliance: Appliance) -> APIRouter:
    router = APIRouter(prefix="/v1/reconstructions", tags=["reconstructions"])

    @router.post("", status_code=202, openapi_extra=_FORM, responses=_REFUSALS)
    async def submit(request: Request, response: Response) -> Accepted:
        """Take a scan; the answer comes once it is safe on disk."""
        body = Body(request.receive, request.headers)
        try:
            job_id = await _receive(appliance, request, body)
        except LdmpirError:
            await body.discard()
            raise
        except TimeoutError as err:
            raise HTTPException(408, "the scan stopped arriving; send it again") from err
        job = await run_in_threadpool(appliance.queue.get, job_id)
        response.headers["location"] = f"/v1/reconstructions/{job_id}"
        return Accepted(id=job_id, state="queued" if job is None else job.state)

    @router.get("/{job_id}", responses={404: {"description": "There is no such job"}})
    def look(job_id: JobId) -> Reconstruction:
        """Tell the state of a job, its checks and its outputs."""
        return describe(appliance, _find(appliance, job_id))

    @router.get(
        "/{job_id}/outputs/{name:path}",
        response_class=FileResponse,
        responses={404: {"description": "There is no such output, or it is kept no longer"}},
    )
    def download(job_id: JobId, name: str) -> FileResponse:
        """Give a file of the result."""
        job = _find(appliance, job_id)
        path = appliance.supervisor.result(job) / name
        # Only what the result lists: a name from outside never reaches the disk.
        if name not in job.report.get("outputs", ()) or not path.is_file():
            raise HTTPException(404, "there is no such output, or it is kept no longer")
        kind = "application/dicom" if name.endswith(".dcm") else None
        return FileResponse(path, media_type=kind, filename=path.name)

    return router


def _monitoring(appliance: Appliance) -> APIRouter:
    router = APIRouter(tags=["monitoring"])

    @router.get("/healthz")
    def health(response: Response) -> Health:
        """Tell whether the appliance takes scans and works on them, ready or not."""
        appliance.queue.load()
        if not appliance.supervisor.is_alive:
            response.status_code = 503
            return Health(status="not ready")
        return Health(status="ok")

    @router.get("/readyz", responses={503: {"description": "The engines are not ready"}})
    def ready(response: Response) -> Readiness:
        """Tell whether the engine that each route needs first has passed its golden pair.

        Engines are named `route/family/precision`; one that is not tested yet is before its first
        use.
        """
        status: Literal["ready", "not ready"] = "ready"
        if appliance.supervisor.not_ready is not None:
            response.status_code = 503
            status = "not ready"
        named: dict[str, list[str]] = {
            key: [
                f"{engine['route']}/{one['family']}/{one['precision']}"
                for engine in appliance.supervisor.engines
                for one in engine[key]
            ]
            for key in ("golden", "untested")
        }
        return Readiness(status=status, tested=named["golden"], untested=named["untested"])

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Give counts and times in Prometheus' text format."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(appliance.metrics.render(), media_type=kind)

    return router


async def _receive(appliance: Appliance, request: Request, body: Body) -> str:
    """Answer the id of the job that the request makes, or has made before."""
    client: str = request.state.client
    origin = _origin(client, request.headers.get("idempotency-key"))
    if origin is not None:
        known = await run_in_threadpool(appliance.queue.find_origin, origin)
        if known is not None:
            # All of it: the answer was lost once already.
            await body.discard(appliance.config.limits.max_payload_bytes + MAX_FORM, REPEAT_S)
            return known
    return await _take(appliance, request.headers, body, client, origin)


async def _take(
    appliance: Appliance,
    headers: Headers,
    body: Body,
    client: str,
    origin: str | None,
) -> str:
    # The form around the scan counts too, and is no reason to refuse.
    announced = max(int(headers.get("content-length") or 0) - MAX_FORM, 0)
    kind = headers.get("content-type", "")
    upload = await run_in_threadpool(Upload, appliance.intake, client, origin, kind, announced)
    try:
        held = bytearray()
        async for piece in body.pieces():
            held += piece
            if len(held) >= _PIECE:
                await run_in_threadpool(upload.feed, bytes(held))
                held.clear()
        await run_in_threadpool(upload.feed, bytes(held))
        return await run_in_threadpool(upload.finish)
    finally:
        # Also where the client has gone, which cancels what is awaited here.
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(upload.close)


async def _refuse(request: Request, err: Exception) -> JSONResponse:
    status = next((code for kind, code in _STATUS if isinstance(err, kind)), 500)
    headers = {"retry-after": str(RETRY_S)} if status == 503 else {}
    if request.method == "POST":
        headers["connection"] = "close"  # some of the body may never be read
    return JSONResponse({"detail": str(err)}, status, headers)


def _origin(client: str, key: str | None) -> str | None:
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY:
        raise UsageError(f"Idempotency-Key has {len(key)} characters; 1 to {MAX_KEY} are taken")
    return f"http {client} {hashlib.sha256(key.encode()).hexdigest()}"


def _find(appliance: Appliance, job_id: str) -> Job:
    job = appliance.queue.get(job_id)
    if job is None:
        raise HTTPException(404, "there is no such job, or it is kept no longer")
    return job


def _outputs(appliance: Appliance, job: Job) -> list[Output]:
    result = appliance.supervisor.result(job)
    found = []
    for name in job.report.get("outputs", ()):
        try:
            size = (result / name).stat().st_size
        except OSError:
            continue
        href = f"/v1/reconstructions/{job.id}/outputs/{name}"
        found.append(Output(name=name, size=size, href=href))
    return found


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
