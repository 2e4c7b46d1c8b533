"""HTTP/1.1 as uvicorn speaks it, with bounds that uvicorn doesn't set, before a request is known to any middleware.

h11, and not httptools: that one reads headers without end.
"""

import sys
from asyncio import TimerHandle, Transport
from uuid import uuid4

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.errors import document
from service.settings import Settings

DETAILS = {431: "the request line and its headers are too long", 400: "this is not HTTP as it should be"}


class Protocol(H11Protocol):
    """Doesn't wait for ever for a head, or for the rest of a body that was answered already; tells what is no HTTP so."""

    head_timeout_s: float
    body_timeout_s: float

    _timer: TimerHandle | None = None
    _patience: float | None = None
    _is_new = True

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Called while h11's error is handled, which knows the status better than uvicorn."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._answer(status)
        self.transport.close()

    def _answer(self, status: int) -> None:
        """Send a problem document, and nothing after it."""
        request_id = uuid4().hex
        body = orjson.dumps(document(status, DETAILS.get(status, DETAILS[400])) | {"request_id": request_id})
        headers = {
            "content-type": "application/problem+json",
            "content-length": str(len(body)),
            "x-request-id": request_id,
            "connection": "close",
        }
        for event in (h11.Response(status_code=status, headers=[*headers.items()]), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")

    def _watch(self) -> None:
        """Begin to count where the client owes something, and stop where it has given it."""
        patience = self._owed()
        if patience != self._patience:
            self._stop_watching()
            if patience is not None:
                self._patience = patience
                self._timer = self.loop.call_later(patience, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._patience = None

    def _owed(self) -> float | None:
        """How long the client may take for what it is at; None while it is our turn, or nothing was begun."""
        if self.conn.their_state is h11.IDLE:
            is_begun = bool(self.conn.trailing_data[0])
            return self.head_timeout_s if self._is_new or is_begun else None
        self._is_new = False
        if self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE:
            return self.body_timeout_s
        return None


def protocol_of(settings: Settings) -> type[Protocol]:
    """The protocol with the settings' bounds; uvicorn makes one a connection."""
    return type(
        "BoundProtocol", (Protocol,), {"head_timeout_s": settings.head_timeout_s, "body_timeout_s": settings.body_timeout_s}
    )
