"""POST /v1/analyze says what the engine found, in the shapes of the contract."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import kqv
from service.wire.answers import AnalyzeAnswer

SENTENCE = "the cat sat on the mat ."


def analyze(client: httpx.Client, **body: Any) -> Any:
    """The answer, which the document of the API describes."""
    response = client.post("/v1/analyze", json=body)
    assert response.status_code == 200, response.text
    AnalyzeAnswer.model_validate_json(response.content, strict=True)
    return response.json()


def nulls_as(missing: float, nested: Any) -> torch.Tensor:
    return torch.tensor(np.where(np.equal(nested, None), missing, nested).astype(np.float32))


def test_everything_that_was_asked_for_is_what_the_engine_finds(client: httpx.Client, model: kqv.Model) -> None:
    outputs = ["hidden", "pooled", "q", "k", "v", "scaled_scores", "head_outputs"]
    answer = analyze(client, input=SENTENCE, outputs=outputs, diagnostics="all")
    [expected] = model.analyze([SENTENCE], outputs=tuple(outputs), diagnostics="all")
    [result], group = answer["results"], expected.attention["encoder"]
    assert result["tokens"] == list(expected.tokens)
    assert result["token_ids"] == list(expected.token_ids)
    assert_close(torch.tensor(result["hidden"]), expected.hidden)
    assert_close(torch.tensor(result["pooled"]), expected.pooled)
    found = result["attention"]["encoder"]
    assert (found["layers"], found["heads"]) == ([0, 1, 2], [0, 1, 2, 3, 4])
    for name in ("weights", "q", "k", "v", "scaled_scores", "head_outputs"):
        assert_close(torch.tensor(found[name]), getattr(group, name))
    assert found["diagnostics"].keys() == group.diagnostics.keys()
    for name, figures in group.diagnostics.items():
        assert_close(nulls_as(torch.nan, found["diagnostics"][name]), figures, equal_nan=True)
    assert result["checks"]["forbidden_mass"] == 0
    assert answer["usage"] == {"sequences": 1, "tokens": 9}


def test_what_was_not_asked_for_is_absent(client: httpx.Client) -> None:
    [result] = analyze(client, input=SENTENCE, weights="none", diagnostics="none", outputs=["pooled"])["results"]
    assert result.keys() == {"tokens", "token_ids", "truncated", "pooled"}
    [result] = analyze(client, input=SENTENCE, weights="none", diagnostics=["entropy"], outputs=[])["results"]
    assert result.keys() == {"tokens", "token_ids", "truncated", "attention", "checks"}
    assert result["attention"]["encoder"].keys() == {"layers", "heads", "diagnostics"}


def test_selection_is_the_engines(client: httpx.Client, model: kqv.Model) -> None:
    chosen = {"layers": [-1, 0], "heads": [3], "queries": [1, 4], "keys": [2, 9], "weights": "top", "top_k": 3, "per_query": True}
    [result] = analyze(client, input=SENTENCE, **chosen)["results"]
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    [expected] = model.analyze([SENTENCE], **tuples)
    found, group = result["attention"]["encoder"], expected.attention["encoder"]
    assert (found["layers"], found["heads"]) == ([2, 0], [3])
    assert found["top"]["keys"] == group.top.keys.tolist()
    assert_close(torch.tensor(found["top"]["weights"]), group.top.weights)
    assert np.shape(found["diagnostics"]["entropy"]) == (2, 1, 3)


def test_top_k_beyond_the_keys_gives_all_of_them(client: httpx.Client) -> None:
    [result] = analyze(client, input=SENTENCE, weights="top", top_k=10**6)["results"]
    assert np.shape(result["attention"]["encoder"]["top"]["keys"]) == (3, 5, 9, 9)


def test_pooled_maps_and_similarity_have_their_shapes(client: httpx.Client) -> None:
    [result] = analyze(client, input=SENTENCE, weights="pooled", pool=4, diagnostics=["similarity"])["results"]
    found = result["attention"]["encoder"]
    assert np.shape(found["pooled"]) == (3, 5, 4, 4)
    assert np.shape(found["diagnostics"]["similarity"]) == (3, 5, 5)


def test_what_is_named_twice_is_given_once(client: httpx.Client) -> None:
    [result] = analyze(client, input=SENTENCE, diagnostics=["self", "self"], outputs=["pooled", "pooled"], weights="none")[
        "results"
    ]
    assert list(result["attention"]["encoder"]["diagnostics"]) == ["self"]


def test_undefined_figures_are_null(client: httpx.Client) -> None:
    [result] = analyze(client, input="cat", weights="none", diagnostics=["duplicate"])["results"]
    assert result["attention"]["encoder"]["diagnostics"]["duplicate"] == [[None] * 5] * 3


def test_texts_ids_and_objects_stand_beside_each_other(client: httpx.Client, model: kqv.Model) -> None:
    ids = list(model.read(SENTENCE).ids)
    objects = [{"text": SENTENCE}, {"tokens": ids}, {"text": "the cat", "pair": "a dog ran"}]
    results = analyze(client, input=[SENTENCE, ids, *objects])["results"]
    assert [len(result["token_ids"]) for result in results] == [9, 9, 9, 9, 8]
    for result in results[1:4]:
        assert_close(torch.tensor(result["hidden"]), torch.tensor(results[0]["hidden"]))
    assert analyze(client, input=ids)["results"][0]["token_ids"] == ids


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_encoded_embeddings_equal_nested_ones(client: httpx.Client, dtype: str) -> None:
    embeddings = np.random.default_rng(0).standard_normal((7, 35)).astype(np.float32)
    data = base64.b64encode(embeddings.astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode()
    encoded = {"dtype": dtype, "shape": [7, 35], "data": data}
    nested, from_bytes = analyze(client, input=[{"embeddings": embeddings.tolist()}, {"embeddings": encoded}])["results"]
    assert nested.keys() == {"truncated", "hidden", "attention", "checks"}
    assert_close(torch.tensor(nested["hidden"]), torch.tensor(from_bytes["hidden"]))


@pytest.mark.parametrize(("truncate", "kept"), [("left", slice(2, None)), ("right", slice(None, 41))])
def test_truncation_keeps_the_other_end(client: httpx.Client, truncate: str, kept: slice) -> None:
    ids = list(range(5, 48))
    [result] = analyze(client, input=ids, truncate=truncate, weights="none")["results"]
    assert (result["token_ids"], result["truncated"]) == (ids[kept], 2)


@pytest.mark.parametrize("text", ["🙂 the cat", "שלום the cat مرحبا", "the\x00cat", "é ﬁ ∑", " "])
def test_any_character_is_text(client: httpx.Client, text: str) -> None:
    [result] = analyze(client, input=text, weights="none")["results"]
    assert result["tokens"][0] == "[CLS]"
    assert result["tokens"][-1] == "[SEP]"


def test_timing_says_where_the_time_went(client: httpx.Client) -> None:
    response = client.post("/v1/analyze", json={"input": [SENTENCE, "a dog"]})
    stages = [part.split(";dur=") for part in response.headers["server-timing"].split(", ")]
    assert [name for name, _ in stages] == ["tokenize", "queue", "forward", "encode"]
    assert all(float(duration) >= 0 for _, duration in stages)
    timing = response.json()["timing"]
    assert timing["batch_sequences"] == 2
    assert timing["compute_ms"] == pytest.approx(float(stages[2][1]), abs=0.001)


def test_long_bodies_and_answers_take_the_way_through_threads(client: httpx.Client, model: kqv.Model) -> None:
    body = {"input": [SENTENCE], "weights": "full", "outputs": ["hidden"]}
    padded = json.dumps(body).replace("{", "{" + " " * 100_000, 1)
    response = client.post("/v1/analyze", content=padded, headers={"content-type": "application/json"})
    assert_close(torch.tensor(response.json()["results"][0]["hidden"]), model.analyze([SENTENCE])[0].hidden)
