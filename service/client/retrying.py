"""How a call goes on until it has its answer: one generator for both clients, which asks them to send and to pause."""

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count
from math import inf
from time import monotonic
from typing import Any

import httpx

from service.client.calls import Call, Wire
from service.client.errors import ClientError, error_of
from service.client.exchange import Deadline, Reply, Send, Timeouts

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0
"""Between two attempts: twice as long each time, and at random, so that many clients don't come back together."""
LONGEST_RETRY_AFTER_S = 60.0
"""A server that wants more than this is not waited for."""
CONNECT_S = 5.0
LONGEST_MS = 86_400_000
"""What X-Request-Timeout-Ms may say."""


@dataclass(frozen=True)
class Options:
    """How a client asks."""

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    deadline_s: float | None = 60.0
    """How long a call may take, with all its attempts and pauses; the server is told what is left of it."""
    retries: int = 4
    """Further attempts after one that may pass: no connection, or a status that says to come back later."""
    wire: Wire = "safetensors"
    """How tensors travel: in files, or in JSON as base64. The numbers are the same."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further ones of every request."""


Attempts = Generator[Send | float, Reply | ClientError | None, Reply]
"""Yields what to send, and seconds to pause; gets what became of it; returns the answer."""
BuildRequest = Callable[..., httpx.Request]


def attempts(call: Call[Any], options: Options, build: BuildRequest) -> Attempts:
    """Send, and send again while that may help and there is time. Raises `ClientError`."""
    deadline = Deadline.after(options.deadline_s)
    headers, body = call.message(options.wire)
    for attempt in count():
        reply = yield Send(request_of(call, options, build, headers, body, deadline), deadline, call.streams)
        error = failure(reply, call)
        if error is None:
            break
        pause = pause_after(error, attempt, options.retries)
        if pause is None or monotonic() + pause >= deadline.ends:
            raise error
        yield pause
    assert isinstance(reply, Reply)
    return reply


def failure(reply: Reply | ClientError | None, call: Call[Any]) -> ClientError | None:
    """What went wrong, if anything."""
    if not isinstance(reply, Reply):
        return reply
    return None if reply.status in call.expected else error_of(reply.status, reply.header, reply.body)


def request_of(
    call: Call[Any], options: Options, build: BuildRequest, headers: dict[str, str], body: bytes | None, deadline: Deadline
) -> httpx.Request:
    """The request, which tells the server how long it has."""
    told, left_s = headers | options.headers, deadline.left_s
    if options.api_key:
        told["authorization"] = f"Bearer {options.api_key}"
    if left_s < inf:
        told["x-request-timeout-ms"] = str(min(LONGEST_MS, max(1, int(left_s * 1000))))
    url = options.base_url + call.path
    return build(
        "GET" if body is None else "POST", url, headers=told, content=body, extensions={"timeout": Timeouts(deadline, CONNECT_S)}
    )


def pause_after(error: ClientError, attempt: int, retries: int) -> float | None:
    """Seconds until another attempt, never less than the server asks for; None where there should be none."""
    asked = error.retry_after_s or 0.0
    if not error.may_pass or attempt >= retries or asked > LONGEST_RETRY_AFTER_S:
        return None
    pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt)
    return max(pause * random.uniform(0.5, 1), asked * random.uniform(1, 1.1))
