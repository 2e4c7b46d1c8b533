"""Answers of bytes, sent piece by piece: no piece so large that the event loop would stand still while it is copied."""

from collections.abc import Iterator, Mapping, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.wire.encoding import Part

PIECE = 1 << 18
"""Bytes that are given to the server at once, which waits then until the client has taken most of them."""


class PartsResponse(Response):
    """An answer in parts, which are sent one after the other and never joined."""

    def __init__(self, parts: Sequence[Part], media_type: str, headers: Mapping[str, str]) -> None:
        length = sum(map(len, parts))
        super().__init__(media_type=media_type, headers={**headers, "content-length": str(length)})
        self.parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        *first, last = pieces(self.parts)
        for piece in first:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": last})


def pieces(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts, cut where they are long."""
    for part in parts:
        if len(part) <= PIECE:
            yield part
        else:
            yield from (memoryview(part)[start : start + PIECE] for start in range(0, len(part), PIECE))
