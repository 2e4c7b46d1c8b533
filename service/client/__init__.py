"""A client of the service: the engine's calls over HTTP, numpy arrays back, without torch.

with Client("http://127.0.0.1:8000", api_key="…") as client:
    [analysis] = client.analyze("The cat sat on the mat.", weights="top")
    analysis.attention["encoder"].diagnostics["entropy"]      # [layers, heads]

`AsyncClient` has the same methods, each to be awaited. What can go wrong is in `errors`, what comes back in `results`.
"""

from service.client.clients import AsyncClient, Client
from service.client.errors import (
    AnswerTooLargeError,
    BodyTooLargeError,
    ClientError,
    DeadlineError,
    ExpiredTokenError,
    ForbiddenError,
    HeadersTooLargeError,
    InvalidError,
    KeyBusyError,
    MalformedError,
    MediaTypeError,
    NotAcceptableError,
    NotFoundError,
    NotOfferedError,
    OverloadedError,
    RefusedError,
    RetryLaterError,
    ServerError,
    SlowBodyError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnexpectedAnswerError,
    UnknownModelError,
    UnreachableError,
)
from service.client.results import Analysis, Answer, Attended, EmbedToken, Generated, GroupAnalysis, ModelCard, Row, Token

__all__ = [
    "Analysis",
    "Answer",
    "AnswerTooLargeError",
    "AsyncClient",
    "Attended",
    "BodyTooLargeError",
    "Client",
    "ClientError",
    "DeadlineError",
    "EmbedToken",
    "ExpiredTokenError",
    "ForbiddenError",
    "Generated",
    "GroupAnalysis",
    "HeadersTooLargeError",
    "InvalidError",
    "KeyBusyError",
    "MalformedError",
    "MediaTypeError",
    "ModelCard",
    "NotAcceptableError",
    "NotFoundError",
    "NotOfferedError",
    "OverloadedError",
    "RefusedError",
    "RetryLaterError",
    "Row",
    "ServerError",
    "SlowBodyError",
    "Token",
    "TooLargeError",
    "UnauthorizedError",
    "UnavailableError",
    "UnexpectedAnswerError",
    "UnknownModelError",
    "UnreachableError",
]
