"""The API describes itself completely, and its documentation needs no other host."""

import json
import re
from typing import Any

import httpx
import pytest
from serving import make_app

import kqv
from service.errors import ServiceError
from service.oip import answers as oip
from service.wire import answers, embeddings
from service.wire.examples import DETAILS


@pytest.fixture(scope="module")
def document(model: kqv.Model) -> dict[str, Any]:
    return make_app(model, api_keys="web:a-key-of-16-or-more").openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{method} {path}", operation) for path, methods in document["paths"].items() for method, operation in methods.items()]


def test_routes_are_those_of_the_contract(document: dict[str, Any]) -> None:
    assert {name for name, _ in operations(document)} == {
        "post /v1/analyze",
        "post /v1/attend",
        "post /v1/diagnostics",
        "post /v1/generate",
        "post /v1/tokenize",
        "get /v1/models",
        "get /v1/models/{id}",
        "post /v1/embeddings",
        "post /v1/embed-tokens",
        "get /v2",
        "get /v2/health/live",
        "get /v2/health/ready",
        "get /v2/models/stats",
        "get /v2/models/{name}",
        "get /v2/models/{name}/ready",
        "get /v2/models/{name}/config",
        "get /v2/models/{name}/stats",
        "post /v2/models/{name}/infer",
        "post /v2/repository/index",
        "get /livez",
        "get /readyz",
    }


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name


def test_every_field_of_a_request_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in (
        "AnalyzeRequest",
        "AttendRequest",
        "GenerateRequest",
        "TokenizeRequest",
        "SequenceObject",
        "EmbedTokenRequest",
        "RowsRequest",
        "EmbedScope",
        "EncodedTensor",
        "EncodedMatrix",
    ):
        for field, schema in schemas[name]["properties"].items():
            assert schema.get("description"), f"{name}.{field}"


def test_bodies_and_answers_have_schemas(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if name == "post /v2/repository/index":  # its body may be left out, and its answer is a list
            continue
        if name.startswith("post"):
            assert operation["requestBody"]["required"] is True, name
            assert "$ref" in operation["requestBody"]["content"]["application/json"]["schema"], name
        assert "$ref" in operation["responses"]["200"]["content"]["application/json"]["schema"], name


def form_of_errors(name: str) -> tuple[str, str]:
    """The media type of a route's errors, and the schema."""
    if " /v2" in name:
        return "application/json", "OpenInferenceError"
    return ("application/json", "OpenAIError") if "embeddings" in name else ("application/problem+json", "Problem")


def test_problems_are_declared_as_what_they_are(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if status != "200":
                media_type, schema = form_of_errors(name)
                assert list(response["content"]) == [media_type], f"{name} {status}"
                assert response["content"][media_type]["schema"]["$ref"].endswith(f"/{schema}")
    work = document["paths"]["/v1/analyze"]["post"]["responses"]
    assert set(work) == {"200", *"400 401 403 404 406 408 413 415 422 429 431 500 503 504".split()}
    assert "401" not in document["paths"]["/livez"]["get"]["responses"]


MODELS = {name: kind for module in (answers, embeddings, oip) for name, kind in vars(module).items() if isinstance(kind, type)}


def test_every_answer_has_an_example_that_is_one(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            content = next(iter(response["content"].values()))
            schema = content["schema"].get("items", content["schema"])["$ref"].rpartition("/")[-1]
            examples = content["example"] if isinstance(content["example"], list) else [content["example"]]
            for example in examples:
                MODELS[schema].model_validate_json(json.dumps(example), strict=True)
                assert example.get("status", int(status)) in (int(status), "ok"), name


def test_examples_of_errors_are_called_as_the_errors_are() -> None:
    titles = {(kind.status, kind.title) for kind in concrete(ServiceError)} | {(500, "Internal Server Error")}
    assert {(status, title) for status, (title, _) in DETAILS.items()} <= titles


def concrete(kind: type[ServiceError]) -> set[type[ServiceError]]:
    """The errors that know their status."""
    return {kind}.intersection([kind] if hasattr(kind, "status") else []).union(*map(concrete, kind.__subclasses__()))


def test_operations_have_plain_names(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z_]+", name) for name in names)


@pytest.mark.parametrize("route", ["analyze", "attend", "tokenize"])
def test_examples_are_answered(client: httpx.Client, document: dict[str, Any], route: str) -> None:
    examples = document["components"]["schemas"][f"{route.capitalize()}Request"]["examples"]
    assert examples
    for example in examples:
        known = json.loads(json.dumps(example).replace("1996", "5").replace("4937", "6").replace("101", "2").replace("102", "3"))
        response = client.post(f"/v1/{route}", json=known)
        assert response.status_code == 200, response.text


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    found = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert found <= document["components"]["schemas"].keys()


def test_examples_of_texts_are_gone_on_with(decoder_client: httpx.Client, document: dict[str, Any]) -> None:
    for example in document["components"]["schemas"]["GenerateRequest"]["examples"]:
        response = decoder_client.post("/v1/generate", json=example)
        assert response.status_code == 200, response.text
    answers = document["paths"]["/v1/generate"]["post"]["responses"]["200"]["content"]
    assert answers["text/event-stream"]["examples"]["token"]["value"]["data"].startswith('{"index":0')
    assert answers["application/json"]["schema"]["$ref"].endswith("/GenerateAnswer")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_documentation_needs_no_other_host(client: httpx.Client, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sources
    for source in sources:
        assert client.get(source).status_code == 200, source
