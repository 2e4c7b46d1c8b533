"""What surrounds every request: its id, its line in the log, and an opaque answer where something unexpected happens."""

import gc
import gzip
import logging
import re
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI
from serving import listening, make_app, serving
from starlette.responses import StreamingResponse

import kqv
from service.errors import ServiceError

pytestmark = pytest.mark.anyio
SECRET = "/srv/models/secret.safetensors"


def add_broken_routes(app: FastAPI) -> FastAPI:
    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError(f"can't read {SECRET}")

    @app.get("/damaged")
    async def damaged() -> None:
        raise kqv.CheckpointError(f"{SECRET} is damaged")

    @app.get("/broken-halfway")
    async def broken_halfway() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("no more")

        return StreamingResponse(body())

    return app


@pytest.mark.parametrize("path", ["/broken", "/damaged"])
async def test_unexpected_error_says_nothing_but_its_id(model: kqv.Model, caplog: pytest.LogCaptureFixture, path: str) -> None:
    async with serving(add_broken_routes(make_app(model))) as client:
        response = await client.get(path, headers={"x-request-id": "deploy-7"})
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json() == {
            "type": "about:blank",
            "title": "Internal Server Error",
            "status": 500,
            "detail": "something went wrong on our side; the log has it under request id deploy-7",
            "request_id": "deploy-7",
        }
        assert (await client.post("/v1/analyze", json={"input": "a"})).status_code == 200
    [logged] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert logged.getMessage() == "request deploy-7 failed"
    assert logged.exc_info is not None
    assert SECRET in str(logged.exc_info[1])


def test_answer_that_breaks_halfway_ends_the_connection(model: kqv.Model) -> None:
    with listening(add_broken_routes(make_app(model))) as url, httpx.Client(base_url=url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/broken-halfway")
        assert client.get("/livez").status_code == 200


@pytest.mark.parametrize("given", ["a", "0b1c-2d3e_4f.5", "trace:7/8+9=", "x" * 128])
async def test_request_id_is_echoed(model: kqv.Model, given: str) -> None:
    async with serving(make_app(model)) as client:
        response = await client.get("/livez", headers={"x-request-id": given})
        assert response.headers["x-request-id"] == given
        response = await client.get("/nowhere", headers={"x-request-id": given})
        assert (response.headers["x-request-id"], response.json()["request_id"]) == (given, given)


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "line\tbreak", 'quote"', "ünïcode"])
async def test_request_id_that_could_forge_a_log_line_is_replaced(model: kqv.Model, given: str) -> None:
    async with serving(make_app(model)) as client:
        response = await client.get("/livez", headers={"x-request-id": given.encode()})  # type: ignore[dict-item]
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_two_request_ids_are_none(model: kqv.Model) -> None:
    async with serving(make_app(model)) as client:
        response = await client.get("/livez", headers=[("x-request-id", "a"), ("x-request-id", "b")])
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
        assert len(response.headers.get_list("x-request-id")) == 1


async def test_ids_that_are_made_differ(model: kqv.Model) -> None:
    async with serving(make_app(model)) as client:
        ids = {(await client.get("/livez")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.fixture
def access_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "service.observing.logs"):
        yield caplog


async def test_each_request_is_one_line_without_its_content(model: kqv.Model, access_log: pytest.LogCaptureFixture) -> None:
    async with serving(make_app(model)) as client:
        for send in (
            client.post("/v1/analyze?key=hunter2", json={"input": "a secret"}, headers={"x-request-id": "one"}),
            client.get("/v1/models/hunter2", headers={"x-request-id": "two"}),
            client.get("/hunter2", headers={"x-request-id": "three"}),
            client.put("/v1/analyze", headers={"x-request-id": "four"}),
        ):
            await send
    lines = [record.fields for record in access_log.records]  # type: ignore[attr-defined]
    assert "secret" not in str(lines)
    assert "hunter2" not in str(lines)
    shown = ("method", "route", "status", "request_id")
    assert [" ".join(str(line[name]) for name in shown) for line in lines] == [
        "POST /v1/analyze 200 one",
        "GET /v1/models/{id} 404 two",
        "GET (no route) 404 three",
        "PUT /v1/analyze 405 four",
    ]


def errors_with_a_past() -> list[ServiceError]:
    """New errors in memory that hold the calls that they came through, and so whatever those have."""
    return [each for each in gc.get_objects() if issubclass(type(each), ServiceError) and each.__traceback__ is not None]


JSON = {"content-type": "application/json"}
REFUSED = {
    "a bomb": {"content": gzip.compress(bytes(1 << 18)), "headers": JSON | {"content-encoding": "gzip"}},
    "no gzip": {"content": b"{}", "headers": JSON | {"content-encoding": "gzip"}},
    "too long": {"content": b" " * 200_001, "headers": JSON},
    "no JSON": {"content": b"{", "headers": JSON},
    "no such id": {"json": {"input": [97]}},
    "a long header": {"json": {"input": "a"}, "headers": {"x-long": "x" * 33_000}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_refused_is_not_kept_until_garbage_is_collected(client: httpx.Client, case: str) -> None:
    gc.disable()
    gc.freeze()  # what there is already, which takes seconds to look through after a thousand tests
    try:
        for _ in range(3):
            assert 400 <= client.post("/v1/analyze", **REFUSED[case]).status_code < 500
        client.get("/livez")  # by the end of which the one before is over
        assert errors_with_a_past() == []
    finally:
        gc.unfreeze()
        gc.enable()
