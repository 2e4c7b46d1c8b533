"""Spans by OpenTelemetry, where `kqv[tracing]` is installed and KQV_TRACING_URL says where to send them.

A request's spans are made when it is over, from the times that were noted anyway: so requests that aren't traced pay nothing, and
the batcher knows nothing of it. They follow the caller's `traceparent`:

    POST /v1/analyze            as long as the request
    ├── tokenize
    ├── queue                   from when it was let in until its first batch began
    ├── forward                 until its last batch was done, with a link to each of them
    └── encode

A batch is a span of its own, in the trace of the first of its requests that ended; those of the others lead to it by their links.
"""

import time
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from kqv import InputError
from service.batching.workers import Run
from service.http.middleware import Exchange, header_of
from service.http.stages import Stages
from service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext

MOST_LINKS = 128
"""Batches that a span leads to: a text of many tokens takes as many batches."""

SEND_S = 2
"""How long sending may take: a collector that is gone mustn't keep the process from stopping."""


class Tracing:
    """An observer that makes spans, and hands them to a provider."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("kqv")
        self._propagator = TraceContextTextMapPropagator()
        self._batches: WeakKeyDictionary[Run, SpanContext] = WeakKeyDictionary()

    def observe(self, exchange: Exchange) -> None:
        """Make the spans of a request that is over."""
        clock = Clock.now()
        found = {name: header_of(exchange.scope, name.encode()) for name in ("traceparent", "tracestate")}
        carrier = {name: value for name, value in found.items() if value is not None}
        request = self._tracer.start_span(
            f"{exchange.method} {exchange.route}",
            self._propagator.extract(carrier),
            self._api.SpanKind.SERVER,
            attributes_of(exchange),
            start_time=clock.at(exchange.started),
        )
        if request.is_recording():
            self._stages(exchange.stages, request, clock)
        if exchange.status is None or exchange.status >= 500:
            request.set_status(self._api.StatusCode.ERROR)
        request.end(clock.at(exchange.ended))

    def _stages(self, stages: Stages, request: "Span", clock: "Clock") -> None:
        """The parts of a request."""
        context = self._api.set_span_in_context(request)
        for stage, interval in stages.intervals.items():
            runs = sorted(stages.runs, key=lambda run: run.started)[:MOST_LINKS] if stage == "forward" else []
            links = [self._api.Link(self._batch(run, context, clock)) for run in runs]
            self._tracer.start_span(stage, context, links=links, start_time=clock.at(interval.start)).end(clock.at(interval.end))

    def _batch(self, run: Run, context: "Context", clock: "Clock") -> "SpanContext":
        """The span of a batch, made when the first of its requests ends."""
        if run not in self._batches:
            attributes = {"kqv.batch.sequences": run.jobs, "kqv.batch.tokens": run.cost}
            span = self._tracer.start_span("batch", context, attributes=attributes, start_time=clock.at(run.started))
            span.end(clock.at(run.started + run.seconds))
            self._batches[run] = span.get_span_context()
        return self._batches[run]

    def close(self) -> None:
        """Send what was not sent yet."""
        self._provider.shutdown()


def attributes_of(exchange: Exchange) -> dict[str, Any]:
    """What is said of a request, by OpenTelemetry's names where there are some."""
    stages = exchange.stages
    attributes = {
        "http.request.method": exchange.method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "http.request.body.size": exchange.request_bytes,
        "http.response.body.size": exchange.response_bytes,
        "kqv.request_id": exchange.request_id,
        "kqv.key": exchange.key,
        "kqv.model": stages.model,
        "kqv.sequences": stages.sequences,
        "kqv.tokens": stages.tokens,
    }
    return {name: value for name, value in attributes.items() if value is not None}


class Clock(NamedTuple):
    """The calendar's time of moments on the monotonic clock."""

    ahead_ns: int
    """By how much the calendar is ahead."""

    @classmethod
    def now(cls) -> "Clock":
        """As the two are at the moment: the calendar's is set right now and then."""
        return cls(time.time_ns() - time.monotonic_ns())

    def at(self, monotonic_s: float) -> int:
        """In nanoseconds, as spans have it."""
        return self.ahead_ns + int(monotonic_s * 1e9)


def start_tracing(settings: Settings) -> Tracing | None:
    """Tracing as the settings have it, if they do. Raises `InputError` where its packages aren't installed."""
    if settings.tracing_url is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InputError("KQV_TRACING_URL is set, but tracing is not installed: pip install 'kqv[tracing]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "kqv"}))
    exporter = OTLPSpanExporter(endpoint=settings.tracing_url, timeout=SEND_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)
