"""What can keep a call from its answer. Each error says what to do, and is told apart by its class:

    ClientError
    ├── UnreachableError                no connection, or it was lost before the answer was whole
    ├── DeadlineError           504     the time is over, here or at the server
    ├── UnexpectedAnswerError           an answer that no kqv gives: another server's, or a proxy's page
    └── RefusedError                    the server said no, and why
        ├── MalformedError      400     the body is not what it is said to be
        ├── UnauthorizedError   401     no key, or one that doesn't fit
        │   └── ExpiredTokenError       an embed token whose time is over
        ├── ForbiddenError      403     the key or the token is not for this
        ├── NotFoundError       404     no such route
        │   └── UnknownModelError       no such model; the text names those that there are
        ├── NotAcceptableError  406
        ├── SlowBodyError       408
        ├── TooLargeError       413
        │   ├── BodyTooLargeError
        │   └── AnswerTooLargeError     refused before it was computed; the text says what to ask for instead
        ├── MediaTypeError      415
        ├── InvalidError        422     a field is wrong; a ValueError too
        ├── HeadersTooLargeError 431
        ├── ServerError         500     the server's log has the request id
        ├── NotOfferedError     501     the server was started without it
        └── RetryLaterError             was tried again already, as often as the client may
            ├── OverloadedError 429     the queue is full
            ├── KeyBusyError    429     the key has too many requests under way
            └── UnavailableError 503    loading or draining; or 502, a balancer without a server

Every one has `status`, `type`, `title`, `detail`, `errors`, `location`, `request_id` and `retry_after_s`, as far as they are known.
"""

from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from http.client import responses
from time import time
from typing import Any, ClassVar, NamedTuple

import orjson

Location = tuple[str | int, ...]


class FieldProblem(NamedTuple):
    """One field at fault: its path in the request, and what is wrong with it."""

    loc: Location
    msg: str


class ClientError(Exception):
    """Anything that keeps a call from its answer."""

    kind: ClassVar[str | None] = None
    """What a problem document calls it in its `type`."""
    statuses: ClassVar[tuple[int, ...]] = ()
    """The statuses that mean it where the type says nothing."""
    may_pass: ClassVar[bool] = False
    """Whether the same call may well succeed a little later."""

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        type: str = "about:blank",
        title: str | None = None,
        errors: Sequence[FieldProblem] = (),
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        """None where there was no answer."""
        self.type = type
        self.title = title
        self.errors = tuple(errors)
        """The fields at fault."""
        self.request_id = request_id
        """By which the server's log has it."""
        self.retry_after_s = retry_after_s
        """When the server wants to be asked again."""

    @property
    def location(self) -> Location:
        """The path of the first field at fault; empty where it is no field's."""
        return self.errors[0].loc if self.errors else ()

    def __str__(self) -> str:
        told = f"{self.status} {self.title}: {self.detail}" if self.status else self.detail
        return f"{told} (request {self.request_id})" if self.request_id else told


class UnreachableError(ClientError):
    """There was no connection, or it was lost before the answer was whole."""

    may_pass = True


class DeadlineError(ClientError):
    """The time is over, here or at the server."""

    kind, statuses = "urn:kqv:deadline-exceeded", (504,)


class UnexpectedAnswerError(ClientError):
    """An answer that no kqv gives: another server's, or a proxy's page."""


class RefusedError(ClientError):
    """The server said no, and why."""


class MalformedError(RefusedError):
    """The body is not what it is said to be."""

    kind, statuses = "urn:kqv:malformed-body", (400,)


class UnauthorizedError(RefusedError):
    """There is no key, or none that the server knows."""

    kind, statuses = "urn:kqv:unauthorized", (401,)


class ExpiredTokenError(UnauthorizedError):
    """The embed token's time is over."""

    kind = "urn:kqv:token-expired"


class ForbiddenError(RefusedError):
    """Nobody may do this, or not with this key."""

    kind, statuses = "urn:kqv:forbidden", (403,)


class NotFoundError(RefusedError):
    """There is nothing at this path: perhaps an older server."""

    statuses = (404,)


class UnknownModelError(NotFoundError):
    """No model of that name is served."""

    kind = "urn:kqv:unknown-model"


class NotAcceptableError(RefusedError):
    """The answer has no form that was asked for."""

    kind, statuses = "urn:kqv:not-acceptable", (406,)


class SlowBodyError(RefusedError):
    """The body didn't come in time."""

    kind, statuses = "urn:kqv:body-too-slow", (408,)


class TooLargeError(RefusedError):
    """More than the server takes, or gives."""

    statuses = (413,)


class BodyTooLargeError(TooLargeError):
    """The body is longer, or holds more, than the server reads."""

    kind = "urn:kqv:body-too-large"


class AnswerTooLargeError(TooLargeError):
    """The answer would be longer than the server sends."""

    kind = "urn:kqv:answer-too-large"


class MediaTypeError(RefusedError):
    """The body is said to be something that the server doesn't read."""

    kind, statuses = "urn:kqv:unsupported-media-type", (415,)


class InvalidError(RefusedError, ValueError):
    """The request is well formed, but can't be answered as asked; `errors` has each field at fault."""

    kind, statuses = "urn:kqv:invalid-request", (422,)


class HeadersTooLargeError(RefusedError):
    """There are more headers than the server reads."""

    kind, statuses = "urn:kqv:headers-too-large", (431,)


class ServerError(RefusedError):
    """Something went wrong on the server's side."""

    statuses = (500,)


class NotOfferedError(RefusedError):
    """The server was started without this; the text names the setting."""

    kind, statuses = "urn:kqv:not-offered", (501,)


class RetryLaterError(RefusedError):
    """Not now."""

    may_pass = True


class OverloadedError(RetryLaterError):
    """More is waiting already than the server lets wait."""

    kind, statuses = "urn:kqv:overloaded", (429,)


class KeyBusyError(RetryLaterError):
    """The key has as many requests under way as it may have."""

    kind = "urn:kqv:too-many-requests-of-this-key"


class UnavailableError(RetryLaterError):
    """The server is loading its models, or about to stop; or the balancer has none."""

    kind, statuses = "urn:kqv:unavailable", (503, 502)


def all_kinds(kind: type[ClientError] = ClientError) -> Iterator[type[ClientError]]:
    """Every class of the tree below one."""
    for each in kind.__subclasses__():
        yield each
        yield from all_kinds(each)


KINDS = {each.kind: each for each in all_kinds() if each.kind}
STATUSES = {status: each for each in all_kinds() for status in each.statuses if "statuses" in vars(each)}


def error_of(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> ClientError:
    """The error that an answer stands for, from its problem document, or from its status where it has none."""
    document = read_document(body)
    if document is None and status not in STATUSES:
        return unexpected(status, f"an answer of status {status} that is no problem document; is this a kqv server?")
    told = document or {"detail": "an answer without a problem document, perhaps of a proxy's"}
    return error_told(told, status, headers)


def error_told(document: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> ClientError:
    """The error that a problem document tells of."""
    kind = KINDS.get(document.get("type", ""), STATUSES.get(status, RefusedError))
    return kind(
        str(document.get("detail", "")),
        status=status,
        type=document.get("type", "about:blank"),
        title=document.get("title") or phrase(status),
        errors=[FieldProblem(tuple(each["loc"]), each["msg"]) for each in document.get("errors") or ()],
        request_id=document.get("request_id") or headers.get("x-request-id"),
        retry_after_s=seconds_of(headers.get("retry-after")),
    )


def read_document(body: bytes | bytearray) -> Mapping[str, Any] | None:
    """The problem document in a body, from OpenAI's form of it too; None where there is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    match document:
        case {"error": {"message": str(message), "param": param}}:
            fields = [{"loc": (param,), "msg": message}] if param else []
            return {"detail": message, "errors": fields} | ({"type": InvalidError.kind} if param else {})
        case {"detail": str(), "status": int()}:
            return document
    return None


def phrase(status: int) -> str:
    """The usual words for a status."""
    return responses.get(status, "Unknown status")


def seconds_of(retry_after: str | None) -> float | None:
    """What Retry-After says, as a number of seconds or as a date; None where it says nothing that can be read."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except ValueError:
        return None


def unexpected(status: int | None, detail: str) -> UnexpectedAnswerError:
    """An answer that can't be read."""
    return UnexpectedAnswerError(detail, status=status, title=phrase(status) if status else None)
