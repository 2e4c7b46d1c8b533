"""Figures for Prometheus: there from the start, right, and only so many."""

import asyncio
import re
import socket
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from scraping import Series, read_metrics, series
from serving import Task, busy_device, listening, make_app, serving, until_waiting, wait_until
from tools import promtool

import kqv
from service.batching.queue import Size
from service.observing.metrics import BYTES, SECONDS, STAGE_SECONDS, reasons

pytestmark = pytest.mark.anyio
BODY = {"input": "the cat", "weights": "none"}


def own(figures: Series) -> Series:
    return {name: value for name, value in figures.items() if name.startswith("kqv_")}


async def test_every_series_is_there_at_zero_from_the_start(model: kqv.Model) -> None:
    app = make_app(model)
    async with serving(app) as client:
        figures = own(await read_metrics(client))
        assert {name for name, value in figures.items() if value} == {"kqv_ready"}
        for expected in (
            'kqv_http_requests_total{method="POST",route="/v1/analyze",status="429"}',
            'kqv_http_request_duration_seconds_count{method="POST",route="/v1/attend"}',
            'kqv_stage_duration_seconds_bucket{le="0.0001",stage="tokenize"}',
            "kqv_batch_size_count",
            "kqv_batch_tokens_count",
            "kqv_padding_ratio_count",
            "kqv_response_bytes_count",
            "kqv_requests_waiting",
            "kqv_requests_running",
            "kqv_queue_tokens",
            "kqv_draining",
            "kqv_device_memory_used_bytes",
            'kqv_rejected_total{reason="overloaded"}',
            'kqv_cancelled_total{stage="queue"}',
            "kqv_truncated_total",
            "kqv_device_errors_total",
        ):
            assert figures[expected] == 0
        for name, operation in described(app).items():
            assert f"kqv_http_request_duration_seconds_count{{{name}}}" in figures, operation
        await ask_for_everything(client)
        later = own(await read_metrics(client))
        assert {name for name in later.keys() - figures.keys() if 'route="(no route)"' not in name} == {
            'kqv_http_requests_total{method="GET",route="/v1/models/{id}",status="404"}',
            'kqv_http_requests_total{method="POST",route="/v1/analyze",status="413"}',
            'kqv_http_requests_total{method="PUT",route="/v1/analyze",status="405"}',
            *(name for name in later if name.startswith("kqv_http_request_duration_seconds") and 'method="PUT"' in name),
        }


def described(app: FastAPI) -> dict[str, Any]:
    paths = app.openapi()["paths"].items()
    return {
        f'method="{method.upper()}",route="{path}"': operation for path, methods in paths for method, operation in methods.items()
    }


async def ask_for_everything(client: httpx.AsyncClient) -> None:
    """Requests that go well, badly, and nowhere."""
    for body in (BODY, {"input": ""}, {"input": ["a"] * 3}):
        await client.post("/v1/analyze", json=body)
    await client.post("/v1/analyze", content=b" " * (17 << 20), headers={"content-type": "application/json"})
    await client.get("/v1/models/none-such")
    await client.put("/v1/analyze")
    for path in ("/a", "/b", "/metrics/", "/v1/models/x/y"):
        await client.get(path)
    await client.request("BREW", "/coffee")


async def test_paths_and_methods_that_clients_make_up_make_no_series(model: kqv.Model) -> None:
    async with serving(make_app(model)) as client:
        for index in range(5):
            await client.get(f"/made-up-{index}")
            await client.get(f"/v1/models/made-up-{index}")
            await client.request(f"MADEUP{index}", "/nowhere")
        text = (await client.get("/metrics")).text
        assert "made-up" not in text.lower()
        assert "MADEUP" not in text
        assert series(text)['kqv_http_requests_total{method="GET",route="(no route)",status="404"}'] == 5
        assert series(text)['kqv_http_requests_total{method="OTHER",route="(no route)",status="404"}'] == 5


async def test_figures_follow_the_requests(model: kqv.Model) -> None:
    async with serving(make_app(model)) as client:
        answers = [await client.post("/v1/analyze", json={"input": [[5] * 3, [5] * 4], "weights": "none"}) for _ in range(2)]
        figures = await read_metrics(client)
    route = 'method="POST",route="/v1/analyze"'
    assert figures[f'kqv_http_requests_total{{{route},status="200"}}'] == 2
    assert figures[f"kqv_http_request_duration_seconds_count{{{route}}}"] == 2
    assert 0 < figures[f"kqv_http_request_duration_seconds_sum{{{route}}}"] < 10
    assert figures["kqv_batch_size_sum"] == 4
    assert figures["kqv_batch_tokens_sum"] == 14
    assert figures["kqv_batch_size_count"] == figures["kqv_padding_ratio_count"] == 2
    assert figures["kqv_padding_ratio_sum"] == pytest.approx(2 * (1 - 7 / 8))
    assert figures["kqv_response_bytes_sum"] == sum(len(answer.content) for answer in answers)
    for stage in ("tokenize", "queue", "forward", "encode"):
        told = [re.search(rf"{stage};dur=([\d.]+)", answer.headers["server-timing"]) for answer in answers]
        spent = sum(float(each[1]) for each in told if each) / 1e3
        assert figures[f'kqv_stage_duration_seconds_sum{{stage="{stage}"}}'] == pytest.approx(spent, abs=2e-6)


async def test_buckets_are_those_of_the_contract(model: kqv.Model) -> None:
    async with serving(make_app(model)) as client:
        figures = await read_metrics(client)

    def bounds(name: str, labels: str) -> list[float]:
        pattern = re.compile(rf'{name}_bucket{{le="([^"]+)"{labels}}}')
        return [float(found[1]) for found in map(pattern.fullmatch, figures) if found]

    opentelemetry = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
    assert [*SECONDS] == [0.0005, 0.001, 0.0025, *opentelemetry]
    assert bounds("kqv_http_request_duration_seconds", ',method="GET",route="/livez"') == [*SECONDS, float("inf")]
    assert [*STAGE_SECONDS] == [pytest.approx(1e-4 * 2**power) for power in range(18)]
    assert bounds("kqv_stage_duration_seconds", ',stage="queue"') == [*STAGE_SECONDS, float("inf")]
    assert bounds("kqv_response_bytes", "") == [*BYTES, float("inf")]


async def test_gauges_follow_the_queue(model: kqv.Model) -> None:
    app = make_app(model)
    batcher = app.state.service.batcher
    async with serving(app) as client:
        async with busy_device(batcher):
            waiting = asyncio.create_task(client.post("/v1/analyze", json={"input": [[5] * 3, [5] * 4], "weights": "none"}))
            await until_waiting(batcher, 2)
            figures = await read_metrics(client)
            shown = [
                figures[f"kqv_{name}"] for name in ("requests_waiting", "requests_running", "queue_tokens", "ready", "draining")
            ]
            assert shown == [2, 1, 7, 1, 0]
        assert (await waiting).status_code == 200
        app.state.service.draining = True
        figures = await read_metrics(client)
        assert [figures[f"kqv_{name}"] for name in ("requests_waiting", "queue_tokens", "ready", "draining")] == [0, 0, 0, 1]


async def test_refusals_are_counted_by_their_reason(model: kqv.Model) -> None:
    app = make_app(model, max_answer_bytes=1000, max_waiting_sequences=1, api_keys="one:correct-horse-battery")
    key = {"authorization": "Bearer correct-horse-battery"}
    async with serving(app) as client:
        await client.post("/v1/analyze", json=BODY)
        client.headers = httpx.Headers(key)
        await client.post("/v1/analyze", json={"input": ""})
        await client.post("/v1/analyze", json={"input": ""})
        await client.post("/v1/analyze", json=BODY | {"model": "none-such"})
        await client.post("/v1/analyze", content=b"{", headers={"content-type": "application/json"})
        await client.post("/v1/analyze", content=b"{}")
        await client.post("/v1/analyze", json={"input": "the cat"})
        figures = await read_metrics(client)
    counted = {name: value for name, value in figures.items() if name.startswith("kqv_rejected_total") and value}
    expected = {"unauthorized": 1, "invalid_request": 2, "unknown_model": 1, "unsupported_media_type": 1, "answer_too_large": 1}
    for reason, count in expected.items():
        assert counted.pop(f'kqv_rejected_total{{reason="{reason}"}}') == count
    assert [*counted.values()] == [1.0]  # what is no JSON


def test_reasons_are_words() -> None:
    found = [*reasons()]
    assert len(found) == len(set(found)) >= 12
    assert all(re.fullmatch("[a-z_]+", reason) for reason in found)


async def test_what_is_given_up_is_counted_where_it_was(model: kqv.Model) -> None:
    app = make_app(model)
    batcher = app.state.service.batcher
    async with serving(app) as client:
        async with busy_device(batcher):
            response = await client.post("/v1/analyze", json={"input": ["a", "b"]}, headers={"x-request-timeout-ms": "1"})
            assert response.status_code == 504
        await client.post("/v1/analyze", json=BODY)  # the device has come round to those that were given up
        figures = await read_metrics(client)
    assert figures['kqv_cancelled_total{stage="queue"}'] == 2
    assert figures['kqv_rejected_total{reason="deadline_exceeded"}'] == 1


async def test_failures_of_the_device_are_counted_and_refusals_are_not(model: kqv.Model) -> None:
    app = make_app(model)
    batcher = app.state.service.batcher

    def fail(jobs: Sequence[Any]) -> Sequence[Any]:
        raise RuntimeError("out of memory") if "poison" in jobs else kqv.InputError("wrong")

    async with serving(app) as client:
        await asyncio.gather(*batcher.submit(Task(fail), ["poison", "other"], [Size(1)] * 2), return_exceptions=True)
        figures = await read_metrics(client)
    assert figures["kqv_device_errors_total"] == 1


async def test_cut_sequences_are_counted(model: kqv.Model) -> None:
    async with serving(make_app(model)) as client:
        await client.post("/v1/analyze", json={"input": [[5] * 42, [5] * 41, [5] * 50], "truncate": "right", "weights": "none"})
        assert (await read_metrics(client))["kqv_truncated_total"] == 2


async def test_cut_prompts_are_counted(encoder_decoder: kqv.Model) -> None:
    async with serving(make_app(encoder_decoder)) as client:
        body = {"input": "a" * 10_000, "truncate": "left", "max_new_tokens": 2, "weights": "none", "diagnostics": "none"}
        answer = await client.post("/v1/generate", json=body)
        assert answer.status_code == 200, answer.text
        assert (await read_metrics(client))["kqv_truncated_total"] == 1


async def test_promtool_finds_nothing_to_complain_about(model: kqv.Model) -> None:
    async with serving(make_app(model)) as client:
        await ask_for_everything(client)
        text = (await client.get("/metrics")).content
    assert promtool("check", "metrics", given=text) == ""


def test_client_that_goes_while_it_sends_is_counted(model: kqv.Model) -> None:
    with listening(make_app(model)) as url, httpx.Client(base_url=url) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=5) as connection:
            head = "POST /v1/analyze HTTP/1.1\r\nHost: kqv\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
            connection.sendall(head.encode())
        wait_until(lambda: series(client.get("/metrics").text)['kqv_cancelled_total{stage="read"}'] == 1)
