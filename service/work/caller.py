"""Who waits for an answer, and for how long."""

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request

from service.batching.batcher import Done
from service.batching.queue import Work
from service.errors import ClientGoneError, DeadlineError, FieldError, InvalidError
from service.http.stages import Stages
from service.state import Service
from service.work.reading import Asked

T = TypeVar("T")

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
LONGEST_MS = 86_400_000
TIMEOUT = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "description": "How long the caller will wait.",
    "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_MS},
}
"""The header, as OpenAPI has it."""


def read_timeout_ms(given: str | None) -> int | None:
    """What the header says. Raises `InvalidError` for what is no time."""
    if given is None:
        return None
    if not re.fullmatch("[0-9]{1,8}", given) or not 1 <= int(given) <= LONGEST_MS:
        message = f"this is a whole number of milliseconds from 1 to {LONGEST_MS}, not {given[:64]!r}"
        raise InvalidError([FieldError(("header", TIMEOUT_HEADER.lower()), message)])
    return int(given)


@dataclass
class Caller:
    """The one who sent a request."""

    request: Request
    service: Service
    """Whom it asks."""
    timeout_ms: int
    deadline: float
    """On the event loop's clock."""
    timeout_setting: str = TIMEOUT_HEADER
    """What made the time no longer than it is."""

    def hold(self, answer_bytes: int) -> None:
        """Make room for the answer, until it has been sent or nobody wants it. Raises `OverloadedError`."""
        answers = self.service.answers
        answers.hold(answer_bytes)
        self.request.state.exchange.at_the_end.append(partial(answers.let_go, answer_bytes))

    async def run(self, work: Work, asked: Asked[Any]) -> list[Done]:
        """What becomes of the jobs. Raises `OverloadedError` where they are not let in, and as `wait_for` does."""
        self.hold(asked.answer_bytes)
        return await self.wait_for(self.service.batcher.submit(work, asked.jobs, asked.sizes))

    @property
    def stages(self) -> Stages:
        """What becomes of the request."""
        stages: Stages = self.request.state.stages
        return stages

    async def wait_for(self, futures: Sequence[asyncio.Future[T]]) -> list[T]:
        """All the results, in order; when one fails, or the caller stops waiting, the others are cancelled.

        Raises `DeadlineError` when the time is over, `ClientGoneError` when the connection is.
        """
        waiting = set(futures)
        try:
            with self.watched() as gone:
                while waiting:
                    done = await self.wait_for_any(waiting, gone)
                    waiting -= done
                    for future in done:
                        future.result()
            return [future.result() for future in futures]
        finally:
            for future in futures:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # asked for, so that asyncio doesn't complain that nobody did

    @contextmanager
    def watched(self) -> Iterator[asyncio.Future[None]]:
        """A future that is done when the client has closed the connection: its own, or where the server has none, a task."""
        gone: asyncio.Future[None] | None = self.request.scope["state"].get("gone")
        if gone is not None:
            yield gone
            return
        watching = asyncio.create_task(self._gone())
        try:
            yield watching
        finally:
            watching.cancel()

    async def wait_for_any(self, futures: Iterable[asyncio.Future[T]], gone: asyncio.Future[None]) -> set[asyncio.Future[T]]:
        """Those that are done, as soon as one is. Raises as `wait_for` does."""
        either: set[asyncio.Future[Any]] = {*futures, gone}
        left = self.deadline - asyncio.get_running_loop().time()
        done, _ = await asyncio.wait(either, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise DeadlineError(self.timeout_ms, self.timeout_setting)
        if done == {gone}:
            raise ClientGoneError("the client closed the connection")
        return done - {gone}

    async def _gone(self) -> None:
        """Returns when the client has closed the connection."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
