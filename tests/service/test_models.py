"""What is served, how it reads text, and whether it is ready to."""

import httpx
import pytest
from serving import listening, make_app, serving

import kqv
from service.app import create_app
from service.models import Models
from service.settings import Settings
from service.wire.answers import ModelCard, TokenizeAnswer


def test_card_is_the_model(client: httpx.Client, model: kqv.Model) -> None:
    card = client.get("/v1/models/tiny").json()
    ModelCard.model_validate(card)
    assert card == {
        "id": "tiny",
        "object": "model",
        "architecture": "encoder",
        "layers": 3,
        "groups": {"encoder": 3},
        "heads": 5,
        "d_model": 35,
        "context": 41,
        "vocabulary_size": 97,
        "dtype": "float32",
        "device": "cpu",
        "parameters": model.parameters,
        "revision": model.revision,
    }
    assert client.get("/v1/models").json() == {"object": "list", "data": [card]}


def test_tokens_are_those_that_an_analysis_sees(client: httpx.Client) -> None:
    text = "The cat  sits 🙂"
    response = client.post("/v1/tokenize", json={"input": text})
    TokenizeAnswer.model_validate_json(response.content)
    [result] = response.json()["results"]
    [analyzed] = client.post("/v1/analyze", json={"input": text, "weights": "none"}).json()["results"]
    assert (result["tokens"], result["token_ids"]) == (analyzed["tokens"], analyzed["token_ids"])
    assert result["tokens"] == ["[CLS]", "the", "cat", "[UNK]", "[UNK]", "[SEP]"]
    assert [text[start:stop] for start, stop in result["offsets"]] == ["", "The", "cat", "sits", "🙂", ""]


def test_several_texts_and_pairs(client: httpx.Client) -> None:
    answer = client.post("/v1/tokenize", json={"input": ["the cat", ""]}).json()
    assert [result["tokens"] for result in answer["results"]] == [["[CLS]", "the", "cat", "[SEP]"], ["[CLS]", "[SEP]"]]
    assert answer["usage"] == {"sequences": 2, "tokens": 6}
    [result] = client.post("/v1/tokenize", json={"input": "the cat", "pair": "a dog ran"}).json()["results"]
    assert result["token_types"] == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.anyio
async def test_nothing_but_life_is_shown_while_models_load(model: kqv.Model) -> None:
    models = Models(lambda: [model])
    async with serving(create_app(Settings(), models)) as client:
        attention = {"q": [[1.0]], "k": [[1.0]], "v": [[1.0]]}
        for response in (
            await client.get("/readyz"),
            await client.get("/v1/models"),
            await client.post("/v1/analyze", json={"input": "a"}),
            await client.post("/v1/attend", json=attention),
            await client.post("/v1/tokenize", json={"input": "a"}),
        ):
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert response.json()["detail"] == "the models are being loaded; try again in 1 s"
        assert (await client.get("/livez")).status_code == 200
        models.load()
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/v1/analyze", json={"input": "a"})).status_code == 200
        assert (await client.post("/v1/attend", json=attention)).status_code == 200


@pytest.mark.anyio
async def test_draining_is_not_ready_but_still_serves(model: kqv.Model) -> None:
    app = make_app(model)
    async with serving(app) as client:
        app.state.service.draining = True
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/v1/analyze", json={"input": "a"})).status_code == 200


def test_first_model_is_the_default_one(model: kqv.Model) -> None:
    other = kqv.Model("other", model.transformer, None, model.revision)
    models = Models(lambda: [other, model])
    models.load()
    assert models.get(None) is other
    assert models.get("tiny") is model
    assert [served.id for served in models.all()] == ["other", "tiny"]


def test_two_models_of_one_name_are_refused(model: kqv.Model) -> None:
    with pytest.raises(kqv.CheckpointError, match="two models are called tiny"):
        Models(lambda: [model, model]).load()


def test_model_without_a_tokenizer_asks_for_ids(model: kqv.Model) -> None:
    models = Models(lambda: [kqv.Model("mute", model.transformer, None, model.revision)])
    models.load()
    with listening(create_app(Settings(), models)) as url, httpx.Client(base_url=url) as client:
        response = client.post("/v1/tokenize", json={"input": "a"})
        assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, ["model"])
        response = client.post("/v1/analyze", json={"input": "a"})
        assert "send tokens instead of text" in response.json()["detail"]
        assert "tokens" not in client.post("/v1/analyze", json={"input": [5]}).json()["results"][0]
