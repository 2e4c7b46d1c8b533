"""Examples for the OpenAPI document: of every answer by its operation, of every error by its status."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from service.dialects import form_of
from service.errors import document as problem_document

USAGE = {"sequences": 1, "tokens": 3}
TIMING = {"queue_ms": 0.4, "compute_ms": 11.2, "batch_sequences": 5}
CARD = {
    "id": "minilm",
    "object": "model",
    "architecture": "encoder",
    "layers": 6,
    "groups": {"encoder": 6},
    "heads": 12,
    "d_model": 384,
    "context": 512,
    "vocabulary_size": 30522,
    "dtype": "float32",
    "device": "cpu",
    "parameters": 22565376,
    "revision": "53aa51172d14",
}
STATISTICS = {
    "model_stats": [
        {
            "name": "minilm",
            "version": "1",
            "last_inference": 1760000000000,
            "inference_count": 3,
            "execution_count": 2,
            "inference_stats": {
                "success": {"count": 2, "ns": 31000000},
                "fail": {"count": 0, "ns": 0},
                "queue": {"count": 2, "ns": 400000},
                "compute_input": {"count": 2, "ns": 300000},
                "compute_infer": {"count": 2, "ns": 29000000},
                "compute_output": {"count": 2, "ns": 500000},
                "cache_hit": {"count": 0, "ns": 0},
                "cache_miss": {"count": 0, "ns": 0},
            },
            "batch_stats": [],
        }
    ]
}

ANSWERS: dict[str, Any] = {
    "analyze": {
        "model": "minilm",
        "results": [
            {
                "tokens": ["[CLS]", "cat", "[SEP]"],
                "token_ids": [101, 4937, 102],
                "truncated": 0,
                "attention": {
                    "encoder": {
                        "layers": [0],
                        "heads": [2],
                        "weights": [[[[1.0, 0.0, 0.0], [0.99, 0.01, 0.0], [0.01, 0.98, 0.01]]]],
                        "diagnostics": {"entropy": [[0.03]], "duplicate": [[None]]},
                    }
                },
                "pooled": [0.13, -0.05],
                "checks": {"row_sum_error": 1.2e-7, "forbidden_mass": 0.0},
            }
        ],
        "usage": USAGE,
        "timing": TIMING,
    },
    "list_diagnostics": {
        "model": "minilm",
        "rows": [{"sequence": 0, "group": "encoder", "layer": 0, "head": 2, "measure": "previous", "value": 0.9999}],
        "usage": USAGE,
        "timing": TIMING,
    },
    "attend": {
        "scores": [[[1.0, 0.0], [0.0, 1.0]]],
        "scaled_scores": [[[0.7071, None], [0.0, 0.7071]]],
        "weights": [[[1.0, 0.0], [0.3302, 0.6698]]],
        "output": [[1.0, 2.0], [2.3395, 3.3395]],
    },
    "generate": {
        "model": "smollm2",
        "results": [{"text": " the mat", "token_ids": [260, 3040], "tokens": ["Ġthe", "Ġmat"], "finish_reason": "length"}],
        "usage": {"sequences": 1, "tokens": 6, "new_tokens": 2},
        "timing": TIMING,
    },
    "tokenize": {
        "model": "minilm",
        "results": [
            {
                "token_ids": [101, 3086, 999, 102],
                "tokens": ["[CLS]", "attention", "!", "[SEP]"],
                "offsets": [[0, 0], [0, 9], [9, 10], [0, 0]],
                "token_types": [0, 0, 0, 0],
            }
        ],
        "usage": {"sequences": 1, "tokens": 4},
    },
    "list_models": {"object": "list", "data": [CARD]},
    "describe_model": CARD,
    "create_embeddings": {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.13, -0.05]}],
        "model": "minilm",
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    },
    "make_embed_token": {"token": "kqv1.eyJrZXkiOiJzaXRlIn0.c2lnbmF0dXJl", "expires_at": 1760000000},
    "describe_server": {"name": "kqv", "version": "0.1.0", "extensions": ["binary_tensor_data", "model_repository"]},
    "server_live": {"live": True},
    "server_ready": {"ready": True},
    "model_ready": {"ready": True},
    "model_metadata": {
        "name": "minilm",
        "versions": ["1"],
        "platform": "kqv",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "pooled", "datatype": "FP32", "shape": [-1, 384]}],
    },
    "model_config": {
        "name": "minilm",
        "platform": "kqv",
        "backend": "kqv",
        "max_batch_size": 0,
        "input": [{"name": "text", "data_type": "TYPE_STRING", "dims": [-1], "optional": True}],
        "output": [{"name": "pooled", "data_type": "TYPE_FP32", "dims": [-1, 384], "optional": False}],
        "parameters": {"revision": {"string_value": "53aa51172d14"}},
    },
    "all_statistics": STATISTICS,
    "model_statistics": STATISTICS,
    "repository_index": [{"name": "minilm", "version": "1", "state": "READY", "reason": ""}],
    "infer": {
        "model_name": "minilm",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "lengths", "datatype": "INT64", "shape": [1], "data": [9]}],
    },
    "live": {"status": "ok"},
    "ready": {"status": "ok"},
}
"""By the operation's id."""

DETAILS = {
    400: ("Malformed body", "the body is not JSON: EOF while parsing an object at line 1 column 20"),
    401: ("Unauthorized", "this needs a key; send it as Authorization: Bearer KEY"),
    403: ("Forbidden", "this embed token is for analyze, tokenize, models alone; send a key, or ask for another token"),
    404: ("Unknown model", "there is no model 'huge' here; there are: minilm"),
    406: (
        "Not acceptable",
        "the answer comes as application/json, none of which Accept allows: text/html",
    ),
    408: ("Body too slow", "the body was not whole after 30 s; send it faster, or less at once"),
    413: (
        "Body too large",
        "the body is longer than 16777216 bytes; send less at once",
    ),
    415: ("Unsupported media type", "this body is not read here; send it with Content-Type: application/json, not text/plain"),
    422: ("Invalid request", "layers.0: layers has 6, but the model has 6: 0 to 5, or -6 to -1"),
    429: ("Overloaded", "32000 tokens wait for the device already; try again in 2 s"),
    431: ("Headers too large", "a request has at most 100 headers, not 120"),
    500: ("Internal Server Error", "something went wrong on our side; the log has it under request id 0b1c2d3e"),
    501: ("Not offered", "this server makes no embed tokens: whoever runs it has to set KQV_EMBED_SECRET"),
    503: ("Unavailable", "the models are being loaded; try again in 1 s"),
    504: ("Deadline exceeded", "no answer within 60000 ms; ask for less, or set X-Request-Timeout-Ms higher"),
}
"""Title and detail of an error by its status."""

PATH_PARAMETERS = {"id": "minilm", "name": "minilm"}


def add_examples(document: dict[str, Any]) -> None:
    """Put them into the document."""
    for path, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                parameter["example"] = PATH_PARAMETERS[parameter["name"]]
        for status, shared in operation["responses"].items():
            operation["responses"][status] = response = deepcopy(shared)  # with others, perhaps
            example = ANSWERS[operation["operationId"]] if status == "200" else error(path, int(status))
            next(iter(response["content"].values()))["example"] = example


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each operation with its path."""
    return ((path, operation) for path, methods in document["paths"].items() for operation in methods.values())


def error(path: str, status: int) -> dict[str, Any]:
    """An error as it looks at a path."""
    title, detail = DETAILS[status]
    kind = "about:blank" if status == 500 else f"urn:kqv:{title.lower().replace(' ', '-')}"
    problem = problem_document(status, detail, kind, title) | {"request_id": "0b1c2d3e"}
    if status == 422:
        problem["errors"] = [{"loc": ["layers", 0], "msg": detail.removeprefix("layers.0: ")}]
    form = form_of(path)
    return problem if form is None else form(problem)
