"""A text that is being written: server-sent events, and the iterators that give them token by token."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, Self

import orjson

from service.client.calls import read_answer
from service.client.errors import UnreachableError, error_told, unexpected
from service.client.exchange import Reply
from service.client.results import Answer, Generated, Token, read_generated, read_token
from service.client.tensors import with_arrays


class Events:
    """Makes tokens, and at last the answer, of bytes as they come."""

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.answer: Answer[Generated] | None = None
        """The whole of it, once it is there."""
        self._rest = b""

    def take(self, received: bytes) -> Iterator[Token]:
        """The tokens that are whole now. Raises `ClientError` where the server gave up."""
        *whole, self._rest = (self._rest + received).split(b"\n\n")
        for each in whole:
            yield from self._read(*parse(each))

    def end(self) -> None:
        """There is no more. Raises `UnreachableError` where there should be."""
        if self.answer is None:
            raise UnreachableError("the server went away before the text was whole; the tokens so far are all that came of it")

    def _read(self, name: str, data: bytes) -> Iterator[Token]:
        try:
            content: Any = with_arrays(orjson.loads(data))
            if name == "error":
                raise error_told(content, content["status"], {})
            if name == "token":
                yield read_token(content)
            elif name == "done":
                assert self.reply is not None  # or there would be no bytes
                self.answer = read_answer(read_generated, content, self.reply)
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise unexpected(200, "an event that this client can't read") from error


def parse(event: bytes) -> tuple[str, bytes]:
    """An event's name and data. Lines end with a line feed alone: a text may hold all other ends of lines.

    >>> parse(b'event: token\\ndata: {}')
    ('token', b'{}')
    """
    fields = [line.partition(b": ") for line in event.split(b"\n")]
    name = next((value.decode() for field, _, value in fields if field == b"event"), "message")
    return name, b"\n".join(value for field, _, value in fields if field == b"data")


class Ended:
    """The answer that a stream comes to."""

    def __init__(self, events: Events) -> None:
        self._events = events

    @property
    def answer(self) -> Answer[Generated]:
        """The texts, as without a stream. Raises `RuntimeError` before the last token."""
        if self._events.answer is None:
            raise RuntimeError("the answer is there when the last token has been read")
        return self._events.answer


class TokenStream(Ended, Iterator[Token]):
    """Tokens as they come; `answer` afterwards. To close it before the end, or to leave its block, stops the server's work."""

    def __init__(self, events: Events, tokens: Generator[Token, None, None]) -> None:
        super().__init__(events)
        self._tokens = tokens

    def __next__(self) -> Token:
        return next(self._tokens)

    def close(self) -> None:
        """Stop."""
        self._tokens.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncTokenStream(Ended, AsyncIterator[Token]):
    """Likewise, of `AsyncClient`."""

    def __init__(self, events: Events, tokens: AsyncGenerator[Token, None]) -> None:
        super().__init__(events)
        self._tokens = tokens

    async def __anext__(self) -> Token:
        return await anext(self._tokens)

    async def aclose(self) -> None:
        """Stop."""
        await self._tokens.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
