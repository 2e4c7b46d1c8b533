"""The two clients, which differ only in how they send and how they wait."""

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing, closing
from dataclasses import replace
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

import anyio
import httpx

from service.client import calls
from service.client.calls import Call, Wire, streamed
from service.client.errors import ClientError, DeadlineError
from service.client.events import AsyncTokenStream, Events, TokenStream
from service.client.exchange import Reply, Send, async_chunks_of, chunks_of
from service.client.results import Answer, Generated, Token
from service.client.retrying import Options, attempts

P = ParamSpec("P")
T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
ADDRESS = "http://127.0.0.1:8000"


class Method(Generic[P, T]):
    """A call as a method: of `Client` it gives the result, of `AsyncClient` something to await."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__
        self.__wrapped__ = build

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        return self if client is None else wraps(self._build)(lambda *args, **named: client.run(self._build(*args, **named)))


class StreamMethod(Generic[P]):
    """Likewise of a call whose answer comes token by token."""

    def __init__(self, build: Callable[P, Call[Answer[Generated]]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__
        self.__wrapped__ = build

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, TokenStream]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, AsyncTokenStream]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        return self if client is None else wraps(self._build)(lambda *args, **named: client.follow(self._build(*args, **named)))


class Calls(ABC, Generic[Http]):
    """What both clients can be asked, and how they are made.

    `api_key` is sent with every request. `deadline_s` is how long a call may take with all its attempts; None is no end. `retries`
    is how often one that failed, but may pass, is sent again. `wire` is how tensors travel: "safetensors", or "json" as base64; the
    numbers are the same. `http` is a client of httpx to send by, for proxies and certificates of your own; who made it closes it.
    """

    def __init__(
        self,
        base_url: str = ADDRESS,
        *,
        api_key: str | None = None,
        deadline_s: float | None = 60.0,
        retries: int = 4,
        wire: Wire = "safetensors",
        headers: dict[str, str] | None = None,
        http: Http | None = None,
    ) -> None:
        if httpx.URL(base_url).scheme not in ("http", "https"):
            raise ValueError(f"a server's address begins with http:// or https://, not {base_url!r}")
        self.options = Options(base_url.rstrip("/"), api_key, deadline_s, retries, wire, headers or {})
        self._http: Http = self._open() if http is None else http
        self._is_mine = http is None

    @abstractmethod
    def _open(self) -> Http:
        """What it sends by."""

    analyze = Method(calls.analyze)
    attend = Method(calls.attend)
    multi_head = Method(calls.multi_head)
    generate = Method(calls.generate)
    stream = StreamMethod(calls.generate)
    diagnostics = Method(calls.diagnostics)
    tokenize = Method(calls.tokenize)
    embeddings = Method(calls.embeddings)
    embed_token = Method(calls.embed_token)
    models = Method(calls.models)
    health = Method(calls.health)

    def with_options(self, **changes: Any) -> Self:
        """A client of the same connections with other options: `api_key`, `deadline_s`, `retries`, `wire`, `headers`."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), options=replace(self.options, **changes), _is_mine=False)
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options.base_url!r})"


class Client(Calls[httpx.Client]):
    """Asks a server. Threads may share it; close it when it is no longer needed, or use it as a context manager."""

    def run(self, call: Call[T]) -> T:
        """The call's result. Raises `ClientError`."""
        return call.result(self._ask(call))

    def follow(self, call: Call[Answer[Generated]]) -> TokenStream:
        """The tokens of its answer; it is sent when the first of them is asked for."""
        events = Events()
        return TokenStream(events, self._read(streamed(call), events))

    def widget(self, text: str, **attributes: str | int) -> Any:
        """The dashboard's views of a text, live in a notebook: attributes are those of `<kqv-attention>`, such as `model`, `layer`.

        The browser asks through this client: it needs no way to the server and no key. Raises `InputError` without `kqv[notebook]`.
        """
        from service.widget import answer, make_widget

        return make_widget(partial(answer, self.run), {"text": text} | {name: str(value) for name, value in attributes.items()})

    def _open(self) -> httpx.Client:
        return httpx.Client()

    def _ask(self, call: Call[Any]) -> Reply:
        asking = attempts(call, self.options, self._http.build_request)
        try:
            step = next(asking)
            while True:
                step = asking.send(self._take(step))
        except StopIteration as end:
            reply: Reply = end.value
            return reply

    def _take(self, step: Send | float) -> Reply | ClientError | None:
        if isinstance(step, float):
            time.sleep(step)
            return None
        try:
            response = self._http.send(step.request, stream=True)
            if step.keeps_open(response):
                return Reply(response, step.deadline)
            with closing(response):
                body = bytearray().join(chunks_of(response, step.deadline))
            return Reply(response, step.deadline, body)
        except (httpx.HTTPError, DeadlineError) as error:
            return step.deadline.failure(error)

    def _read(self, call: Call[Any], events: Events) -> Generator[Token, None, None]:
        events.reply = reply = self._ask(call)
        try:
            with closing(reply.response):
                for received in chunks_of(reply.response, reply.deadline):
                    yield from events.take(received)
        except httpx.HTTPError as error:
            raise reply.deadline.failure(error) from error
        events.end()

    def close(self) -> None:
        """Close the connections."""
        if self._is_mine:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(Calls[httpx.AsyncClient]):
    """Asks a server without holding up an event loop, of asyncio or of trio; every method gives something to await."""

    async def run(self, call: Call[T]) -> T:
        """The call's result. Raises `ClientError`."""
        return call.result(await self._ask(call))

    def follow(self, call: Call[Answer[Generated]]) -> AsyncTokenStream:
        """The tokens of its answer; it is sent when the first of them is asked for."""
        events = Events()
        return AsyncTokenStream(events, self._read(streamed(call), events))

    def _open(self) -> httpx.AsyncClient:
        return httpx.AsyncClient()

    async def _ask(self, call: Call[Any]) -> Reply:
        asking = attempts(call, self.options, self._http.build_request)
        try:
            step = next(asking)
            while True:
                step = asking.send(await self._take(step))
        except StopIteration as end:
            reply: Reply = end.value
            return reply

    async def _take(self, step: Send | float) -> Reply | ClientError | None:
        if isinstance(step, float):
            await anyio.sleep(step)
            return None
        try:
            with anyio.fail_after(step.deadline.left_s):
                response = await self._http.send(step.request, stream=True)
                if step.keeps_open(response):
                    return Reply(response, step.deadline)
                async with aclosing(response):
                    body = bytearray()
                    async for chunk in response.aiter_bytes():
                        body += chunk
            return Reply(response, step.deadline, body)
        except (httpx.HTTPError, DeadlineError, TimeoutError) as error:
            return step.deadline.failure(error)

    async def _read(self, call: Call[Any], events: Events) -> AsyncGenerator[Token, None]:
        events.reply = reply = await self._ask(call)
        try:
            async with aclosing(reply.response):
                async for received in async_chunks_of(reply.response, reply.deadline):
                    for token in events.take(received):
                        yield token
        except (httpx.HTTPError, TimeoutError) as error:
            raise reply.deadline.failure(error) from error
        events.end()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._is_mine:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
