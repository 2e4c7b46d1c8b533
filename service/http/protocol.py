"""HTTP/1.1 by httptools, as uvicorn speaks it, with bounds that uvicorn doesn't set, before a request is known to any middleware.

httptools reads heads without end, and requests however far they are ahead of their answers; here a head has only so many bytes and
so much time, and only so many requests may be ahead. It takes what follows an `Upgrade` for another protocol, of which there is
none here.
"""

import math
from asyncio import AbstractEventLoop, Event, Future, TimerHandle, Transport
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, cast
from urllib.parse import unquote
from uuid import uuid4

import httptools
import orjson
from starlette.responses import Response
from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.errors import document
from service.http.cycle import Cycle
from service.http.middleware import complete
from service.settings import Settings

DETAILS = {
    400: "this is not HTTP as it should be",
    431: "a request line and its headers have at most {max_head_bytes} bytes together",
}

VERSIONS = ("1.0", "1.1")
FRAMING = (b"content-length", b"transfer-encoding")
"""The headers that say where a body ends."""

PIECE = 1 << 16
"""Bytes that are looked at before a head is known to be too long; one that is whole within them is refused by the middleware."""

MOST_AHEAD = 32
"""Requests that a client may send before its turn: all of them are kept."""


Refuse = Callable[[Scope], Response | None]
"""Has an answer for requests that the app needn't see."""


def let_in(scope: Scope) -> None:
    """Refuse nobody."""


class Reading(Enum):
    """What of a request is awaited."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()


class UnreadableError(Exception):
    """This is no HTTP; or there is no end to it."""

    def __init__(self, status: int = 400) -> None:
        super().__init__(status)
        self.status = status


class Protocol(HttpToolsProtocol):
    """Doesn't wait for ever for a head, or for the rest of a body that was answered already; tells what is no HTTP so."""

    refuse: Refuse
    head_timeout_s: float
    body_timeout_s: float
    max_head_bytes: int

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._gone: Future[None] = self.loop.create_future()
        """Done when the connection is closed."""
        self._asked: Cycle | None = None
        """The last request, as soon as its head is here."""
        self._reading = Reading.NOTHING
        self._unheard_bytes = 0
        """That came since the head began, or since the last part of the body."""
        self._is_known = False
        """Whether a parser is told of a head that another one has read."""
        self._refusal: int | None = None
        """What is to be said once the request before has its answer."""
        self._timer: TimerHandle | None = None
        """Rings when the client's time may be over: not set anew for every request, of which most are over long before."""
        self._patience: float | None = None
        self._until = math.inf
        """When its time is over, on the loop's clock."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)
        self._gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            while data and self._refusal is None:
                data = self._feed(data)
        except UnreadableError as error:
            self._refuse(error.status)
        except httptools.HttpParserError:
            self._refuse(400)
        self._watch()

    def _feed(self, data: bytes) -> bytes:
        """Have the parser read, of a head not much more than it may have; returns what it hasn't read."""
        if self._reading is Reading.NOTHING:
            self._begin_head()
        most = len(data) if self._reading is Reading.BODY else PIECE
        piece, rest = data[:most], data[most:]
        self._unheard_bytes += len(piece)  # unless the parser calls us, and we set it to 0 meanwhile
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            rest = piece[upgrade.args[0] :] + rest
            self._pass_over_upgrade()
        if self._unheard_bytes >= self.max_head_bytes:
            raise UnreadableError(431)
        return rest

    def _begin_head(self) -> None:
        self._reading, self._unheard_bytes = Reading.HEAD, 0

    def _pass_over_upgrade(self) -> None:
        """Go on as if nobody had asked for another protocol: with the request's body, if it has one, or with the next request."""
        self.parser = httptools.HttpRequestParser(self)
        framing = [b"%b: %b\r\n" % header for header in self.headers if header[0] in FRAMING]
        if framing:
            self._is_known = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
            self._is_known = False

    def on_message_begin(self) -> None:
        if self._is_known:
            return
        if len(self.pipeline) >= MOST_AHEAD:
            raise UnreadableError
        if self._reading is not Reading.HEAD:
            self._begin_head()
        super().on_message_begin()
        self.scope["state"]["gone"] = self._gone

    def on_url(self, url: bytes) -> None:
        if not self._is_known:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is Reading.HEAD:  # else it is told again, or stands behind the body and is of no account
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._reading, self._unheard_bytes = Reading.BODY, 0
        if self._is_known:
            return
        self._check_head()
        self._complete_scope()
        is_its_turn = self._is_over
        self.cycle = self._asked = cycle = self._make_cycle()
        if not is_its_turn:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        elif not self.flow.write_paused and (refusal := self.refuse(cast(Scope, self.scope))) is not None:
            cycle.answer(refusal)
        else:
            self._start_asgi_task(cycle, self.app)

    @property
    def _is_over(self) -> bool:
        """Whether nothing waits for its answer."""
        return self._asked is None or self._asked.response_complete

    def _check_head(self) -> None:
        """Raise `UnreadableError` for another version, and for no host or two, of which a proxy may have looked at the other."""
        version, hosts = self.parser.get_http_version(), sum(name == b"host" for name, _ in self.headers)
        if version not in VERSIONS or hosts > 1 or (version == "1.1" and not hosts):
            raise UnreadableError

    def _complete_scope(self) -> None:
        raw_path, _, query = self.url.partition(b"?")
        path = raw_path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = self.parser.get_http_version()
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = raw_path
        self.scope["query_string"] = query

    def _make_cycle(self) -> Cycle:
        return Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )

    def on_body(self, body: bytes) -> None:
        self._unheard_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and any(name in FRAMING for name, _ in self.headers):
            return  # the parser takes the body for something else
        self._reading, self._unheard_bytes = Reading.NOTHING, 0
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._answer(self._refusal)
        self._patience = None
        self._watch()

    def _refuse(self, status: int) -> None:
        """Say so in the place of an answer, or after the one that is awaited still; where half of it is out, say nothing."""
        self.logger.warning("Invalid HTTP request received.")
        if not self.pipeline and not self._is_over and not self.cycle.more_body:
            self._refusal = status
        elif not self.pipeline and (self._is_over or not self.cycle.response_started):
            self._answer(status)
        else:
            self.transport.close()

    def _answer(self, status: int) -> None:
        """Send a problem document, and nothing after it."""
        request_id = uuid4().hex
        detail = DETAILS[status].format(max_head_bytes=self.max_head_bytes)
        body = orjson.dumps(document(status, detail) | {"request_id": request_id})
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in complete(headers, request_id))
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], lines, body))
        self.transport.close()
        if self._asked is not None:
            self._asked.disconnected = True
            self._asked.message_event.set()

    def _watch(self) -> None:
        """Begin to count where it is the client's turn, and stop where it isn't."""
        patience = self._owed()
        if patience == self._patience:
            return
        self._patience = patience
        self._until = math.inf if patience is None else self.loop.time() + patience
        if self._timer is not None and self._timer.when() > self._until:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and patience is not None:
            self._timer = self.loop.call_at(self._until, self._ring)

    def _ring(self) -> None:
        """Close the connection if the client's time is over by now."""
        self._timer = None
        if self._until == math.inf:
            return
        if self.loop.time() < self._until:
            self._timer = self.loop.call_at(self._until, self._ring)
        elif self._is_idle:
            self.transport.close()
        else:
            self.transport.abort()

    @property
    def _is_idle(self) -> bool:
        """Whether the client has asked something and has all of it, and asks no more as yet."""
        return self._asked is not None and self._is_over and self._reading is Reading.NOTHING

    def _owed(self) -> float | None:
        """How long the client may take for what it is at; None while it is our turn."""
        if not self._is_over:
            return None  # for a body that isn't answered yet, the app has a limit of its own
        if self._is_idle:
            return self.timeout_keep_alive
        return self.body_timeout_s if self._reading is Reading.BODY else self.head_timeout_s


def protocol_of(settings: Settings, refuse: Refuse = let_in) -> type[Protocol]:
    """The protocol with the settings' bounds, and with one who refuses; uvicorn makes one a connection."""
    bounds = {
        "refuse": staticmethod(refuse),
        "head_timeout_s": settings.head_timeout_s,
        "body_timeout_s": settings.body_timeout_s,
        "max_head_bytes": settings.max_header_bytes,
    }
    return type("BoundProtocol", (Protocol,), bounds)
