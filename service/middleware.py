"""Around every request: its id, its line in the log, and an opaque answer where something unexpected happens."""

import logging
import re
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import problem

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""What a caller's X-Request-Id may be; anything else could forge a line in the log, and is replaced, as two of them are."""


class RequestMiddleware:
    """Gives each request an id, logs it in one line, and answers 500 for errors that nobody expected.

    Nothing of the error reaches the client but the id, under which the log has the traceback.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Exchange(scope, send).run(self.app, receive)
        else:
            await self.app(scope, receive, send)


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).getlist("x-request-id")
        self.request_id = given[0] if len(given) == 1 and REQUEST_ID.fullmatch(given[0]) else uuid4().hex
        self.scope, self.send = scope, send
        self.status: int | None = None
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        """Let the app answer, and log how it went."""
        started = time.perf_counter()
        try:
            await app(self.scope, receive, self.send_with_id)
        except Exception as error:
            logger.exception("request %s failed", self.request_id)
            if self.status is not None:
                raise  # half an answer is out: only closing the connection tells the client
            await problem(error, self.scope)(self.scope, receive, self.send_with_id)
        finally:
            elapsed_ms = (time.perf_counter() - started) * 1e3
            logger.info("%s %s %s %.1f ms %s", self.scope["method"], self.route, self.status or "-", elapsed_ms, self.request_id)

    @property
    def route(self) -> str:
        """The template of the path, never the path itself: what a client makes up doesn't belong in the log."""
        return getattr(self.scope.get("route"), "path", "(no route)")

    async def send_with_id(self, message: Message) -> None:
        """Send on, with the id in the header."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self.request_id
        await self.send(message)
