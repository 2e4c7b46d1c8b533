"""Around every request: what is noted of it, what is refused before any route sees it, and an opaque answer where all else fails.

From the outside in: `Observe` gives it an id and tells how it went; CORS (starlette's); `Shield` answers what nobody else did;
`Bound` limits headers and bodies; `auth.Admit` asks for a key. All are plain ASGI: starlette's BaseHTTPMiddleware hides a client
that hangs up. While the queue is full, most requests don't come so far: `door` says no before.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection, Sequence
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    BodyTooLargeError,
    HeadersTooLargeError,
    OverloadedError,
    ServiceError,
    SlowBodyError,
    problem,
    to_service_error,
)
from service.http.stages import Stages
from service.settings import Settings

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""What a caller's X-Request-Id may be; anything else could forge a line in the log, and is replaced, as two of them are."""

METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT".split())
NO_ROUTE = "(no route)"

Header = tuple[bytes, bytes]

SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Headers of every answer that doesn't say otherwise itself."""

DATA_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
)
"""For pages: those of /docs start by a script of their own, and draw their icons from data."""
UNFRAMED = (b"x-frame-options", b"DENY")
"""What these policies say of frames, for browsers that don't read them; what has a policy of its own may be framed as that says."""


class Exchange:
    """One request and its answer, as they are told of when it is over."""

    def __init__(self, scope: Scope) -> None:
        given = header_of(scope, b"x-request-id")
        self.request_id = given if given and REQUEST_ID.fullmatch(given) else uuid4().hex
        self.started = time.monotonic()
        self.ended = self.started
        self.scope = scope
        self.stages = Stages()
        self.status: int | None = None
        """None where there was no answer."""
        self.request_bytes = 0
        self.response_bytes = 0
        self.is_cut = False
        """Whether the client hung up before its body was whole."""
        self.error: Exception | None = None
        """What came of it in place of an answer."""
        self.key: str | None = None
        """Name of the key that was shown."""
        self.at_the_end: list[Callable[[], object]] = []
        """What is to be done when it is over, however it ends."""

    @property
    def route(self) -> str:
        """The template of the path, never the path itself: what a client makes up belongs in no log and no metric."""
        return getattr(self.scope.get("route"), "path", NO_ROUTE)

    @property
    def method(self) -> str:
        """Likewise one of those that there are."""
        return self.scope["method"] if self.scope["method"] in METHODS else "OTHER"

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started


Observers = Sequence[Callable[[Exchange], None]]
"""They are told of every request when it is over."""


def begin(scope: Scope) -> Exchange:
    """What is known of a request from now on, and all who handle it can find."""
    exchange = Exchange(scope)
    scope.setdefault("state", {}).update(exchange=exchange, request_id=exchange.request_id, stages=exchange.stages)
    return exchange


def end(exchange: Exchange, observers: Observers) -> None:
    """It is over, however it went."""
    exchange.ended = time.monotonic()
    for undo in exchange.at_the_end:
        undo()
    for observer in observers:
        observer(exchange)
    exchange.scope["state"].clear()  # it holds the exchange, which holds it: only the garbage collector would free the two


def exchange_of(scope: Scope) -> Exchange:
    """What is known of a request."""
    exchange: Exchange = scope["state"]["exchange"]
    return exchange


def header_of(scope: Scope, name: bytes) -> str | None:
    """A header of a request; none where there are two, for then they say nothing. Decodes no others, as starlette's would."""
    values = [value for given, value in scope["headers"] if given == name]
    return values[0].decode("latin-1") if len(values) == 1 else None


class Observe:
    """Gives each request an id and an `Exchange`, and tells the observers how it went."""

    def __init__(self, app: ASGIApp, observers: Observers) -> None:
        self.app = app
        self.observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks it
            return
        exchange = begin(scope)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = complete(message.get("headers", ()), exchange.request_id)
                if scope["app"].state.service.draining:
                    message["headers"].append((b"connection", b"close"))  # or the next request might meet the end of it
            elif message["type"] == "http.response.body":
                exchange.response_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        finally:
            end(exchange, self.observers)
        let_go(exchange.error)


def let_go(error: BaseException | None) -> None:
    """Forget where an error came from, once it is answered: the calls that it came through have the body, and hold the error too.

    Only the garbage collector would free them, when it next looks, and by then there may be a hundred bodies of many MB.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def complete(headers: Collection[Header], request_id: str) -> list[Header]:
    """An answer's headers, with the id, and with what keeps a browser from doing more with the answer than it is meant for."""
    given = dict(headers)
    is_page = given.get(b"content-type", b"").startswith(b"text/html")
    policy = () if b"content-security-policy" in given else (PAGE_POLICY if is_page else DATA_POLICY, UNFRAMED)
    missing = [each for each in (*SECURITY, *policy) if each[0] not in given]
    return [*headers, (b"x-request-id", request_id.encode()), *missing]


class Shield:
    """Answers what fails outside the routes; of errors that nobody expected it says nothing but the id that the log has, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        exchange = exchange_of(scope)
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            exchange.error = told = to_service_error(error)
            if not isinstance(told, ServiceError):
                logger.exception("request %s failed", exchange.request_id)
            if exchange.status is not None:
                raise  # half an answer is out: only closing the connection tells the client
            await problem(told, scope)(scope, receive, send)


class Bound:
    """Refuses requests with too many headers, and bodies that are too long, or too slow, or too many at once."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.held_bytes = 0
        """Of all the bodies that are being read or worked on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        check_headers(scope["headers"], self.settings)
        body = Body(receive, self, exchange_of(scope))
        scope["state"]["hold"] = body.hold
        try:
            await self.app(scope, body.receive, send)
        finally:
            self.held_bytes -= body.held


def check_headers(headers: list[tuple[bytes, bytes]], settings: Settings) -> None:
    """Raise `HeadersTooLargeError` for too many or too long ones."""
    if len(headers) > settings.max_headers:
        raise HeadersTooLargeError(f"a request has at most {settings.max_headers} headers, not {len(headers)}")
    size = sum(len(name) + len(value) for name, value in headers)
    if size > settings.max_header_bytes:
        raise HeadersTooLargeError(f"a request's headers have at most {settings.max_header_bytes} bytes, not {size}")


class Body:
    """A body as it comes in."""

    def __init__(self, receive: Receive, bound: Bound, exchange: Exchange) -> None:
        self._receive = receive
        self._bound = bound
        self._settings = bound.settings
        self._deadline: float | None = None
        self._is_whole = False
        self.exchange = exchange
        self.held = 0
        """Bytes that are kept for it."""

    async def receive(self) -> Message:
        """The next part. Raises `BodyTooLargeError`, `SlowBodyError` or `OverloadedError` as soon as it is known."""
        if self._is_whole:
            return await self._receive()  # it only tells that the client has gone, which may be long
        if self._deadline is None:
            self._begin()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise SlowBodyError(self._settings.body_timeout_s) from None
        self._is_whole = not message.get("more_body", False)
        self.exchange.is_cut = message["type"] == "http.disconnect"
        size = len(message.get("body", b""))
        self.exchange.request_bytes += size
        if self.exchange.request_bytes > self._settings.max_body_bytes:
            raise BodyTooLargeError(self._settings.max_body_bytes)
        self.hold(size)
        return message

    def hold(self, size: int) -> None:
        """Note that so many bytes more are kept. Raises `OverloadedError` where all requests together would keep too many."""
        if self._bound.held_bytes + size > self._settings.max_bodies_bytes:
            raise OverloadedError("as many bytes of bodies as fit are here already", retry_after_s=1)
        self.held += size
        self._bound.held_bytes += size

    def _begin(self) -> None:
        """Set the time limit, and refuse what says itself that it is too long."""
        self._deadline = asyncio.get_running_loop().time() + self._settings.body_timeout_s
        declared = header_of(self.exchange.scope, b"content-length") or "0"
        if declared.isdecimal() and int(declared) > self._settings.max_body_bytes:
            raise BodyTooLargeError(self._settings.max_body_bytes)
