"""Spans: they follow the caller's trace through queue and batch, and cost nothing where nobody asked for them."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from serving import busy_device, serving, until_waiting

import kqv
from service.app import create_app
from service.models import Models
from service.observing.tracing import Tracing, start_tracing
from service.settings import Settings

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
BODY = {"input": [[5] * 3, [5] * 4], "weights": "none"}


class Spans:
    """What was traced, by its names."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span


@asynccontextmanager
async def traced(model: kqv.Model, **settings: Any) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient, Spans]]:
    models = Models(lambda: [model])
    models.load()
    spans = Spans()
    app = create_app(Settings(**({"workers": 1, "threads": 1} | settings)), models, Tracing(spans.provider))
    async with serving(app) as client:
        yield app, client, spans


def ids(span: ReadableSpan) -> tuple[str, str]:
    """Of its trace, and its own."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def parent(span: ReadableSpan) -> str | None:
    return f"{span.parent.span_id:016x}" if span.parent else None


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


async def test_spans_follow_the_callers_trace(model: kqv.Model) -> None:
    async with traced(model) as (_, client, spans):
        headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=x", "x-request-id": "one"}
        assert (await client.post("/v1/analyze", json=BODY, headers=headers)).status_code == 200
    request = spans.one("POST /v1/analyze")
    assert (ids(request)[0], parent(request), request.kind) == (TRACE, PARENT, SpanKind.SERVER)
    assert request.context is not None
    assert request.context.trace_state.get("vendor") == "x"
    assert {ids(span)[0] for span in spans.all} == {TRACE}
    for stage in ("tokenize", "queue", "forward", "encode", "batch"):
        assert parent(spans.one(stage)) == ids(request)[1]
    assert len(spans.all) == 6
    attributes = dict(request.attributes or {})
    assert attributes.pop("http.response.body.size") > 100  # type: ignore[operator]
    assert attributes.pop("http.request.body.size") > 20  # type: ignore[operator]
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/analyze",
        "http.response.status_code": 200,
        "kqv.request_id": "one",
        "kqv.model": "tiny",
        "kqv.sequences": 2,
        "kqv.tokens": 7,
    }


async def test_stages_lie_in_the_request_one_after_the_other(model: kqv.Model) -> None:
    async with traced(model) as (_, client, spans):
        answer = await client.post("/v1/analyze", json=BODY)
    start, end = times(spans.one("POST /v1/analyze"))
    marks = [start]
    for stage in ("tokenize", "queue", "forward", "encode"):
        marks += times(spans.one(stage))
        told = float(answer.headers["server-timing"].split(f"{stage};dur=")[1].split(",")[0])
        assert (marks[-1] - marks[-2]) / 1e6 == pytest.approx(told, abs=0.01)
    assert marks == sorted(marks)
    assert marks[-1] <= end


async def test_requests_of_one_batch_lead_to_it(model: kqv.Model) -> None:
    async with traced(model) as (app, client, spans):
        batcher = app.state.service.batcher
        async with busy_device(batcher):
            requests = [asyncio.create_task(client.post("/v1/analyze", json=BODY)) for _ in range(3)]
            await until_waiting(batcher, 6)
        for request in requests:
            assert (await request).status_code == 200
    batch = spans.one("batch")
    assert dict(batch.attributes or {}) == {"kqv.batch.sequences": 6, "kqv.batch.tokens": 21}
    forwards = spans.named("forward")
    assert len({ids(span)[0] for span in forwards}) == 3
    for span in forwards:
        [link] = span.links
        assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == ids(batch)
        assert times(span) == pytest.approx(times(batch), abs=1e6)
    for span in spans.named("queue"):
        assert times(span)[1] > times(span)[0]


async def test_generation_leads_to_each_of_its_batches(decoder: kqv.Model) -> None:
    async with traced(decoder) as (_, client, spans):
        await client.post("/v1/generate", json={"input": "to be", "max_new_tokens": 5, "weights": "none", "diagnostics": "none"})
    assert len(spans.one("forward").links) == len(spans.named("batch")) >= 1
    assert times(spans.one("forward"))[1] >= max(times(span)[1] for span in spans.named("batch"))


@pytest.mark.parametrize(
    "headers",
    [[], [("traceparent", "nonsense")], [("traceparent", TRACEPARENT)] * 2, [("traceparent", f"00-{'0' * 32}-{PARENT}-01")]],
    ids=["none", "nonsense", "two", "zero"],
)
async def test_trace_that_is_none_is_begun(model: kqv.Model, headers: list[tuple[str, str]]) -> None:
    async with traced(model) as (_, client, spans):
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
    request = spans.one("GET /v1/models")
    assert ids(request)[0] != TRACE
    assert parent(request) is None


async def test_trace_that_nobody_keeps_makes_no_spans(model: kqv.Model) -> None:
    async with traced(model) as (_, client, spans):
        await client.post("/v1/analyze", json=BODY, headers={"traceparent": TRACEPARENT[:-1] + "0"})
    assert spans.all == ()


async def test_failure_is_marked_and_a_refusal_is_not(model: kqv.Model) -> None:
    async with traced(model) as (app, client, spans):

        @app.get("/broken")
        async def broken() -> None:
            raise RuntimeError("a secret")

        await client.get("/broken")
        await client.get("/made-up-path")
    assert spans.one("GET /broken").status.status_code is StatusCode.ERROR
    assert spans.one("GET (no route)").status.status_code is StatusCode.UNSET
    said = "".join(span.to_json() for span in spans.all)
    assert "secret" not in said
    assert "made-up" not in said


class Collector(BaseHTTPRequestHandler):
    """Takes what is sent, as a collector would."""

    def do_POST(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers["content-length"])))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[tuple[str, list[bytes]]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.received = received = []  # type: ignore[attr-defined]
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces", received
        server.shutdown()


async def test_spans_are_sent_where_the_settings_say(model: kqv.Model) -> None:
    models = Models(lambda: [model])
    models.load()
    with collecting() as (url, received):
        settings = Settings(tracing_url=url)
        async with serving(create_app(settings, models, start_tracing(settings))) as client:
            await client.post("/v1/analyze", json=BODY, headers={"traceparent": TRACEPARENT})
    [sent] = received
    resource = ExportTraceServiceRequest.FromString(sent).resource_spans[0]
    assert any(each.key == "service.name" and each.value.string_value == "kqv" for each in resource.resource.attributes)
    names = {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names == {"POST /v1/analyze", "tokenize", "queue", "forward", "encode", "batch"}


def test_nothing_is_traced_by_default() -> None:
    assert start_tracing(Settings()) is None


def test_service_does_without_the_packages() -> None:
    script = """
import sys
for name in ("opentelemetry.sdk", "opentelemetry.exporter"):
    sys.modules[name] = None
from kqv import InputError
from service.app import create_app
from service.models import Models
from service.settings import Settings
from service.observing.tracing import start_tracing
create_app(Settings(), Models(list), start_tracing(Settings()))
try:
    start_tracing(Settings(tracing_url="http://127.0.0.1:1"))
except InputError as error:
    assert "pip install 'kqv[tracing]'" in str(error)
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_fastapi_tells_nothing_of_its_own(model: kqv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    others = Spans()
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: others.provider)
    async with traced(model) as (_, client, spans):
        await client.post("/v1/analyze", json=BODY)
    assert spans.all
    assert not others.all
