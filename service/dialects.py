"""How an error looks on the routes of other protocols, whose clients know their own form of it and no problem documents."""

from collections.abc import Callable, Mapping
from typing import Any

Problem = Mapping[str, Any]
"""The members of a problem document."""
Form = Callable[[Problem], dict[str, Any]]


def to_openai(problem: Problem) -> dict[str, Any]:
    """OpenAI's error object."""
    status, errors = problem["status"], problem.get("errors") or [{"loc": ()}]
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {
        "message": problem["detail"],
        "type": "rate_limit_error" if status == 429 else kind,
        "param": ".".join(map(str, errors[0]["loc"])) or None,
        "code": OPENAI_CODES.get(status),
    }
    return {"error": error}


OPENAI_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
"""By status."""


def to_open_inference(problem: Problem) -> dict[str, Any]:
    """Open Inference Protocol's error."""
    return {"error": problem["detail"]}


FORMS: Mapping[str, Form] = {"/v1/embeddings": to_openai, "/v2": to_open_inference}
"""By the path that the routes have or begin with."""

STATUSES = {422: 400}
"""Statuses that these protocols don't know, and what they say instead."""


def form_of(path: str) -> Form | None:
    """The form that errors have at a path; None where they are problem documents."""
    return next((form for prefix, form in FORMS.items() if path == prefix or path.startswith(f"{prefix}/")), None)
