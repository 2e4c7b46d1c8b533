"""Connections: nobody holds one for ever by sending slowly, and what is no HTTP is told so."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from serving import listening, make_app

import kqv

HEAD_S, BODY_S = 0.4, 0.3
GET = b"GET /livez HTTP/1.1\r\nHost: kqv\r\n\r\n"


@pytest.fixture(scope="module")
def server(model: kqv.Model) -> Iterator[httpx.Client]:
    settings = {"head_timeout_s": HEAD_S, "body_timeout_s": BODY_S, "max_body_bytes": 1000, "max_header_bytes": 4096}
    with listening(make_app(model, **settings)) as url, httpx.Client(base_url=url, timeout=10) as session:
        yield session


@contextmanager
def connected(server: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((server.base_url.host, server.base_url.port or 80), timeout=10) as connection:
        yield connection


def status_of_answer(connection: socket.socket) -> int:
    """Read one answer, and not more."""
    with connection.makefile("rb", buffering=0) as stream:
        lines = [stream.readline()]
        while lines[-1].strip():
            lines.append(stream.readline())
        [length] = [int(line.partition(b":")[2]) for line in lines if line.lower().startswith(b"content-length:")]
        while length:
            length -= len(stream.read(length))
    return int(lines[0].split()[1])


def seconds_until_closed(connection: socket.socket, drip: bytes = b"") -> float:
    """How long the server keeps the connection, while it is sent a little now and then."""
    started = time.monotonic()
    connection.settimeout(0.05)
    while time.monotonic() < started + 10:
        try:
            if not connection.recv(1 << 16):
                return time.monotonic() - started
            if drip:
                connection.sendall(drip)
        except TimeoutError:
            connection.sendall(drip)
        except OSError:
            return time.monotonic() - started
    raise AssertionError("the connection stays open for ever")


@pytest.mark.parametrize("sent", [b"", b"GET", GET[:-2], GET + b"GET"], ids=["nothing", "a word", "all but the end", "the next"])
def test_head_has_a_time(server: httpx.Client, sent: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(sent)
        assert HEAD_S / 2 < seconds_until_closed(connection) < 5


def test_head_that_drips_in_has_no_longer(server: httpx.Client) -> None:
    with connected(server) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nX-Long: ")
        assert HEAD_S / 2 < seconds_until_closed(connection, drip=b"x") < 5


def test_connection_that_rests_between_requests_is_kept(server: httpx.Client) -> None:
    with connected(server) as connection:
        for _ in range(2):
            connection.sendall(GET)
            assert status_of_answer(connection) == 200
            time.sleep(2 * HEAD_S)
        connection.sendall(GET)
        assert status_of_answer(connection) == 200


def test_connection_that_rests_for_long_is_closed(model: kqv.Model) -> None:
    """And requests put that off."""
    with listening(make_app(model, keep_alive_s=1)) as url, httpx.Client(base_url=url) as server, connected(server) as connection:
        for _ in range(3):
            time.sleep(0.6)
            connection.sendall(GET)
            assert status_of_answer(connection) == 200
        connection.settimeout(10)
        rests = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.9 < time.monotonic() - rests < 5


def test_rest_of_a_body_that_was_answered_has_a_time(server: httpx.Client) -> None:
    with connected(server) as connection:
        head = b"POST /v1/analyze HTTP/1.1\r\nHost: kqv\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head)
        assert status_of_answer(connection) == 413
        assert BODY_S / 2 < seconds_until_closed(connection, drip=b" ") < 5


def test_rest_of_a_body_that_comes_in_time_is_passed_over(server: httpx.Client) -> None:
    with connected(server) as connection:
        head = b"POST /v1/analyze HTTP/1.1\r\nHost: kqv\r\nContent-Type: application/json\r\nContent-Length: 2000\r\n\r\n"
        connection.sendall(head)
        assert status_of_answer(connection) == 413
        connection.sendall(b" " * 2000 + GET)
        assert status_of_answer(connection) == 200
        time.sleep(2 * BODY_S)
        connection.sendall(GET)
        assert status_of_answer(connection) == 200


NO_HTTP = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a method that there isn't": (b"LIVEZ /livez HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "another version": (b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "no version": (b"GET /livez\r\n\r\n", 400),
    "a header without a name": (b"GET /livez HTTP/1.1\r\n: x\r\n\r\n", 400),
    "two lengths": (b"POST /v1/analyze HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n{}", 400),
    "a length below zero": (b"POST /v1/analyze HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n{}", 400),
    "a long path": (b"GET /" + b"a" * 10_000, 431),
    "a long header": (b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 10_000, 431),
    "many headers": (b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 2000, 431),
}


OF_ONE_ANSWER = ("content-length", "date", "x-request-id")


def fields_of(head: bytes) -> dict[str, str]:
    """The headers of an answer, each of which it has once."""
    pairs = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:]]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("case", NO_HTTP)
def test_what_is_no_http_is_told_so(server: httpx.Client, case: str) -> None:
    sent, status = NO_HTTP[case]
    with connected(server) as connection:
        connection.sendall(sent)
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    headers, others = fields_of(head), server.get("/nowhere").headers
    assert headers.keys() == others.keys() | {"connection"}
    assert all(headers[name] == value for name, value in others.items() if name not in OF_ONE_ANSWER)
    document = json.loads(body)
    assert document["status"] == status
    assert document["request_id"].encode() in head
    assert server.get("/livez").status_code == 200


def test_head_that_never_ends_is_told_so(server: httpx.Client) -> None:
    with connected(server) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: kqv\r\nX-Long: " + b"a" * 2000)
        time.sleep(0.05)
        connection.sendall(b"a" * 3000)
        assert status_of_answer(connection) == 431


def test_head_as_long_as_it_may_be_is_read_behind_another_request(server: httpx.Client) -> None:
    with connected(server) as connection:
        head = GET[:-2] + b"X-Long: "
        connection.sendall(GET + head + b"a" * (4096 - len(head) - 4) + b"\r\n\r\n" + GET)
        assert [status_of_answer(connection) for _ in range(3)] == [200] * 3


def test_requests_far_ahead_of_their_answers_end_the_connection(server: httpx.Client) -> None:
    with connected(server) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(GET * 200)
        assert connection.makefile("rb").read().count(b"HTTP/1.1 200 ") < 200
    assert server.get("/livez").status_code == 200


def test_nonsense_after_a_request_is_told_so_after_its_answer(server: httpx.Client) -> None:
    with connected(server) as connection:
        connection.sendall(GET + b"nonsense\r\n\r\n")
        answers = connection.makefile("rb").read()
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert answers.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 400 " in answers


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    head = b"POST /v1/tokenize HTTP/1.1\r\nHost: kqv\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    return head + b"\r\n" + body + b"0\r\n"


def test_trailers_are_passed_over(server: httpx.Client) -> None:
    with connected(server) as connection:
        connection.sendall(chunked(b'{"input"', b': "the cat"}') + b"Content-Type: text/plain\r\n\r\n" + GET)
        assert [status_of_answer(connection) for _ in range(2)] == [200, 200]


def test_trailers_without_end_are_not_read(server: httpx.Client) -> None:
    with connected(server) as connection:
        connection.sendall(chunked(b'{"input": "the cat"}') + b"X-Long: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(10):
                connection.sendall(b"a" * 1000)
                time.sleep(0.01)
            assert status_of_answer(connection) == 431


def test_body_that_breaks_off_in_its_chunks_ends_the_connection(server: httpx.Client) -> None:
    with connected(server) as connection:
        head = b"POST /v1/analyze HTTP/1.1\r\nHost: kqv\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b'5\r\n{"inp\r\nnonsense\r\n')
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
    assert server.get("/livez").status_code == 200


def test_websockets_are_not_spoken(server: httpx.Client) -> None:
    with connected(server) as connection:
        upgrade = b"GET /livez HTTP/1.1\r\nHost: kqv\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        connection.sendall(upgrade + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        assert status_of_answer(connection) == 200
        connection.sendall(GET)
        assert status_of_answer(connection) == 200


@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["at once", "after a while"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_body_behind_an_upgrade_that_is_not_followed_is_read(server: httpx.Client, pause: float, framing: str) -> None:
    """curl and Java's client ask for HTTP/2 so, with their first request."""
    body, upgrade = b'{"input": "the cat"}', b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    head, _, sent = chunked(body).partition(b"\r\n\r\n")
    head, sent = head + b"\r\n" + upgrade + b"\r\n", sent + b"\r\n"
    if framing == "length":
        head, sent = head.replace(b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(body)), body
    with connected(server) as connection:
        connection.sendall(head)
        time.sleep(pause)
        connection.sendall(sent[:7])
        time.sleep(pause)
        connection.sendall(sent[7:] + GET)
        assert [status_of_answer(connection) for _ in range(2)] == [200, 200]
