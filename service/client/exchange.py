"""A request on its way, what came of it, and how long both may take."""

from dataclasses import dataclass
from math import inf
from time import monotonic

import httpx

from service.client.errors import ClientError, DeadlineError, UnreachableError


@dataclass(frozen=True)
class Deadline:
    """When a call's time is over."""

    seconds: float
    """How long it was, for what is told of it; infinite for no end."""
    ends: float
    """On the clock of `monotonic`."""

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """From now on."""
        length = inf if seconds is None else seconds
        return cls(length, monotonic() + length)

    @property
    def left_s(self) -> float:
        """What is left of it. Raises `DeadlineError` where that is nothing."""
        left = self.ends - monotonic()
        if left <= 0:
            raise self.error()
        return left

    def in_time(self, received: bytes) -> bytes:
        """What was received. Raises `DeadlineError` where it came too late."""
        assert self.left_s > 0
        return received

    def error(self) -> DeadlineError:
        """It is over, and there was no answer."""
        return DeadlineError(f"no answer within {self.seconds:g} s; ask for less, or set deadline_s higher")

    def failure(self, error: httpx.HTTPError | DeadlineError) -> ClientError:
        """What a failure of the connection is to the caller."""
        if isinstance(error, DeadlineError):
            return error
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return self.error()
        return UnreachableError(f"the server can't be reached, or went away: {str(error) or type(error).__name__}")


@dataclass(frozen=True)
class Send:
    """Wanted: an answer to this request."""

    request: httpx.Request
    deadline: Deadline
    streams: bool

    def keeps_open(self, response: httpx.Response) -> bool:
        """Whether the answer is read later, as it comes."""
        return self.streams and response.is_success


@dataclass(frozen=True)
class Reply:
    """A server's answer. The body is not there yet where it is a stream."""

    response: httpx.Response
    deadline: Deadline
    body: bytes | bytearray = b""

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def header(self) -> httpx.Headers:
        return self.response.headers

    @property
    def request_id(self) -> str | None:
        """By which the server's log has it."""
        return self.response.headers.get("x-request-id")
