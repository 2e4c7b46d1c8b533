"""Requests share the device, and notice nothing of each other: neither in their numbers, nor in each other's failures."""

import asyncio
import json
import socket
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from serving import busy_device, keep_busy, listening, make_app, serving, until_waiting, wait_until

import kqv
from service.batching.batcher import Batcher

pytestmark = pytest.mark.anyio

REQUESTS: list[dict[str, Any]] = [
    {"input": "the cat sat on the mat .", "outputs": ["hidden", "q", "scaled_scores"]},
    {"input": ["a dog ran", "who saw it and slept in the sun ?"], "weights": "top", "top_k": 2, "layers": [-1], "heads": [4, 0]},
    {"input": {"text": "the dog", "pair": "walked to the tree"}, "weights": "pooled", "pool": 3, "per_query": True},
    {"input": [5, 6, 7], "weights": "none", "diagnostics": "none", "outputs": ["pooled"]},
    {"input": {"embeddings": [[index / 35] * 35 for index in range(4)]}, "queries": [1, 3], "keys": [0, 2]},
]


def flat(value: Any) -> list[float]:
    """Every number of an answer, in order; nulls as NaN."""
    match value:
        case dict():
            return [number for name in sorted(value) for number in flat(value[name])]
        case list():
            return [number for each in value for number in flat(each)]
        case None:
            return [float("nan")]
        case float() | int():
            return [float(value)]
    return []


async def test_batch_of_different_selections_gives_the_numbers_of_each_alone(model: kqv.Model) -> None:
    app = make_app(model)
    async with serving(app) as client:
        alone = [(await client.post("/v1/analyze", json=body)).json() for body in REQUESTS]
        batcher = app.state.service.batcher
        async with busy_device(batcher) as release:
            tasks = [asyncio.create_task(client.post("/v1/analyze", json=body)) for body in REQUESTS]
            await until_waiting(batcher, 6)
            release()
            together = [response.json() for response in await asyncio.gather(*tasks)]
    for before, after in zip(alone, together, strict=True):
        assert before["timing"]["batch_sequences"] == len(before["results"])
        assert after["timing"]["batch_sequences"] == 6
        assert flat(after["results"]) == pytest.approx(flat(before["results"]), abs=2e-5, nan_ok=True)


def poison(monkeypatch: pytest.MonkeyPatch, ids: tuple[int, ...]) -> None:
    """Any pass with these ids fails."""
    analyze_jobs = kqv.Model.analyze_jobs

    def poisoned(self: kqv.Model, jobs: Sequence[Any]) -> Any:
        if any(job.sequence.ids == ids for job in jobs):
            raise RuntimeError("an assertion on the device")
        return analyze_jobs(self, jobs)

    monkeypatch.setattr(kqv.Model, "analyze_jobs", poisoned)


async def test_poisoned_request_fails_alone(model: kqv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, (13, 13))
    app = make_app(model)
    async with serving(app) as client:
        async with busy_device(app.state.service.batcher) as release:
            tasks = [asyncio.create_task(client.post("/v1/analyze", json={"input": ids})) for ids in ([5, 6], [13, 13], [7], [8])]
            await until_waiting(app.state.service.batcher, 4)
            release()
            responses = await asyncio.gather(*tasks)
        assert [response.status_code for response in responses] == [200, 500, 200, 200]
        assert "device" not in responses[1].text
        assert (await client.post("/v1/analyze", json={"input": [9]})).status_code == 200


async def test_batch_is_no_longer_than_it_may_take(model: kqv.Model) -> None:
    body = {"input": [[5] * 40] * 6}
    for longest_s, together in ((1e-6, 1), (60.0, 6)):
        async with serving(make_app(model, max_batch_s=longest_s)) as client:
            await client.post("/v1/analyze", json={"input": [5]})  # from which it knows how long a token takes
            answer = (await client.post("/v1/analyze", json=body)).json()
        assert answer["timing"]["batch_sequences"] == together


async def test_too_much_is_429_and_said_when_to_come_back(model: kqv.Model) -> None:
    app = make_app(model, max_waiting_tokens=10)
    async with serving(app) as client, busy_device(app.state.service.batcher) as release:
        waiting = asyncio.create_task(client.post("/v1/analyze", json={"input": [[5] * 4, [6] * 4]}))
        await until_waiting(app.state.service.batcher, 2)
        refused = await client.post("/v1/analyze", json={"input": [[5], [5, 6]]})
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["detail"].startswith("8 tokens wait for the device already")
        fitting = asyncio.create_task(client.post("/v1/analyze", json={"input": [5, 6]}))
        await until_waiting(app.state.service.batcher, 3)
        release()
        assert [(await task).status_code for task in (waiting, fitting)] == [200, 200]


async def test_poisoned_request_among_31_good_ones_fails_alone(model: kqv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, (13, 13))
    app = make_app(model, workers=2)
    async with serving(app) as client:
        bodies = [{"input": [13, 13] if index == 17 else [5, index]} for index in range(32)]
        responses = await asyncio.gather(*(client.post("/v1/analyze", json=body) for body in bodies))
    assert [index for index, response in enumerate(responses) if response.status_code != 200] == [17]
    assert responses[17].status_code == 500


async def test_answers_under_way_are_bounded(model: kqv.Model) -> None:
    body = {"input": [5] * 9}
    app = make_app(model)
    service = app.state.service
    async with serving(app) as client:
        async with busy_device(service.batcher) as release:
            first = asyncio.create_task(client.post("/v1/analyze", json=body))
            await until_waiting(service.batcher, 1)
            service.answers.limit_bytes = 2 * service.answers.held_bytes - 1
            refused = await client.post("/v1/analyze", json=body)
            assert refused.status_code == 429
            assert refused.json()["detail"].startswith(f"answers of {service.answers.held_bytes} bytes are under way already")
            assert int(refused.headers["retry-after"]) >= 1
            late = await client.post("/v1/analyze", json={"input": [5]}, headers={"x-request-timeout-ms": "30"})
            assert late.status_code == 504
            release()
            assert (await first).status_code == 200
        assert (await client.post("/v1/analyze", json=body)).status_code == 200
        assert (await client.post("/v1/analyze", json=body | {"layers": [9]})).status_code == 422
        assert service.answers.held_bytes == 0


def test_answer_is_held_until_its_client_has_taken_it(model: kqv.Model) -> None:
    app = make_app(model, max_batch_tokens=123)
    with listening(app) as url:
        port, answers = urlsplit(url).port, app.state.service.answers
        with socket.socket() as connection:
            connection.settimeout(30)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
            connection.connect(("127.0.0.1", port))
            connection.sendall(request_bytes(json.dumps({"input": [[5] * 41] * 24, "diagnostics": "none"}).encode()))
            connection.recv(1 << 10)
            held = answers.held_bytes
            assert held > 24 * 3 * 5 * 41 * 41 * 10
            time.sleep(0.1)
            assert answers.held_bytes == held
        wait_until(lambda: answers.held_bytes == 0)


async def test_deadline_is_504_and_what_is_late_never_reaches_the_device(model: kqv.Model) -> None:
    app = make_app(model)
    async with serving(app) as client:
        async with busy_device(app.state.service.batcher) as release:
            response = await client.post("/v1/analyze", json={"input": [[5], [6]]}, headers={"x-request-timeout-ms": "50"})
            assert response.status_code == 504
            assert response.json()["detail"] == "no answer within 50 ms; ask for less, or set X-Request-Timeout-Ms higher"
            release()
        answer = (await client.post("/v1/analyze", json={"input": [7]})).json()
        assert answer["timing"]["batch_sequences"] == 1


async def test_deadline_of_the_settings_holds_without_a_header(model: kqv.Model) -> None:
    app = make_app(model, request_timeout_ms=50)
    async with serving(app) as client, busy_device(app.state.service.batcher):
        assert (await client.post("/v1/attend", json={"q": [[1]], "k": [[1]], "v": [[1]]})).status_code == 504


def request_bytes(body: bytes) -> bytes:
    head = f"POST /v1/analyze HTTP/1.1\r\nHost: kqv\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_request_whose_client_is_gone_is_dropped(model: kqv.Model) -> None:
    app = make_app(model)
    batcher: Batcher = app.state.service.batcher
    with listening(app) as url, httpx.Client(base_url=url) as client:
        gate, port = keep_busy(app), urlsplit(url).port
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(request_bytes(b'{"input": [5]}'))
            wait_until(lambda: batcher.load.waiting == 1)
        wait_until(lambda: batcher.load.waiting == 0)  # while the device is still busy: its place is free before the pass
        assert batcher.load.running == 1
        gate.open()
        assert client.post("/v1/analyze", json={"input": [6]}).json()["timing"]["batch_sequences"] == 1
