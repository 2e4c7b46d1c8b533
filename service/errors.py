"""What the service says when it can't answer, as RFC 9457 problem documents. Each error knows its status:

    ServiceError
    ├── MalformedError          400     the body is not what it is said to be
    ├── UnauthorizedError       401     no key, or one that doesn't fit
    │   └── ExpiredTokenError           an embed token whose time is over
    ├── ForbiddenError          403
    ├── UnknownModelError       404
    ├── UnknownVersionError     404
    ├── NotAcceptableError      406     no form of the answer that the caller takes
    ├── SlowBodyError           408
    ├── BodyTooLargeError       413
    ├── AnswerTooLargeError     413     refused before it is computed
    ├── MediaTypeError          415
    ├── InvalidError            422     well formed, but a field is wrong; names each of them
    ├── HeadersTooLargeError    431
    ├── ClientGoneError         499     nobody is left to read the answer
    ├── NotOfferedError         501     a protocol has it, this server doesn't, and never will
    ├── DeadlineError           504
    └── RetryLaterError                 with Retry-After
        ├── OverloadedError     429     the queue is full
        ├── KeyBusyError        429     the key has too many requests under way
        └── UnavailableError    503     loading or draining

The engine's `InputError` is rendered as an `InvalidError`. starlette's `HTTPException` (unknown route or method) keeps its status.
Anything else is a 500 that says nothing but the request id.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, ClassVar, NamedTuple

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from kqv import InputError
from service.dialects import STATUSES, form_of

Location = tuple[str | int, ...]


class ServiceError(Exception):
    """An error that the service answers with on purpose; its text is for the person who asked."""

    status: ClassVar[int]
    title: ClassVar[str]

    @classmethod
    def reason(cls) -> str:
        """The title as a word for programs, such as `body_too_large`."""
        return cls.title.lower().replace(" ", "_")

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that the answer needs beside the document."""
        return {}


class MalformedError(ServiceError):
    """The body is not what it is said to be: JSON, a file of tensors, compressed."""

    status, title = 400, "Malformed body"


class UnauthorizedError(ServiceError):
    """There is no key, or none that the service knows."""

    status, title = 401, "Unauthorized"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"www-authenticate": "Bearer"}


class ExpiredTokenError(UnauthorizedError):
    """An embed token whose time is over; told apart, so that a page knows when to ask for another."""

    title = "Token expired"


class UnknownModelError(ServiceError):
    """No model of that name is served."""

    status, title = 404, "Unknown model"

    def __init__(self, name: str, served: Iterable[str]) -> None:
        super().__init__(f"there is no model {name!r} here; there are: {', '.join(served)}")


class UnknownVersionError(ServiceError):
    """The model has no such version."""

    status, title = 404, "Unknown version"


class ForbiddenError(ServiceError):
    """Nobody may do this, or not with what was shown."""

    status, title = 403, "Forbidden"


class NotOfferedError(ServiceError):
    """A part of a protocol that this server leaves out."""

    status, title = 501, "Not offered"


class NotAcceptableError(ServiceError):
    """The caller takes no form that the answer has."""

    status, title = 406, "Not acceptable"


class SlowBodyError(ServiceError):
    """The body didn't come in time."""

    status, title = 408, "Body too slow"

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the body took longer than {limit_s:g} s to come; send it in one go")

    @property
    def headers(self) -> Mapping[str, str]:
        return {"connection": "close"}  # or the rest of it would be awaited still


class BodyTooLargeError(ServiceError):
    """The body is longer, or holds more, than the service reads."""

    status, title = 413, "Body too large"

    def __init__(self, limit: int, unit: str = "bytes") -> None:
        super().__init__(f"the body is longer than {limit} {unit}; send less at once, or tensors as base64 instead of nested lists")


class AnswerTooLargeError(ServiceError):
    """The answer would be longer than the service sends, or its work larger than the service holds."""

    status, title = 413, "Answer too large"


class MediaTypeError(ServiceError):
    """The body is said to be something that the service doesn't read."""

    status, title = 415, "Unsupported media type"


class FieldError(NamedTuple):
    """One field at fault: its path in the request, and what is wrong with it."""

    loc: Location
    msg: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.loc))}: {self.msg}" if self.loc else self.msg


class InvalidError(ServiceError):
    """The request is well formed, but can't be answered as asked."""

    status, title = 422, "Invalid request"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(map(str, errors[:3])) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else ""))
        self.errors = errors


class HeadersTooLargeError(ServiceError):
    """There are more headers than the service reads."""

    status, title = 431, "Headers too large"


class ClientGoneError(ServiceError):
    """The client closed the connection; the status is for the log alone."""

    status, title = 499, "Client closed request"


class DeadlineError(ServiceError):
    """The caller's patience, or the service's, is over."""

    status, title = 504, "Deadline exceeded"

    def __init__(self, timeout_ms: int, setting: str) -> None:
        """`setting` is what the caller can set to wait longer."""
        super().__init__(f"no answer within {timeout_ms} ms; ask for less, or set {setting} higher")


class RetryLaterError(ServiceError):
    """Not now; the answer says when to come back."""

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(f"{detail}; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> Mapping[str, str]:
        return {"retry-after": str(self.retry_after_s)}


class OverloadedError(RetryLaterError):
    """More is waiting already than the service lets wait."""

    status, title = 429, "Overloaded"


class KeyBusyError(RetryLaterError):
    """The key has as many requests under way as it may have."""

    status, title = 429, "Too many requests of this key"


class UnavailableError(RetryLaterError):
    """The service is loading its models, or about to stop."""

    status, title = 503, "Unavailable"


ROUTING = {404: "there is nothing at this path; /docs has what there is", 405: "this path takes other methods; see Allow"}
"""What to do about starlette's own errors."""


@contextmanager
def located(*outer: str | int, inner: int = 0) -> Iterator[None]:
    """Put `outer` before the location of an `InputError` raised inside, in place of its first `inner` parts."""
    try:
        yield
    except InputError as error:
        raise type(error)(str(error), (*outer, *error.location[inner:])) from error


def explain(error: Exception, request_id: str) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The problem document for any error, and the headers that it needs."""
    headers: Mapping[str, str] = {}
    match error:
        case ServiceError():
            content = document(error.status, str(error), "urn:kqv:" + error.title.lower().replace(" ", "-"), error.title)
            headers = error.headers
        case HTTPException():
            content = document(error.status_code, ROUTING.get(error.status_code, error.detail))
            headers = error.headers or {}
        case _:
            content = document(500, f"something went wrong on our side; the log has it under request id {request_id}")
    content["request_id"] = request_id
    if isinstance(error, InvalidError):
        content["errors"] = [{"loc": field.loc, "msg": field.msg} for field in error.errors]
    return content, headers


def problem(error: Exception, scope: Scope) -> Response:
    """The answer for any error: a problem document, or what the protocol of the path has in its place."""
    content, headers = explain(error, scope["state"]["request_id"])
    status, form = content["status"], form_of(scope["path"])
    if form is None:
        return Response(orjson.dumps(content), status, headers, "application/problem+json")
    return Response(orjson.dumps(form(content)), STATUSES.get(status, status), headers, "application/json")


def document(status: int, detail: str, kind: str = "about:blank", title: str | None = None) -> dict[str, Any]:
    """The members that every problem has; by RFC 9457, `about:blank` is titled by its status."""
    return {"type": kind, "title": title or HTTPStatus(status).phrase, "status": status, "detail": detail}


def to_service_error(error: Exception) -> Exception:
    """The engine's and the framework's errors as the service's own, where it has one."""
    match error:
        case InputError():
            return InvalidError([FieldError(error.location, str(error))])
        case RequestValidationError():
            return InvalidError([FieldError(tuple(each["loc"]), each["msg"]) for each in error.errors()])
        case ClientDisconnect():
            return ClientGoneError("the client closed the connection")
    return error


async def handle(request: Request, error: Exception) -> Response:
    """The one handler."""
    request.state.exchange.error = told = to_service_error(error)
    return problem(told, request.scope)


def add_handlers(app: FastAPI) -> None:
    """Let `handle` render everything that is expected to happen; the rest is the middleware's."""
    for kind in (ServiceError, InputError, RequestValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, handle)
