"""What is refused before any route sees it, and what every answer tells a browser."""

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from problems import problem
from pydantic import ValidationError
from serving import listening, make_app, serving

import kqv
from service.http.middleware import SECURITY
from service.settings import Settings

pytestmark = pytest.mark.anyio
BODY = {"input": "the cat", "weights": "none"}
JSON = {"content-type": "application/json"}
LIMITS = {"max_headers": 17, "max_header_bytes": 2048, "max_json_values": 50, "body_timeout_s": 0.5}


@pytest.fixture(scope="module")
def strict(model: kqv.Model) -> Iterator[httpx.Client]:
    with listening(make_app(model, **LIMITS)) as url, httpx.Client(base_url=url, timeout=10) as session:
        yield session


@pytest.fixture(autouse=True)
def _next_request_is_served(strict: httpx.Client) -> Iterator[None]:
    yield
    assert strict.post("/v1/analyze", json=BODY).status_code == 200


def test_headers_have_a_number(strict: httpx.Client) -> None:
    sent = len(strict.build_request("GET", "/livez").headers)
    fitting = {f"x-{index}": "" for index in range(17 - sent)}
    assert strict.get("/livez", headers=fitting).status_code == 200
    document = problem(strict.get("/livez", headers=fitting | {"x-more": ""}), 431)
    assert document["detail"] == "a request has at most 17 headers, not 18"


def test_headers_have_a_length(strict: httpx.Client) -> None:
    assert strict.get("/livez", headers={"x-long": "x" * 1500}).status_code == 200
    assert "at most 2048 bytes" in problem(strict.get("/livez", headers={"x-long": "x" * 2048}), 431)["detail"]


@pytest.mark.parametrize(
    "content",
    ["[" + "[]," * 60 + "[]]", "[" + "0," * 60 + "0]", '{"a":' * 60 + "0" + "}" * 60, "[" * 60 + "]" * 60],
    ids=["lists", "numbers", "objects", "nesting"],
)
def test_json_has_a_number_of_values(strict: httpx.Client, content: str) -> None:
    response = strict.post("/v1/analyze", content=f'{{"input": {content}}}', headers=JSON)
    assert "longer than 50 values" in problem(response, 413)["detail"]


def test_values_up_to_the_limit_are_read(strict: httpx.Client) -> None:
    assert strict.post("/v1/analyze", json={"input": [5] * 41, "weights": "none"}).status_code == 200


@pytest.mark.parametrize("kind", ["Content-Length: 99", "Transfer-Encoding: chunked"])
def test_slow_body_is_given_up(strict: httpx.Client, kind: str) -> None:
    with socket.create_connection((strict.base_url.host, strict.base_url.port or 80), timeout=5) as connection:
        started = time.monotonic()
        connection.sendall(f"POST /v1/analyze HTTP/1.1\r\nHost: kqv\r\nContent-Type: application/json\r\n{kind}\r\n\r\n".encode())
        answer = b""
        connection.settimeout(0.1)
        while True:  # a byte now and then does not help
            try:
                connection.sendall(b"{" if "Length" in kind else b"1\r\n{\r\n")
                received = connection.recv(1 << 16)
            except TimeoutError:
                assert time.monotonic() < started + 5
                continue
            except OSError:
                break
            answer += received
            if not received:
                break
        assert 0.4 < time.monotonic() - started < 4
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"longer than 0.5 s" in answer


async def test_bodies_of_all_requests_have_a_length_together(model: kqv.Model) -> None:
    app = make_app(model, max_bodies_bytes=3000, inline_read_bytes=10_000)
    async with serving(app) as client:
        part, rest = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b'{"input": "the cat"'.ljust(2000)
            part.set()
            await rest.wait()
            yield b"}"

        first = asyncio.create_task(client.post("/v1/analyze", content=slowly(), headers=JSON))
        await part.wait()
        refused = await client.post("/v1/analyze", content=b'{"input": "a"}'.ljust(1500), headers=JSON)
        assert "bytes of bodies" in problem(refused, 429)["detail"]
        assert refused.headers["retry-after"] == "1"
        rest.set()
        assert (await first).status_code == 200
        for _ in range(3):  # what is over counts no more, answered or refused
            assert (await client.post("/v1/analyze", content=b'{"input": "a"}'.ljust(2900), headers=JSON)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/livez", "/nowhere", "/openapi.json", "/docs"])
def test_every_answer_tells_a_browser_to_do_no_more(strict: httpx.Client, path: str) -> None:
    headers = strict.get(path).headers
    assert [headers[name.decode()] for name, _ in SECURITY] == [value.decode() for _, value in SECURITY]
    assert headers["x-frame-options"] == "DENY"
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert ("script-src" in policy) == (path == "/docs")
    assert ("default-src 'none'" in policy) == (path != "/docs")


def test_errors_from_outside_the_routes_have_the_headers_too(strict: httpx.Client) -> None:
    response = strict.get("/livez", headers={"x-long": "x" * 2048})
    assert response.status_code == 431
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("given", [["one", "two"], ["one", "one"], ["x" * 1500]], ids=["two", "twice", "huge"])
def test_request_id_that_is_not_one_is_replaced(strict: httpx.Client, given: list[str]) -> None:
    response = strict.get("/livez", headers=[("x-request-id", each) for each in given])
    assert response.status_code == 200
    assert response.headers["x-request-id"] not in given
    assert len(response.headers["x-request-id"]) == 32


PAGE = "https://dashboard.example"


async def test_listed_origins_may_call_from_a_browser(model: kqv.Model) -> None:
    app = make_app(model, cors_origins=(PAGE, "http://localhost:3000"), api_keys="page:correct-horse-battery")

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("no more")

    preflight = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    key = {"authorization": "Bearer correct-horse-battery"}
    async with serving(app) as client:
        asked = await client.options("/v1/analyze", headers=preflight)
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in asked.headers
        for path, headers, status in (("/v1/models", key, 200), ("/v1/models", {}, 401), ("/broken", key, 500)):
            answer = await client.get(path, headers={"origin": PAGE} | headers)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, PAGE)
            assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://dashboard.example.evil.example", "null", "http://dashboard.example"]
)
async def test_other_origins_may_not(model: kqv.Model, origin: str) -> None:
    async with serving(make_app(model, cors_origins=(PAGE,))) as client:
        preflight = {"origin": origin, "access-control-request-method": "POST"}
        assert (await client.options("/v1/analyze", headers=preflight)).status_code == 400
        assert "access-control-allow-origin" not in (await client.get("/v1/models", headers={"origin": origin})).headers


async def test_no_origin_is_listed_at_first(model: kqv.Model) -> None:
    async with serving(make_app(model)) as client:
        assert "access-control-allow-origin" not in (await client.get("/v1/models", headers={"origin": PAGE})).headers


@pytest.mark.parametrize("origin", ["*", "dashboard.example", "https://dashboard.example/", "https://*.example", "null"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(cors_origins=(origin,))


async def test_connections_end_when_the_process_is_about_to(model: kqv.Model) -> None:
    app = make_app(model)
    async with serving(app) as client:
        assert "connection" not in (await client.get("/livez")).headers
        app.state.service.draining = True
        assert (await client.get("/livez")).headers["connection"] == "close"


async def test_unpacked_bodies_count_as_they_are_kept(model: kqv.Model) -> None:
    content = gzip.compress(b'{"input": "the cat"}'.ljust(4000))
    headers = JSON | {"content-encoding": "gzip"}
    for limit, status in ((3000, 429), (5000, 200)):
        async with serving(make_app(model, max_bodies_bytes=limit)) as client:
            for _ in range(2):
                assert (await client.post("/v1/analyze", content=content, headers=headers)).status_code == status
