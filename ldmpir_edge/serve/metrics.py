"""What Prometheus may see: counts and times by door, route and stage; nothing of any scan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ldmpir_edge.serve.jobs import Job

if TYPE_CHECKING:
    from ldmpir_edge.serve.queue import JobQueue
    from ldmpir_edge.serve.supervisor import Supervisor

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600, 1800)
_RESIDUALS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1)


class Metrics:
    """The appliance's counters, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._received = self._counter("jobs_received", "Scans acknowledged.", "source")
        self._refused = self._counter("jobs_refused", "Scans refused.", "source", "error")
        self._finished = self._counter("jobs_finished", "Jobs that ended.", "route", "state")
        self._slices = self._counter("slices", "Slices delivered.", "route")
        self._fallbacks = self._counter(
            "fallback_slices", "Slices delivered as the classical image.", "route", "cause"
        )
        self._delivered = self._counter("deliveries", "Attempts to deliver.", "target", "result")
        self._collected = self._counter(
            "scans_collected",
            "Scans to keep for fine-tuning, by what came of it.",
            "route",
            "result",
        )
        self._held = Gauge(
            "ldmpir_collected_scans",
            "Scans kept for fine-tuning.",
            ("route",),
            registry=self._registry,
        )
        self._lost = self._counter("workers_lost", "Workers that died or fell silent.")
        self._stages = Histogram(
            "ldmpir_stage_seconds",
            "Seconds of a job by stage; `total` counts from receipt.",
            ("stage",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._residuals = Histogram(
            "ldmpir_residual",
            "Largest data-consistency residual of a job.",
            ("route",),
            buckets=_RESIDUALS,
            registry=self._registry,
        )

    def received(self, source: str) -> None:
        """Count a scan that was acknowledged."""
        self._received.labels(source).inc()

    def refused(self, source: str, error: str) -> None:
        """Count a scan that was refused, by the class of the error."""
        self._refused.labels(source, error).inc()

    def finished(self, job: Job) -> None:
        """Count a job that has ended."""
        self._finished.labels(job.route, job.state).inc()
        if job.finished is not None:
            self._stages.labels("total").observe(max(job.finished - job.received, 0.0))
        for stage, seconds in job.report.get("seconds", {}).items():
            self._stages.labels(stage).observe(seconds)
        self._slices.labels(job.route).inc(job.report.get("n_slices", 0))
        if n_fallbacks := job.report.get("n_fallbacks", 0):
            self._fallbacks.labels(job.route, job.report["fallback_cause"]).inc(n_fallbacks)
        if (residual := job.report.get("max_residual")) is not None:
            self._residuals.labels(job.route).observe(residual)

    def delivered(self, target: str, n_items: int) -> None:
        """Count items that a target confirmed."""
        self._delivered.labels(target, "confirmed").inc(n_items)

    def not_delivered(self, target: str, n_items: int) -> None:
        """Count items that wait for another attempt."""
        self._delivered.labels(target, "postponed").inc(n_items)

    def collected(self, route: str, result: str) -> None:
        """Count a scan that was to be kept: `collected`, or the class of the error."""
        self._collected.labels(route, result).inc()

    def holds(self, route: str, n_scans: int) -> None:
        """State how many scans a route keeps."""
        self._held.labels(route).set(n_scans)

    def worker_lost(self) -> None:
        """Count a worker that died or fell silent."""
        self._lost.inc()

    def watch(self, queue: JobQueue, supervisor: Supervisor, free_bytes: Callable[[], int]) -> None:
        """Add what is looked up when somebody asks: queue, outbox, engines and disk."""
        self._registry.register(_Now(queue, supervisor, free_bytes))

    def render(self) -> bytes:
        """Give everything in Prometheus' text format."""
        return bytes(generate_latest(self._registry))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ldmpir_{name}", text, labels, registry=self._registry)


class _Now(Collector):
    def __init__(
        self, queue: JobQueue, supervisor: Supervisor, free_bytes: Callable[[], int]
    ) -> None:
        self._queue, self._supervisor, self._free_bytes = queue, supervisor, free_bytes

    def describe(self) -> Iterable[Metric]:
        return ()  # what there is depends on the moment

    def collect(self) -> Iterable[Metric]:
        jobs = _gauge("jobs", "Jobs in the queue's database by state.", "state")
        for state, count in self._queue.counts().items():
            jobs.add_metric([state], count)
        waiting = _gauge("deliveries_waiting", "Items not delivered yet.", "target")
        for target, count in self._queue.waiting_deliveries().items():
            waiting.add_metric([target], count)
        labels = ("route", "bundle", "version", "sha256", "origin")
        engines = _gauge("engine_info", "What serves a route.", *labels)
        for engine in self._supervisor.engines:
            told = ("bundle", "bundle_version", "bundle_sha256", "bundle_origin")
            engines.add_metric([engine["route"], *(engine[key] for key in told)], 1)
        n_jobs, n_bytes = self._queue.load()
        return (
            *(jobs, waiting, engines),
            _value("undelivered_jobs", "Jobs not delivered yet.", n_jobs),
            _value("undelivered_bytes", "Their payloads and results.", n_bytes),
            _value("disk_free_bytes", "Free on the state folder's disk.", self._free_bytes()),
            _value("ready", "1 while the engines are.", self._supervisor.not_ready is None),
        )


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ldmpir_{name}", text, labels=labels)


def _value(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ldmpir_{name}", text, value=float(value))
