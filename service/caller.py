"""Who waits for an answer, and for how long."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from service.batching import Batcher, Done
from service.errors import ClientGoneError, DeadlineError, OverloadedError
from service.queue import Work
from service.reading import Asked
from service.stages import Stages

T = TypeVar("T")


class Answers:
    """The answers under way, from when a request is let in until its answer has been sent: memory has room for only so much."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def hold(self, size: int) -> None:
        """Make room for one. Raises `OverloadedError`, but never where there are no others: no answer is too large for ever."""
        if self.held_bytes and self.held_bytes + size > self.limit_bytes:
            raise OverloadedError(f"answers of {self.held_bytes} bytes are under way already", retry_after_s=1)
        self.held_bytes += size

    def let_go(self, size: int) -> None:
        """It has been sent, or nobody wants it."""
        self.held_bytes -= size


@dataclass
class Caller:
    """The one who sent a request."""

    request: Request
    timeout_ms: int
    deadline: float
    """On the event loop's clock."""
    batcher: Batcher
    answers: Answers
    held_bytes: int = 0

    def hold(self, answer_bytes: int) -> None:
        """Make room for the answer. Raises `OverloadedError`."""
        self.answers.hold(answer_bytes)
        self.held_bytes += answer_bytes

    def leave(self) -> None:
        """The answer has been sent, or nobody wants it."""
        self.answers.let_go(self.held_bytes)
        self.held_bytes = 0

    async def run(self, work: Work, asked: Asked[Any]) -> list[Done]:
        """What becomes of the jobs. Raises `OverloadedError` where they are not let in, and as `wait_for` does."""
        self.hold(asked.answer_bytes)
        return await self.wait_for(self.batcher.submit(work, asked.jobs, asked.sizes))

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
    def watched(self) -> Iterator[asyncio.Task[None]]:
        """A task that ends when the client has closed the connection."""
        gone = asyncio.create_task(self._gone())
        try:
            yield gone
        finally:
            gone.cancel()

    async def wait_for_any(self, futures: Iterable[asyncio.Future[T]], gone: asyncio.Task[None]) -> set[asyncio.Future[T]]:
        """Those that are done, as soon as one is. Raises as `wait_for` does."""
        either: set[asyncio.Future[Any]] = {*futures, gone}
        left = self.deadline - asyncio.get_running_loop().time()
        done, _ = await asyncio.wait(either, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise DeadlineError(self.timeout_ms)
        if done == {gone}:
            raise ClientGoneError("the client closed the connection")
        return done - {gone}

    async def _gone(self) -> None:
        """Returns when the client has closed the connection."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
