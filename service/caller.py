"""Who waits for an answer, and for how long."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import ClientGoneError, DeadlineError
from service.stages import Stages

T = TypeVar("T")


@dataclass(frozen=True)
class Caller:
    """The one who sent a request."""

    request: Request
    timeout_ms: int
    deadline: float
    """On the event loop's clock."""

    @property
    def stages(self) -> Stages:
        """What becomes of the request."""
        stages: Stages = self.request.state.stages
        return stages

    async def wait_for(self, futures: Sequence[asyncio.Future[T]]) -> list[T]:
        """All the results, in order; when one fails, or the caller stops waiting, the others are cancelled.

        Raises `DeadlineError` when the time is over, `ClientGoneError` when the connection is.
        """
        answer = asyncio.gather(*futures)
        try:
            with self.watched() as gone:
                await self.wait_for_any([answer], gone)
            return answer.result()
        finally:
            for future in futures:
                future.cancel()

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
