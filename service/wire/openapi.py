"""The OpenAPI document, where FastAPI's own falls short."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.oip.answers import OpenInferenceError
from service.wire.answers import Problem
from service.wire.embeddings import OpenAIError
from service.work.caller import TIMEOUT

Responses = dict[int | str, dict[str, Any]]

FILE = {"schema": {"type": "string", "format": "binary"}}
"""Bytes, of whose format OpenAPI knows nothing."""

PROBLEMS_OF_BODIES = (400, 408, 413, 415, 422, 429)
PROBLEMS_OF_WORK = (*PROBLEMS_OF_BODIES, 503, 504)


def problems(*statuses: int) -> Responses:
    """The problem documents that a route may answer with."""
    return {status: {"model": Problem} for status in (*statuses, 431, 500)}


def openai_errors() -> Responses:
    """Likewise, in OpenAI's form, which has 400 in place of 422."""
    return {status: {"model": OpenAIError} for status in (404, *PROBLEMS_OF_WORK, 431, 500) if status != 422}


def open_inference_errors(*statuses: int) -> Responses:
    """Likewise, in Open Inference Protocol's form."""
    return {status: {"model": OpenInferenceError} for status in (*statuses, 431, 500) if status != 422}


def tensor_file(others: dict[str, Any] | None = None) -> Responses:
    """A file of tensors, as another form of a route's answer, beside others."""
    return {200: {"content": {"application/x-safetensors": FILE} | (others or {})}}


def event_stream(**examples: str) -> dict[str, Any]:
    """Server-sent events, likewise; of each kind the data of an example."""
    schema = {
        "type": "object",
        "description": "One event of the stream.",
        "properties": {
            "event": {"enum": [*examples, "error"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
        "required": ["event", "data"],
    }
    shown = {name: {"value": {"event": name, "data": data}} for name, data in examples.items()}
    return {"text/event-stream": {"schema": schema, "examples": shown}}


def tensor_file_body() -> dict[str, Any]:
    """A file of tensors, as another form of a request."""
    return {"requestBody": {"content": {"application/x-safetensors": FILE}}}


def infer_answer() -> Responses:
    """JSON and tensors after it, as another form of an answer."""
    return {200: {"content": {"application/octet-stream": FILE}}}


def infer_body() -> dict[str, Any]:
    """Likewise of a request, with the header that says where the JSON ends."""
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "How many bytes of the body are JSON; the tensors' own come after them.",
        "schema": {"type": "integer", "minimum": 0},
    }
    return {"requestBody": {"content": {"application/octet-stream": FILE}}, "parameters": [length]}


def describe(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the errors that there are: problems, under their own media type, and none of FastAPI's own."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, tags=app.openapi_tags, routes=app.routes
        )
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"] = with_problems(operation["responses"])
                if "504" in operation["responses"]:
                    operation.setdefault("parameters", []).append(TIMEOUT)
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


def with_problems(responses: dict[str, Any]) -> dict[str, Any]:
    """The responses of one operation, as they are."""
    kept = {}
    for status, response in responses.items():
        content = response["content"]["application/json"]
        kind = content["schema"].get("$ref", "").rpartition("/")[-1]
        if kind == "Problem":
            kept[status] = response | {"content": {"application/problem+json": content}}
        elif kind != "HTTPValidationError":  # FastAPI adds one wherever there are parameters
            kept[status] = response
    return kept
