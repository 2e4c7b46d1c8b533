"""A body is bounded, JSON, and parsed safely: 400 is for what is no JSON, 422 for JSON that is no request."""

import gzip
import json
import socket
import tracemalloc
import zlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from service.errors import BodyTooLargeError
from service.http.bodies import inflate

JSON = {"content-type": "application/json"}
GOOD = json.dumps({"input": "the cat", "weights": "none"}).encode()
LIMIT = 200_000


@pytest.fixture(autouse=True)
def _next_request_is_served(client: httpx.Client) -> Iterator[None]:
    yield
    assert client.post("/v1/analyze", content=GOOD, headers=JSON).status_code == 200


def detail(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["detail"])


MALFORMED = {
    "nothing": (b"", "EOF"),
    "half an object": (GOOD[:-3], "EOF"),
    "a comma too many": (GOOD[:-1] + b",}", "trailing comma"),
    "two documents": (GOOD + GOOD, "trailing characters"),
    "single quotes": (b"{'input': 'a'}", "key must be a string"),
    "bytes that are no UTF-8": (b'{"input": "\xff\xfe"}', "invalid unicode code point"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "expected value"),
    "half a surrogate pair, high": (rb'{"input": "\ud83d"}', "unexpected end of hex escape"),
    "half a surrogate pair, low": (rb'{"input": "\ude00"}', "lone"),
    "nesting 10,000 deep": (b'{"input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "recursion limit"),
    "nesting 10,000 deep in an unknown field": (b'{"a": ' + b'{"a": ' * 10_000 + b"1" + b"}" * 10_001, "recursion limit"),
    "a number of 5,000 digits": (b'{"input": [1' + b"0" * 5_000 + b"]}", "number out of range"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_json_is_malformed(client: httpx.Client, case: str) -> None:
    body, complaint = MALFORMED[case]
    text = detail(client.post("/v1/analyze", content=body, headers=JSON), 400)
    assert text.startswith("the body is not JSON: ")
    assert complaint in text


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"null", b"17"])
def test_json_that_is_no_object_is_invalid(client: httpx.Client, body: bytes) -> None:
    assert "object" in detail(client.post("/v1/analyze", content=body, headers=JSON), 422)


def deflated(data: bytes, window: int) -> bytes:
    packing = zlib.compressobj(wbits=window)
    return packing.compress(data) + packing.flush()


PACKED = {"gzip": gzip.compress(GOOD), "deflate": zlib.compress(GOOD), "GZip": gzip.compress(GOOD)}


@pytest.mark.parametrize("encoding", PACKED)
def test_packed_bodies_are_unpacked(client: httpx.Client, encoding: str) -> None:
    response = client.post("/v1/analyze", content=PACKED[encoding], headers=JSON | {"content-encoding": encoding})
    assert response.json()["results"] == client.post("/v1/analyze", content=GOOD, headers=JSON).json()["results"]


DAMAGED = {
    "not packed": (GOOD, "gzip", 400, "the body is not gzip"),
    "packed otherwise": (PACKED["deflate"], "gzip", 400, "the body is not gzip"),
    "packed without a header": (deflated(GOOD, -15), "deflate", 400, "the body is not deflate"),
    "cut": (PACKED["gzip"][:-9], "gzip", 400, "ends too early"),
    "empty": (b"", "gzip", 400, "ends too early"),
    "followed by more": (PACKED["gzip"] + b"more", "gzip", 400, "goes on after its end"),
    "wrong checksum": (PACKED["gzip"][:-8] + b"12345678", "gzip", 400, "incorrect data check"),
    "a bomb": (gzip.compress(bytes(1 << 28)), "gzip", 413, f"longer than {LIMIT} bytes"),
    "a bomb in a bomb": (gzip.compress(gzip.compress(bytes(1 << 28))), "gzip", 413, f"longer than {LIMIT} bytes"),
    "twice": (gzip.compress(PACKED["gzip"]), "gzip, gzip", 415, "is gzip or deflate"),
    "brotli": (GOOD, "br", 415, "is gzip or deflate"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_packing_is_told(client: httpx.Client, case: str) -> None:
    body, encoding, status, complaint = DAMAGED[case]
    assert complaint in detail(client.post("/v1/analyze", content=body, headers=JSON | {"content-encoding": encoding}), status)


def test_bomb_is_never_unpacked() -> None:
    bomb = gzip.compress(bytes(1 << 28))
    tracemalloc.start()
    with pytest.raises(BodyTooLargeError):
        inflate(bomb, "gzip", LIMIT)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 * LIMIT


def test_whole_surrogate_pair_is_a_character(client: httpx.Client) -> None:
    response = client.post("/v1/tokenize", content=rb'{"input": "\ud83d\ude42"}', headers=JSON)
    assert response.json()["results"][0]["offsets"] == [[0, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonl", "multipart/form-data", ""]
)
def test_other_media_types_are_refused(client: httpx.Client, media_type: str) -> None:
    response = client.post("/v1/analyze", content=GOOD, headers={"content-type": media_type})
    assert "send it with Content-Type: application/json or application/x-safetensors" in detail(response, 415)


def test_body_without_a_media_type_is_refused(client: httpx.Client) -> None:
    request = client.build_request("POST", "/v1/analyze", content=GOOD)
    assert "content-type" not in request.headers
    assert "without one" in detail(client.send(request), 415)


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_may_be_spelled_otherwise(client: httpx.Client, media_type: str) -> None:
    assert client.post("/v1/analyze", content=GOOD, headers={"content-type": media_type}).status_code == 200


def test_body_of_exactly_the_limit_is_read(client: httpx.Client) -> None:
    assert client.post("/v1/analyze", content=GOOD.ljust(LIMIT), headers=JSON).status_code == 200


def test_declared_body_over_the_limit_is_refused_unread(client: httpx.Client) -> None:
    url = urlsplit(str(client.base_url))
    assert url.hostname is not None
    with socket.create_connection((url.hostname, url.port or 80), timeout=5) as connection:
        head = f"POST /v1/analyze HTTP/1.1\r\nHost: kqv\r\nContent-Type: application/json\r\nContent-Length: {LIMIT + 1}\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(1 << 16)  # though no byte of the body was ever sent
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer


def test_chunked_body_over_the_limit_is_refused(client: httpx.Client) -> None:
    chunks = (b" " * 10_000 for _ in range(LIMIT // 10_000 + 1))
    assert f"longer than {LIMIT} bytes" in detail(client.post("/v1/analyze", content=chunks, headers=JSON), 413)


def test_client_that_sends_far_too_much_can_read_why(client: httpx.Client) -> None:
    assert f"longer than {LIMIT} bytes" in detail(client.post("/v1/analyze", content=b" " * (20 * LIMIT), headers=JSON), 413)


def test_millions_of_errors_are_not_listed(client: httpx.Client) -> None:
    unknown = {f"{index:x}": 0 for index in range(10_000)}
    response = client.post("/v1/analyze", json=unknown | {"input": "a"})
    assert detail(response, 422).startswith("10000 fields are wrong")
    response = client.post("/v1/analyze", json={"input": ["a"] + [1] * 50_000})
    assert len(response.json()["errors"]) == 1


def test_client_that_goes_while_it_sends_is_nobodys_problem(client: httpx.Client) -> None:
    url = urlsplit(str(client.base_url))
    assert url.hostname is not None
    with socket.create_connection((url.hostname, url.port or 80), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/analyze HTTP/1.1\r\nHost: kqv\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
