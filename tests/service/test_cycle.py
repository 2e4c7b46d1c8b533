"""An answer on the wire: its head, and a body of a length that is known or not."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest
import uvicorn

from service.http.protocol import protocol_of
from service.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def exchange(parts: Sequence[bytes | float], request: str, *headers: tuple[bytes, bytes], status: int = 200) -> list[bytes]:
    """What a client reads, piece by piece, of an app that sends these parts, and waits for so many seconds between them."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for part in parts:
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    def read() -> list[bytes]:
        pieces = []
        with socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=10) as client:
            client.sendall(request.encode() + b"\r\nHost: kqv\r\nConnection: close\r\n\r\n")
            while piece := client.recv(1 << 16):
                pieces.append(piece)
        return pieces

    server = uvicorn.Server(
        uvicorn.Config(
            app, port=0, http=protocol_of(Settings()), log_config=None, date_header=False, server_header=False, lifespan="off"
        )
    )
    serving = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 -- uvicorn has no event for it
        await asyncio.sleep(0.001)
    try:
        return await asyncio.to_thread(read)
    finally:
        server.should_exit = True
        await serving


async def test_small_answer_comes_in_one_piece() -> None:
    [answer] = await exchange([b"four"], "GET / HTTP/1.1", (b"content-length", b"4"))
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nfour"


async def test_head_doesnt_wait_for_a_body_that_takes_its_time() -> None:
    first, *rest = await exchange([0.1, b"four"], "GET / HTTP/1.1", (b"content-length", b"4"))
    assert first.endswith(b"\r\n\r\n")
    assert b"".join(rest) == b"four"


async def test_body_of_unknown_length_comes_in_chunks() -> None:
    answer = b"".join(await exchange([b"one", b"", b"twelve bytes"], "GET / HTTP/1.1"))
    assert answer.endswith(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\none\r\nc\r\ntwelve bytes\r\n0\r\n\r\n")


async def test_body_of_unknown_length_ends_with_the_connection_where_there_are_no_chunks() -> None:
    answer = b"".join(await exchange([b"one", b"two"], "GET / HTTP/1.0"))
    assert answer == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nonetwo"


@pytest.mark.parametrize(("request_line", "status"), [("HEAD / HTTP/1.1", 200), ("GET / HTTP/1.1", 304)])
async def test_answer_that_has_no_body_is_a_head_alone(request_line: str, status: int) -> None:
    answer = b"".join(await exchange([b""], request_line, (b"content-length", b"4"), status=status))
    assert answer.endswith(b"content-length: 4\r\nconnection: close\r\n\r\n")


@pytest.mark.parametrize("length", [b"3", b"5"])
async def test_body_of_another_length_than_its_head_says_ends_the_connection(length: bytes) -> None:
    answer = b"".join(await exchange([b"four"], "GET / HTTP/1.1", (b"content-length", length)))
    assert not answer.endswith(b"four") or int(length) > 4


@pytest.mark.parametrize("value", [b"a\r\nx-forged: b", b"a\nb", b"a\rb"])
async def test_header_with_a_line_break_is_not_sent(value: bytes) -> None:
    assert await exchange([b"four"], "GET / HTTP/1.1", (b"x-given", value)) == []
