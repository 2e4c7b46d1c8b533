"""POST /v1/embeddings, as OpenAI's own client uses it."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from serving import keep_busy, listening, make_app
from torch.testing import assert_close

import kqv
from service.wire.embeddings import EmbeddingsAnswer, EmbeddingsRequest

TEXTS = ["the cat sat on the mat .", "a dog"]


@pytest.fixture(scope="module")
def openai_client(client: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as session:
        yield session


def vectors(model: kqv.Model, *inputs: Any) -> torch.Tensor:
    analyses = model.analyze(inputs, weights="none", diagnostics="none", outputs=("pooled",))
    return torch.stack([analysis.pooled for analysis in analyses])


def given(answer: openai.types.CreateEmbeddingResponse) -> torch.Tensor:
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return torch.tensor([each.embedding for each in answer.data])


def test_texts_and_ids_are_embedded(openai_client: openai.OpenAI, model: kqv.Model) -> None:
    ids = [list(model.read(text).ids) for text in TEXTS]
    expected = vectors(model, *TEXTS)
    for several in (TEXTS, ids):
        answer = openai_client.embeddings.create(model="tiny", input=several)
        assert_close(given(answer), expected)
        assert (answer.model, answer.object, answer.data[0].object) == ("tiny", "list", "embedding")
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (13, 13)
    for one in (TEXTS[1], ids[1]):
        assert_close(given(openai_client.embeddings.create(model="tiny", input=one)), expected[1:])


def test_vectors_come_as_lists_or_base64(openai_client: openai.OpenAI, client: httpx.Client, model: kqv.Model) -> None:
    expected = vectors(model, TEXTS[0])
    answer = openai_client.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="float")
    assert_close(given(answer), expected)
    answer = openai_client.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="base64")
    text = answer.data[0].embedding
    assert isinstance(text, str)
    assert_close(torch.tensor(np.frombuffer(base64.b64decode(text), "<f4")), expected[0])


def test_examples_are_answered(client: httpx.Client) -> None:
    for example in EmbeddingsRequest.model_json_schema()["examples"]:
        known = json.loads(json.dumps(example).replace("1996", "5").replace("4937", "6").replace("101", "2").replace("102", "3"))
        response = client.post("/v1/embeddings", json=known)
        assert response.status_code == 200, response.text
        EmbeddingsAnswer.model_validate_json(response.content, strict=True)


def test_fields_that_change_nothing_are_taken(openai_client: openai.OpenAI, model: kqv.Model) -> None:
    answer = openai_client.embeddings.create(model="tiny", input=TEXTS[0], dimensions=35, user="someone")
    assert_close(given(answer), vectors(model, TEXTS[0]))


@pytest.mark.anyio
async def test_the_async_client_works_too(client: httpx.Client, model: kqv.Model) -> None:
    async with openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as session:
        assert_close(given(await session.embeddings.create(model="tiny", input=TEXTS)), vectors(model, *TEXTS))
        assert [model.id async for model in session.models.list()] == ["tiny"]


def test_request_id_and_timing_are_there(openai_client: openai.OpenAI) -> None:
    answer = openai_client.embeddings.with_raw_response.create(model="tiny", input="a", extra_headers={"X-Request-Id": "one"})
    assert answer.request_id == "one"
    assert [part.split(";")[0] for part in answer.headers["server-timing"].split(", ")] == [
        "tokenize",
        "queue",
        "forward",
        "encode",
    ]


BAD: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "nothing": ({"input": []}, "input", "at least 1"),
    "an empty text": ({"input": ["a", ""]}, "input.1", "text is empty"),
    "too long": ({"input": [5] * 42}, "input", "1 more than the model's context of 41"),
    "an unknown id": ({"input": [[5], [97]]}, "input.1.0", "whole numbers from 0 to 96"),
    "too many": ({"input": ["a"] * 8}, "input", "at most 7 sequences"),
    "an object": ({"input": {"text": "a"}}, "input", "this is a text, a list of texts"),
    "another length": ({"input": "a", "dimensions": 34}, "dimensions", "35 dimensions, always"),
    "no length": ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
    "an unknown format": ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'base64'"),
    "an unknown field": ({"input": "a", "extra_body": {"layers": [0]}}, "layers", "no such field"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_told_as_openai_tells_them(openai_client: openai.OpenAI, case: str) -> None:
    fields, param, complaint = BAD[case]
    with pytest.raises(openai.BadRequestError) as raised:
        openai_client.embeddings.create(model="tiny", **fields)
    assert (raised.value.type, raised.value.param, raised.value.code) == ("invalid_request_error", param, None)
    assert complaint in raised.value.body["message"]  # type: ignore[index]


def test_other_errors_have_that_form_too(openai_client: openai.OpenAI, client: httpx.Client) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        openai_client.embeddings.create(model="text-embedding-3-small", input="a")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as refused:
        openai_client.embeddings.create(model="tiny", input="a", extra_headers={"Content-Type": "text/plain"})
    assert (refused.value.status_code, refused.value.type) == (415, "invalid_request_error")
    for response, status in ((client.get("/v1/embeddings"), 405), (client.post("/v1/embeddings", content=b"{"), 415)):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    late = client.post("/v1/embeddings", json={"input": "a"}, headers={"x-request-timeout-ms": "0"})
    assert (late.status_code, late.json()["error"]["param"]) == (400, "header.x-request-timeout-ms")


def test_deadlines_of_the_client_are_kept(model: kqv.Model) -> None:
    app = make_app(model)
    with listening(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=0.5) as session:
        gate = keep_busy(app)
        with pytest.raises(openai.InternalServerError, match="no answer within 20 ms") as raised:
            session.embeddings.create(model="tiny", input="a", extra_headers={"X-Request-Timeout-Ms": "20"})
        assert raised.value.status_code == 504
        with pytest.raises(openai.APITimeoutError):
            session.embeddings.create(model="tiny", input="a")
        gate.open()
        session.with_options(timeout=10).embeddings.create(model="tiny", input="a")


def test_encoder_decoders_embed_what_they_write(encoder_decoder: kqv.Model) -> None:
    with listening(make_app(encoder_decoder)) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as session:
        assert_close(given(session.embeddings.create(model="t5", input="cat")), vectors(encoder_decoder, "cat"))
