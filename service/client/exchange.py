"""A request on its way, what came of it, and how long both may take."""

from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from socket import SHUT_RDWR, socket
from threading import Timer
from time import monotonic
from typing import Any

import anyio
import httpx

from service.client.errors import ClientError, DeadlineError, UnreachableError


@dataclass(frozen=True)
class Deadline:
    """When a call's time is over."""

    seconds: float
    """How long it was, for what is told of it; infinite for no end."""
    ends: float
    """On the clock of `monotonic`."""

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """From now on."""
        length = inf if seconds is None else seconds
        return cls(length, monotonic() + length)

    @property
    def left_s(self) -> float:
        """What is left of it. Raises `DeadlineError` where that is nothing."""
        left = self.ends - monotonic()
        if left <= 0:
            raise self.error()
        return left

    def in_time(self, received: bytes) -> bytes:
        """What was received. Raises `DeadlineError` where it came too late."""
        assert self.left_s > 0
        return received

    def error(self) -> DeadlineError:
        """It is over, and there was no answer."""
        return DeadlineError(f"no answer within {self.seconds:g} s; ask for less, or set deadline_s higher")

    def failure(self, error: httpx.HTTPError | DeadlineError | TimeoutError) -> ClientError:
        """What a failure of the connection is to the caller."""
        if isinstance(error, DeadlineError):
            return error
        is_late = isinstance(error, TimeoutError | httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
        if is_late or monotonic() >= self.ends:
            return self.error()
        return UnreachableError(f"the server can't be reached, or went away: {str(error) or type(error).__name__}")


class Timeouts(dict[str, float | None]):
    """httpx's time-outs of a request: for each step, what is left of the deadline when it begins."""

    def __init__(self, deadline: Deadline, connect_s: float) -> None:
        self._deadline = deadline
        super().__init__(connect=connect_s, read=inf, write=inf, pool=inf)

    def get(self, step: str, default: Any = None) -> float | None:
        seconds = min(super().get(step) or inf, max(self._deadline.ends - monotonic(), LEAST_S))
        return None if seconds == inf else seconds


LEAST_S = 0.001
"""Of a time-out: one of 0 would be none at all to a socket."""


def chunks_of(response: httpx.Response, deadline: Deadline) -> Generator[bytes, None, None]:
    """The body as it comes. Raises `DeadlineError`, also while a server that has begun its answer goes silent.

    A time-out of httpx begins anew with each read. So a timer ends the connection of an answer that needs more than one.
    """
    timer: Timer | None = None
    try:
        for chunk in response.iter_bytes():
            yield deadline.in_time(chunk)
            if timer is None and deadline.ends < inf and not is_whole(response):
                timer = Timer(deadline.left_s, hang_up, [response])
                timer.daemon = True
                timer.start()
    finally:
        if timer is not None:
            timer.cancel()


async def async_chunks_of(response: httpx.Response, deadline: Deadline) -> AsyncGenerator[bytes, None]:
    """Likewise, for an event loop."""
    chunks = response.aiter_bytes()
    while True:
        with anyio.fail_after(deadline.left_s):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield chunk


def is_whole(response: httpx.Response) -> bool:
    """Whether all that the server announced has come."""
    return response.num_bytes_downloaded == int(response.headers.get("content-length", -1))


def hang_up(response: httpx.Response) -> None:
    """End its connection, whoever is reading from it; nothing where it has none of its own, as in tests of an app."""
    stream = response.extensions.get("network_stream")
    connection = stream and stream.get_extra_info("socket")
    if isinstance(connection, socket):
        with suppress(OSError):
            socket.shutdown(connection, SHUT_RDWR)  # of TLS too, whose own shutdown isn't for two threads


@dataclass(frozen=True)
class Send:
    """Wanted: an answer to this request."""

    request: httpx.Request
    deadline: Deadline
    streams: bool

    def keeps_open(self, response: httpx.Response) -> bool:
        """Whether the answer is read later, as it comes."""
        return self.streams and response.is_success


@dataclass(frozen=True)
class Reply:
    """A server's answer. The body is not there yet where it is a stream."""

    response: httpx.Response
    deadline: Deadline
    body: bytes | bytearray = b""

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def header(self) -> httpx.Headers:
        return self.response.headers

    @property
    def request_id(self) -> str | None:
        """By which the server's log has it."""
        return self.response.headers.get("x-request-id")
