"""Which form of an answer the caller likes best (RFC 9110, Accept)."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from starlette.datastructures import Headers

from service.errors import NotAcceptableError

QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


class Range(NamedTuple):
    """One part of an Accept header, such as `application/*;q=0.5`."""

    media_type: str
    quality: float

    def precision(self, media_type: str) -> int:
        """How closely this names a media type: 0 where it doesn't, 3 where it is the very one."""
        kind = media_type.partition("/")[0]
        return {"*/*": 1, f"{kind}/*": 2, media_type: 3}.get(self.media_type, 0)


def negotiate(headers: Headers, offered: Sequence[str], hint: str = "") -> str:
    """The media type that the caller likes best of those offered, the first of several that are liked equally.

    Raises `NotAcceptableError`, with a hint of what to do, where none is acceptable. Without an Accept header all are.

    >>> negotiate(Headers({"accept": "application/json;q=0.5, application/*"}), ["application/json", "application/x-safetensors"])
    'application/x-safetensors'
    """
    accept = ", ".join(headers.getlist("accept")).strip()
    if accept in ("", "*/*"):
        return offered[0]
    ranges = list(parse(accept))
    liked = {media_type: quality_of(media_type, ranges) for media_type in offered}
    best = max(offered, key=lambda media_type: liked[media_type])
    if not liked[best]:
        raise NotAcceptableError(f"the answer comes as {' or '.join(offered)}, none of which Accept allows: {accept[:200]}{hint}")
    return best


def quality_of(media_type: str, ranges: Sequence[Range]) -> float:
    """How much a media type is liked, from 0 to 1: the range that names it most closely decides."""
    named = [each for each in ranges if each.precision(media_type)]
    return max(named, key=lambda each: each.precision(media_type)).quality if named else 0.0


def parse(accept: str) -> Iterator[Range]:
    """The ranges of a header. Parameters other than q tell apart nothing that is offered here; a wrong q names nothing at all."""
    for part in accept.split(","):
        media_type, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = next((each[2:].strip() for each in parameters if each.startswith("q=")), "1")
        if QUALITY.fullmatch(quality):
            yield Range(media_type, float(quality))
