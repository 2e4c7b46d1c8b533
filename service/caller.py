"""Who waits for an answer, and for how long."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import ClientGoneError, DeadlineError

T = TypeVar("T")


@dataclass(frozen=True)
class Caller:
    """The one who sent a request."""

    request: Request
    timeout_ms: int
    deadline: float
    """On the event loop's clock."""

    async def wait_for(self, futures: Sequence[asyncio.Future[T]]) -> list[T]:
        """All the results, in order; when one fails, or the caller stops waiting, the others are cancelled.

        Raises `DeadlineError` when the time is over, `ClientGoneError` when the connection is.
        """
        answer = asyncio.gather(*futures)
        gone = asyncio.create_task(self._gone())
        either: list[asyncio.Future[Any]] = [answer, gone]
        try:
            async with asyncio.timeout_at(self.deadline):
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientGoneError("the client closed the connection")
            return answer.result()
        except TimeoutError:
            raise DeadlineError(self.timeout_ms) from None
        finally:
            gone.cancel()
            for future in futures:
                future.cancel()

    async def _gone(self) -> None:
        """Returns when the client has closed the connection."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
