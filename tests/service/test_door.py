"""While the queue is full: who comes is told so before anything of the request is read, and as any other answer would say it."""

import gc
import logging
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from problems import problem
from serving import keep_busy, listening, make_app, wait_until

import kqv
from service.http.middleware import Exchange

KEY = "correct-horse-battery-staple"
PAGE = "https://example.org"
UNREAD = {"content": b"no JSON", "headers": {"content-type": "text/plain"}}
"""Would be 415, were it looked at."""


@contextmanager
def crowded(model: kqv.Model, caplog: pytest.LogCaptureFixture | None = None, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a server whose queue is full."""
    app = make_app(model, max_waiting_tokens=5, **settings)
    with listening(app) as url, httpx.Client(base_url=url, timeout=10) as session:
        gate, batcher = keep_busy(app), app.state.service.batcher
        headers = {"authorization": f"Bearer {KEY}"}
        statuses: list[int] = []

        def wait() -> None:
            statuses.append(httpx.post(f"{url}/v1/analyze", json={"input": [5] * 5}, headers=headers, timeout=10).status_code)

        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_until(lambda: batcher.load.waiting == 1)
        if caplog is not None:
            caplog.set_level(logging.INFO)
        try:
            yield session
        finally:
            gate.open()
            waiting.join()
    assert statuses == [200]  # of the one that was let in before


@pytest.mark.parametrize(
    "path", ["/v1/analyze", "/v1/diagnostics", "/v1/attend", "/v1/generate", "/v1/embeddings", "/v2/models/tiny/versions/1/infer"]
)
def test_crowd_is_refused_before_it_is_read(model: kqv.Model, path: str) -> None:
    with crowded(model) as client:
        refused = client.post(path, **UNREAD)
        assert refused.status_code == 429
        assert "5 tokens wait for the device already" in refused.text
        assert refused.headers["retry-after"] == "1"


def test_refusal_is_an_answer_like_any_other(model: kqv.Model, caplog: pytest.LogCaptureFixture) -> None:
    with crowded(model, caplog) as client:
        refused = client.post("/v1/analyze", **(UNREAD | {"headers": {"x-request-id": "mine"}}))
        assert problem(refused, 429)["request_id"] == "mine"
        usual = client.get("/v1/none")
        assert refused.headers.keys() - {"retry-after"} == usual.headers.keys()
        client.post("/v2/models/tiny/infer", **UNREAD)
        figures = client.get("/metrics").text
    counted = 'kqv_http_requests_total{method="POST",route="%s",status="429"} 1.0'
    assert counted % "/v1/analyze" in figures
    assert counted % "/v2/models/{name}/infer" in figures
    assert 'kqv_rejected_total{reason="overloaded"} 2.0' in figures
    assert re.search(r'kqv_http_request_duration_seconds_count{method="POST",route="/v1/analyze"} 1\.0', figures)
    [fields] = [each.fields for each in caplog.records if getattr(each, "fields", {}).get("request_id") == "mine"]
    assert fields.pop("duration_ms") >= 0
    expected = {"request_id": "mine", "method": "POST", "route": "/v1/analyze", "status": 429, "reason": "overloaded"}
    assert fields == expected | {"response_bytes": len(refused.content)}


def test_what_waits_for_nothing_is_answered(model: kqv.Model) -> None:
    with crowded(model) as client:
        assert client.post("/v1/tokenize", json={"input": "the cat"}).status_code == 200
        assert client.get("/v1/models").status_code == 200
        assert client.post("/v1/none", **UNREAD).status_code == 404


def test_connection_serves_on(model: kqv.Model) -> None:
    """Also for who sends the body after the refusal, or many requests at once."""
    head = b"POST /v1/analyze HTTP/1.1\r\nHost: kqv\r\nContent-Length: 7\r\n\r\n"
    with crowded(model) as client:
        address = (client.base_url.host, client.base_url.port or 80)
        with socket.create_connection(address, timeout=10) as connection, connection.makefile("rb") as answers:
            connection.sendall(head)
            assert answers.readline() == b"HTTP/1.1 429 Too Many Requests\r\n"
            connection.sendall(b"no JSON" + 20 * (head + b"no JSON"))
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: kqv\r\nConnection: close\r\n\r\n")
            rest = answers.read()
    assert rest.count(b"HTTP/1.1 429 ") == 20
    assert rest.count(b"HTTP/1.1 200 OK") == 1
    assert rest.index(b"HTTP/1.1 200 OK") > rest.rindex(b"HTTP/1.1 429 ")


def test_what_is_over_is_free_at_once(model: kqv.Model) -> None:
    """And not when the garbage collector looks next, which it rarely does."""
    with crowded(model) as client:
        gc.collect()
        gc.disable()
        try:
            client.post("/v1/analyze", json={"input": [5]})
            client.post("/v1/tokenize", json={"input": "the cat"})
            client.post("/v1/tokenize", json={"input": 5})
            client.get("/v1/none")
            wait_until(lambda: sum(type(each) is Exchange for each in gc.get_objects()) == 1)  # of the one that waits
        finally:
            gc.enable()


def test_strangers_are_told_that_they_are(model: kqv.Model, caplog: pytest.LogCaptureFixture) -> None:
    with crowded(model, caplog, api_keys=f"mine:{KEY}") as client:
        problem(client.post("/v1/analyze", **UNREAD), 401)
        problem(client.post("/v1/analyze", content=b"", headers={"authorization": "Bearer nobody-knows-this-key"}), 401)
        problem(client.post("/v1/analyze", content=b"", headers={"authorization": f"Bearer {KEY}"}), 429)
    told = [each.fields for each in caplog.records if getattr(each, "fields", {}).get("status") in (401, 429)]
    assert [(each["status"], each.get("key")) for each in told] == [(401, None), (401, None), (429, "mine")]


def test_pages_of_other_origins_can_read_it(model: kqv.Model) -> None:
    with crowded(model, cors_origins=(PAGE,)) as client:
        refused = client.post("/v1/analyze", json={"input": [5]}, headers={"origin": PAGE})
        assert "wait for the device" in problem(refused, 429)["detail"]
        assert refused.headers["access-control-allow-origin"] == PAGE
        problem(client.post("/v1/analyze", **UNREAD), 429)
