"""Problem documents, as the tests read them."""

from typing import Any

import httpx

from service.wire.answers import Problem


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document, which is complete."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    Problem.model_validate(document)
    assert document["status"] == status
    assert document["request_id"] == response.headers["x-request-id"]
    return document


def check_invalid(response: httpx.Response, loc: list[str | int], complaint: str) -> None:
    """A 422 about exactly one field."""
    document = problem(response, 422)
    [error] = document["errors"]
    assert error["loc"] == loc
    assert complaint in error["msg"]
    assert complaint in document["detail"]
