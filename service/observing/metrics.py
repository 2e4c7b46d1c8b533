"""What is counted and measured, for Prometheus. docs/observability.md says what to make of each figure.

Labels are route templates, ids of models and words of our own, so that there are only so many series however the service is called;
and all that can be known beforehand are there from the start, at zero, so that a first error is a step and not a beginning.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from starlette.routing import BaseRoute, Route

from service.batching.batcher import Load, Watcher
from service.batching.workers import Run
from service.errors import ServiceError
from service.http.middleware import NO_ROUTE, Exchange
from service.http.stages import STAGES

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""OpenTelemetry's buckets for requests, and three below them."""
STAGE_SECONDS = tuple(1e-4 * 2**power for power in range(18))
"""From 0.1 ms to 13 s."""
COUNTS = tuple(2**power for power in range(10))
TOKENS = tuple(2**power for power in range(4, 16))
SHARES = tuple(tenth / 10 for tenth in range(10))
BYTES = tuple(4**power for power in range(4, 15))
"""From 256 bytes to 256 MiB."""
CANCELLED = ("read", "queue", "forward")
"""Where a request can be given up: while its body comes in, while it waits for the device, while that works on it."""
USUAL_STATUSES = (200, 401, 422, 429, 500, 503, 504)
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


def reasons(kind: type[ServiceError] = ServiceError) -> Iterator[str]:
    """Everything that a request can be refused for."""
    for each in kind.__subclasses__():
        if hasattr(each, "status"):
            yield each.reason()
        yield from reasons(each)


class Metrics(Watcher):
    """All of them; each app has its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # series that tell since when a counter counts are twice as many, and nobody reads them
        self._series = cache(series)
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

        def histogram(name: str, help: str, buckets: Iterable[float], labels: Iterable[str] = ()) -> Histogram:
            return Histogram(name, help, labels, registry=registry, buckets=tuple(buckets))

        def counter(name: str, help: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(name, help, labels, registry=registry)

        route = ("method", "route")
        self.requests = counter("kqv_http_requests_total", "Requests answered.", (*route, "status"))
        self.request_seconds = histogram(
            "kqv_http_request_duration_seconds", "From a request's head to its answer's end.", SECONDS, route
        )
        self.response_bytes = histogram("kqv_response_bytes", "Bodies of answers.", BYTES)
        self.stage_seconds = histogram("kqv_stage_duration_seconds", "Where a request's time goes.", STAGE_SECONDS, ["stage"])
        self.batch_size = histogram("kqv_batch_size", "Sequences of a batch.", COUNTS)
        self.batch_tokens = histogram("kqv_batch_tokens", "Tokens of a batch.", TOKENS)
        self.padding = histogram("kqv_padding_ratio", "Share of a batch that would be padding, were it not packed.", SHARES)
        self.rejected = counter("kqv_rejected_total", "Requests refused or given up on.", ["reason"])
        self.cancelled_jobs = counter("kqv_cancelled_total", "Bodies and sequences given up by their clients.", ["stage"])
        self.truncated = counter("kqv_truncated_total", "Sequences cut to fit a model's context.")
        self.device_errors = counter("kqv_device_errors_total", "Jobs at which the device failed.")
        for label, values in ((self.stage_seconds, STAGES), (self.rejected, reasons()), (self.cancelled_jobs, CANCELLED)):
            for value in values:
                label.labels(value)

    def expect(self, routes: Iterable[BaseRoute]) -> None:
        """Begin the series of routes that there are."""
        known = [(method, route.path) for route in routes if isinstance(route, Route) for method in route.methods or ()]
        for method, path in (*known, ("GET", NO_ROUTE)):
            self.request_seconds.labels(method, path)
            for status in USUAL_STATUSES if path != NO_ROUTE else (401, 404):
                self.requests.labels(method, path, status)

    def follow(self, load: Callable[[], Load], ready: Callable[[], bool], draining: Callable[[], bool]) -> None:
        """Show what is told anew whenever somebody looks."""
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "kqv_requests_waiting": ("Sequences that wait for the device.", lambda: load().waiting),
            "kqv_requests_running": ("Sequences that the device works on.", lambda: load().running),
            "kqv_queue_tokens": ("Tokens that wait for the device.", lambda: load().waiting_cost),
            "kqv_ready": ("1 where the models are loaded and requests are wanted.", ready),
            "kqv_draining": ("1 where the process is about to stop.", draining),
            "kqv_device_memory_used_bytes": ("Memory of the GPU that tensors hold; 0 without one.", device_memory_used),
            "kqv_device_memory_reserved_bytes": (
                "Memory of the GPU that is kept for tensors; 0 without one.",
                device_memory_reserved,
            ),
        }
        for name, (help, function) in gauges.items():
            Gauge(name, help, registry=self.registry).set_function(function)

    def observe(self, exchange: Exchange) -> None:
        """Count a request that is over."""
        method, route = exchange.method, exchange.route
        self._series(self.request_seconds, method, route).observe(exchange.seconds)
        self._series(self.requests, method, route, exchange.status or "none").inc()
        self.response_bytes.observe(exchange.response_bytes)
        for stage, seconds in exchange.stages.seconds.items():
            self._series(self.stage_seconds, stage).observe(seconds)
        if exchange.stages.truncated:
            self.truncated.inc(exchange.stages.truncated)
        self.cancelled("read", exchange.is_cut)
        if isinstance(exchange.error, ServiceError):
            self._series(self.rejected, exchange.error.reason()).inc()

    def ran(self, run: Run, largest: int) -> None:
        if run.cost:  # else it was no sequence: the models were loaded
            self.batch_size.observe(run.jobs)
            self.batch_tokens.observe(run.cost)
            self.padding.observe(1 - run.cost / (run.jobs * largest))

    def failed(self) -> None:
        self.device_errors.inc()

    def cancelled(self, stage: str, jobs: int) -> None:
        if jobs:
            self.cancelled_jobs.labels(stage).inc(jobs)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)


def series(metric: Counter | Histogram, *labels: object) -> Any:
    """One of a metric's series; kept for good by whoever asks, as the metric itself keeps it."""
    return metric.labels(*labels)


def device_memory_used() -> float:
    return torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0


def device_memory_reserved() -> float:
    return torch.cuda.memory_reserved() if torch.cuda.is_initialized() else 0
