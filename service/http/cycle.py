"""One request and its answer on a connection: uvicorn's, but that the answer's head goes out with the beginning of its body.

That is one call of the kernel in place of two, and the client wakes up once.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from starlette.responses import Response
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

Part = bytes | memoryview

BODILESS = (204, 304)


class Cycle(RequestResponseCycle):
    """Sends a head and the parts of a body, in chunks where nobody knows how long it will be."""

    _head = b""
    """What is to go out before anything else."""
    _owed: int | None = None
    """Bytes of the body that are still to come, where their number was given."""

    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        event = cast(dict[str, Any], message)
        if event["type"] == "http.response.start" and not self.response_started:
            self._begin(event["status"], event.get("headers", ()))
            asyncio.get_running_loop().call_soon(self._write)  # before long, whether there is something of the body by then or not
        elif event["type"] == "http.response.body" and self.response_started and not self.response_complete:
            self._go_on(event.get("body", b""), is_last=not event.get("more_body", False))
        else:
            raise RuntimeError(f"{event['type']} was sent out of turn")

    def answer(self, response: Response) -> None:
        """Send a whole answer at once: for those who can't wait, where the connection takes more."""
        self._begin(response.status_code, response.raw_headers)
        self._go_on(response.body, is_last=True)

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Make the head."""
        self.response_started, self.waiting_for_100_continue = True, False
        lines = [STATUS_LINE[status]]
        for name, value in (*self.default_headers, *headers):
            if name == b"connection" and value == b"close":
                self.keep_alive = False
                continue
            if name == b"content-length":
                self._owed = int(value)
            lines.append(b"%b: %b\r\n" % (name, value))
        if self.scope["method"] == "HEAD" or status in BODILESS:
            self._owed = 0
        elif self._owed is None and self.scope["http_version"] != "1.0":
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        self._head = b"".join((*lines, b"\r\n"))
        if self._head.count(b"\n") != len(lines) + 1 or self._head.count(b"\r") != len(lines) + 1:
            raise RuntimeError("a header holds a line break")

    def _go_on(self, body: Part, *, is_last: bool) -> None:
        """Send a part of the body."""
        if self.scope["method"] == "HEAD":
            body = b""
        if self._owed is not None:
            self._owed -= len(body)
            if self._owed < 0 or (is_last and self._owed):
                raise RuntimeError("the body is not as long as its head says")
        self._write(chunk(body, is_last=is_last) if self.chunked_encoding else body)
        if is_last:
            self._end()

    def _write(self, body: Part = b"") -> None:
        head, self._head = self._head, b""
        if (head or body) and not self.disconnected:
            self.transport.write(b"".join((head, body)) if head else body)

    def _end(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def chunk(body: Part, *, is_last: bool) -> bytes:
    """A part of a body whose length nobody knows; one of no bytes would be the end."""
    framed = (b"%x\r\n" % len(body), body, b"\r\n") if body else ()
    return b"".join((*framed, b"0\r\n\r\n" if is_last else b""))
