"""The OpenAPI document, where FastAPI's own falls short."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.answers import Problem

FILE = {"schema": {"type": "string", "format": "binary"}}
"""The safetensors format, of which OpenAPI knows only that it is bytes."""

PROBLEMS_OF_BODIES = (400, 408, 413, 415, 422, 429)
PROBLEMS_OF_WORK = (*PROBLEMS_OF_BODIES, 503, 504)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem documents that a route may answer with."""
    return {status: {"model": Problem} for status in (*statuses, 431, 500)}


def tensor_file(others: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """A file of tensors, as another form of a route's answer, beside others."""
    return {200: {"content": {"application/x-safetensors": FILE} | (others or {})}}


def event_stream(example: str) -> dict[str, Any]:
    """Server-sent events, likewise."""
    return {"text/event-stream": {"schema": {"type": "string"}, "example": example}}


def describe(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the errors that there are: problems, under their own media type, and none of FastAPI's own."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, tags=app.openapi_tags, routes=app.routes
        )
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"] = with_problems(operation["responses"])
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


def with_problems(responses: dict[str, Any]) -> dict[str, Any]:
    """The responses of one operation, as they are."""
    kept = {}
    for status, response in responses.items():
        content = response["content"]["application/json"]
        if int(status) < 400:
            kept[status] = response
        elif content["schema"]["$ref"].endswith("/Problem"):  # FastAPI adds a 422 of its own wherever there are parameters
            kept[status] = response | {"content": {"application/problem+json": content}}
    return kept
