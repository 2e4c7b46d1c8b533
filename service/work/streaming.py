"""Server-sent events: a text as it is written."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError, explain, to_service_error
from service.wire.encoding import Form, Part, attention_fields, encode, present
from service.work.generating import Written

NO_BUFFERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""So that a proxy sends each event on as it comes."""

logger = logging.getLogger(__name__)

UNFINISHED_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What the first bytes of a character are decoded to while the others are missing."""


class EventStream(StreamingResponse):
    """Sends the events; calls `at_the_end` whether or not they could all be sent."""

    def __init__(self, events: AsyncIterator[bytes], at_the_end: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=NO_BUFFERS)
        self._at_the_end = at_the_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._at_the_end()


def event(name: str, *data: Part) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return b"".join([b"event: ", name.encode(), b"\ndata: ", *data, b"\n\n"])


async def with_error(events: AsyncIterator[bytes], request_id: str) -> AsyncIterator[bytes]:
    """The events; where they fail midway, the last one is the problem, for the status has been sent long ago."""
    try:
        async for each in events:
            yield each
    except Exception as error:
        told = to_service_error(error)
        if not isinstance(told, ServiceError):
            logger.exception("request %s failed", request_id)
        yield event("error", encode(explain(told, request_id)[0]))


def token_event(index: int, step: Written, token: str | None, piece: str | None, form: Form) -> bytes:
    """A new token. Fields that have no value are left out."""
    fields: dict[str, Any] = {"index": index, "token_id": step.token_id, "token": token, "text": piece}
    return event("token", *form.encode(present(fields | {"attention": attention_fields(step.attention)})))


class Pieces:
    """A text that grows, in pieces that need not be taken back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._sent = 0

    def take(self, text: str, *, is_whole: bool) -> str:
        """What is certain of the text by now and was not yet taken."""
        certain = len(text) if is_whole else certain_length(text, self._stops)
        piece = text[self._sent : certain]
        self._sent = max(self._sent, certain)
        return piece


def certain_length(text: str, stops: Sequence[str]) -> int:
    """How much of a text stays, whatever follows: not the bytes of an unfinished character, nor what may begin a stop text.

    >>> certain_length("to be or", ["or not"])
    6
    """
    whole = text.rstrip(UNFINISHED_CHARACTER)
    sizes = (size for stop in stops for size in range(1, min(len(stop), len(whole) + 1)) if whole.endswith(stop[:size]))
    return len(whole) - max(sizes, default=0)
