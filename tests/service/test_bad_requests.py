"""Whatever is wrong with a request, the answer says what, where, and what to do; and the next request is served."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from problems import check_invalid, problem

GOOD = {"input": "the cat", "weights": "none"}
ROW = [0.5] * 35
EYE = [[1.0, 0.0], [0.0, 1.0]]
HEADS = {"q": EYE, "k": EYE, "v": EYE}


@pytest.fixture(autouse=True)
def _next_request_is_served(client: httpx.Client) -> Iterator[None]:
    yield
    assert client.post("/v1/analyze", json=GOOD).status_code == 200


def encoded(dtype: str, shape: list[int], data: bytes) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data": base64.b64encode(data).decode()}


CONTEXT = list(range(42))
ANALYZE: dict[str, tuple[dict[str, Any], list[str | int], str]] = {
    "unknown field": ({"input": "a", "layer": [0]}, ["layer"], "no such field"),
    "unknown field of a sequence": ({"input": {"text": "a", "txt": "b"}}, ["input", "txt"], "no such field"),
    "no input": ({}, ["input"], "required"),
    "unknown layer": ({"input": "a", "layers": [0, 3]}, ["layers", 1], "the model has 3: 0 to 2, or -3 to -1"),
    "layer too far from the end": ({"input": "a", "layers": [-4]}, ["layers", 0], "-3 to -1"),
    "no layers": ({"input": "a", "layers": []}, ["layers"], "leave it out for all"),
    "unknown head": ({"input": "a", "heads": [5]}, ["heads", 0], "the model has 5"),
    "fractional head": ({"input": "a", "heads": [0.5]}, ["heads", 0], "integer"),
    "unknown output": ({"input": "a", "outputs": ["hidden", "gradients"]}, ["outputs", 1], "'scaled_scores'"),
    "output that the model lacks": ({"input": "a", "outputs": ["logits"]}, ["outputs"], "no language-model head"),
    "unknown diagnostic": ({"input": "a", "diagnostics": ["entropy", "vibes"]}, ["diagnostics", 1], "there are entropy"),
    "unknown set of diagnostics": ({"input": "a", "diagnostics": "most"}, ["diagnostics"], "'all' or 'none'"),
    "diagnostics of no form": ({"input": "a", "diagnostics": 3}, ["diagnostics"], 'this is "all", "none", or a list'),
    "unknown weights": ({"input": "a", "weights": "half"}, ["weights"], "'pooled'"),
    "top_k 0": ({"input": "a", "weights": "top", "top_k": 0}, ["top_k"], "greater than or equal to 1"),
    "top_k true": ({"input": "a", "weights": "top", "top_k": True}, ["top_k"], "integer"),
    "pool 0": ({"input": "a", "weights": "pooled", "pool": 0}, ["pool"], "greater than or equal to 1"),
    "crop out of range": ({"input": "the cat", "queries": [0, 5]}, ["queries"], "stop <= 4, the sequence's length"),
    "crop reversed": ({"input": "the cat", "keys": [2, 1]}, ["keys"], "0 <= start < stop"),
    "crop negative": ({"input": "the cat", "keys": [-2, 1]}, ["keys"], "0 <= start < stop"),
    "crop of three": ({"input": "the cat", "keys": [0, 1, 2]}, ["keys"], "at most 2"),
    "empty text": ({"input": ""}, ["input"], "text is empty"),
    "empty text in a list": ({"input": ["a", ""]}, ["input", 1], "text is empty"),
    "empty text of an object": ({"input": {"text": ""}}, ["input", "text"], "text is empty"),
    "empty list": ({"input": []}, ["input"], "at least 1"),
    "empty sequence": ({"input": [[1], []]}, ["input", 1], "a list of token ids"),
    "no tokens": ({"input": {"tokens": []}}, ["input"], "the sequence is empty"),
    "null": ({"input": None}, ["input"], "this is a sequence or a list of them"),
    "too many sequences": ({"input": ["a"] * 8}, ["input"], "at most 7 sequences, not 8"),
    "text and tokens": ({"input": {"text": "a", "tokens": [5]}}, ["input"], "exactly one of text, tokens and embeddings"),
    "neither": ({"input": [{}]}, ["input", 0], "exactly one of text, tokens and embeddings"),
    "pair beside tokens": ({"input": {"tokens": [5], "pair": "a"}}, ["input", "pair"], "second segment of a text"),
    "id negative": ({"input": [5, -1]}, ["input", 1], "whole numbers from 0 to 96, not -1"),
    "id too large": ({"input": [[5], [6, 97]]}, ["input", 1, 1], "whole numbers from 0 to 96, not 97"),
    "id of an object too large": ({"input": [{"tokens": [10**30]}]}, ["input", 0, "tokens", 0], "whole numbers from 0 to 96"),
    "id fractional": ({"input": [5, 6.5]}, ["input", 1], "integer"),
    "id whole but a float": ({"input": {"tokens": [5.0]}}, ["input", "tokens", 0], "integer"),
    "id boolean": ({"input": [[5, True]]}, ["input", 0, 1], "integer"),
    "id text": ({"input": [5, "a"]}, ["input", 1], "integer"),
    "text among ids": ({"input": ["a", 5]}, ["input", 1], "this is a text, a list of token ids"),
    "embeddings ragged": ({"input": {"embeddings": [ROW, ROW[1:]]}}, ["input", "embeddings", 1], "ragged: this list is 34 long"),
    "embeddings of the wrong width": (
        {"input": {"embeddings": [[0.5]]}},
        ["input", "embeddings"],
        "[tokens, 35] for this model, not [1, 1]",
    ),
    "embeddings flat": ({"input": {"embeddings": ROW}}, ["input", "embeddings"], "this is a matrix of numbers"),
    "embeddings of text": ({"input": {"embeddings": [["a"] * 35]}}, ["input", "embeddings", 0, 0], "number"),
    "embeddings with true": ({"input": {"embeddings": [ROW, [True, *ROW[1:]]]}}, ["input", "embeddings", 1, 0], "number"),
    "embeddings with 1e30": (
        {"input": {"embeddings": [[1e30, *ROW[1:]]]}},
        ["input", "embeddings"],
        "whose square overflows float32",
    ),
    "embeddings with 1e300": ({"input": {"embeddings": [[1e300, *ROW[1:]]]}}, ["input", "embeddings"], "an infinity"),
    "embeddings of no shape": (
        {"input": [{"embeddings": encoded("float32", [1, 35], b"1234")}]},
        ["input", 0, "embeddings", "data"],
        "data holds 4 bytes, but float32 of shape [1, 35] takes 140",
    ),
    "embeddings that overflow memory": (
        {"input": {"embeddings": encoded("float64", [1 << 62, 1 << 62], b"")}},
        ["input", "embeddings", "data"],
        "data holds 0 bytes",
    ),
    "embeddings with NaN inside": (
        {"input": {"embeddings": encoded("float32", [1, 35], b"\xff" * 140)}},
        ["input", "embeddings"],
        "holds NaN",
    ),
    "embeddings that are no base64": (
        {"input": {"embeddings": {"dtype": "float32", "shape": [1, 35], "data": "§"}}},
        ["input", "embeddings", "data"],
        "not base64",
    ),
    "embeddings of booleans": (
        {"input": {"embeddings": encoded("bool", [1, 35], b"\x01" * 35)}},
        ["input", "embeddings", "dtype"],
        "floats or integers, not bool",
    ),
    "embeddings of an unknown type": (
        {"input": {"embeddings": encoded("int4", [1, 35], b"")}},
        ["input", "embeddings", "dtype"],
        "'float32'",
    ),
    "longer than the context": ({"input": CONTEXT}, ["input"], 'set truncate to "left" or "right"'),
    "text longer than the context": (
        {"input": ["a", "cat " * 40]},
        ["input", 1],
        "42 tokens, 1 more than the model's context of 41",
    ),
    "unknown truncate": ({"input": "a", "truncate": "middle"}, ["truncate"], "'left' or 'right'"),
    "no such attention": ({"input": "a", "attention": "sparse"}, ["attention"], "'dense'"),
    "attention of an unknown kind": (
        {"input": "a", "attention": {"kind": "sparse"}},
        ["attention"],
        "longformer, linformer, performer",
    ),
    "window beyond the sequence": (
        {"input": "the cat", "attention": {"kind": "longformer", "window": 10}},
        ["attention", "window"],
        "beyond the sequence of 4; take at most 8",
    ),
    "attention of a group that the model lacks": (
        {"input": "the cat", "attention": {"kind": "performer", "groups": ["decoder"]}},
        ["attention", "groups", 0],
        "this model has no decoder attention; it has encoder",
    ),
    "attention of no group": (
        {"input": "the cat", "attention": {"kind": "performer", "groups": ["middle"]}},
        ["attention", "groups", 0],
        "'encoder', 'decoder' or 'cross'",
    ),
    "tensors of one's own beside a model": (
        {"input": "the cat", "attention": {"kind": "longformer", "window": 2, "global_q": EYE}},
        ["attention", "global_q"],
        "no such field",
    ),
    "linformer for another length": (
        {"input": "the cat", "attention": {"kind": "linformer", "e": EYE}},
        ["attention", "e"],
        "for 2 keys, and there are 4",
    ),
    "compare with nothing": ({"input": "a", "compare": True}, ["compare"], "leave compare out"),
    "interventions not built": ({"input": "a", "interventions": [{"op": "ablate"}]}, ["interventions"], "not built yet"),
    "target for an encoder": ({"input": {"text": "a", "target": "b"}}, ["input", "target"], "a target is for encoder–decoders"),
    "target of no form": ({"input": {"text": "a", "target": 5}}, ["input", "target"], "this is a text or a list of token ids"),
}


@pytest.mark.parametrize("case", ANALYZE)
def test_analyze_names_the_field(client: httpx.Client, case: str) -> None:
    body, loc, complaint = ANALYZE[case]
    check_invalid(client.post("/v1/analyze", json=body), loc, complaint)


ATTEND: dict[str, tuple[dict[str, Any], list[str | int], str]] = {
    "nothing": ({}, [], "give q, k and v, or x with num_heads"),
    "both forms": (HEADS | {"x": EYE}, ["x"], "can't stand beside q"),
    "no values": ({"q": EYE, "k": EYE}, ["v"], "v is missing"),
    "vectors without heads": ({"x": EYE, "seed": 0}, ["num_heads"], "num_heads is missing"),
    "vectors without projections": (
        {"x": EYE, "num_heads": 1},
        ["seed"],
        "w_q, w_k, w_v and w_o, or in place of all of them a seed",
    ),
    "some projections": ({"x": EYE, "num_heads": 1, "w_q": EYE}, ["seed"], "all of w_q, w_k, w_v and w_o"),
    "projections and seed": ({"x": EYE, "num_heads": 1, "w_q": EYE, "seed": 1}, ["seed"], "in place of all of them"),
    "heads that don't divide": (
        {"x": [[1, 2, 3]], "num_heads": 2, "seed": 0},
        ["num_heads"],
        "num_heads divides the width of x, 3",
    ),
    "no heads": ({"x": EYE, "num_heads": 0, "seed": 0}, ["num_heads"], "greater than or equal to 1"),
    "more heads than columns": ({"x": EYE, "num_heads": 10**12, "seed": 0}, ["num_heads"], "num_heads divides the width of x, 2"),
    "widths that differ": (HEADS | {"k": [[1.0], [2.0]]}, ["k"], "q and k need the same width"),
    "lengths that differ": (HEADS | {"v": [[1.0, 2.0]]}, ["v"], "k and v need the same heads and length"),
    "ranks that differ": (HEADS | {"q": [EYE]}, ["q"], "all [n, d], all [heads, n, d]"),
    "projection of the wrong height": (
        {"x": [[1.0, 2.0, 3.0]], "num_heads": 1, "w_q": EYE, "w_k": EYE, "w_v": EYE, "w_o": EYE},
        ["w_q"],
        "w_q needs 3 rows",
    ),
    "ragged queries": (HEADS | {"q": [[1.0, 2.0], [1.0]]}, ["q", 1], "ragged: this list is 1 long, the first one 2"),
    "ragged heads": (HEADS | {"q": [EYE, [[1.0, 0.0]]]}, ["q", 1], "ragged"),
    "queries of the wrong depth": (HEADS | {"q": [1.0]}, ["q"], "this is a matrix [n, d], a stack of them"),
    "no queries": (HEADS | {"q": [[]]}, ["q"], "at least one number in every dimension"),
    "mask that hides a query": (HEADS | {"mask": [[True, False], [False, False]]}, ["mask"], "hides every key from query 1"),
    "mask of the wrong shape": (HEADS | {"mask": [[True]]}, ["mask"], "mask is [queries, keys] = [2, 2]"),
    "mask of numbers": (HEADS | {"mask": [[1, 0], [1, 1]]}, ["mask", 0, 0], "boolean"),
    "mask as numbers in bytes": (
        HEADS | {"mask": encoded("float32", [1, 1], b"1234")},
        ["mask", "dtype"],
        "a mask is bool, not float32",
    ),
    "unknown mask": (HEADS | {"mask": "sliding"}, ["mask"], "'none' or 'causal'"),
    "bias of the wrong shape": (HEADS | {"bias": [[0.0]]}, ["bias"], "bias is [queries, keys] = [2, 2]"),
    "numbers past float32": (HEADS | {"q": [[1e39, 0.0], [0.0, 1.0]]}, ["q"], "q holds NaN or an infinity"),
    "scores past float32": (HEADS | {"q": [[1e30, 0.0], [0.0, 1.0]], "k": [[1e30, 0.0], [0.0, 1.0]]}, ["q"], "scale q and k down"),
    "unknown step": (HEADS | {"include": ["weights", "gradients"]}, ["include", 1], "'scaled_scores'"),
}


@pytest.mark.parametrize("case", ATTEND)
def test_attend_names_the_field(client: httpx.Client, case: str) -> None:
    body, loc, complaint = ATTEND[case]
    check_invalid(client.post("/v1/attend", json=body), loc, complaint)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_named(client: httpx.Client, number: str) -> None:
    body = '{"q": [[1, 0], [0, NUMBER]], "k": [[1, 0]], "v": [[1]]}'.replace("NUMBER", number)
    response = client.post("/v1/attend", content=body, headers={"content-type": "application/json"})
    check_invalid(response, ["q", 1, 1], "finite number")


def test_several_wrong_fields_are_all_named(client: httpx.Client) -> None:
    document = problem(
        client.post("/v1/analyze", json={"input": "a", "weights": "half", "top_k": 0, "pool": -1, "per_query": 1}), 422
    )
    assert [error["loc"] for error in document["errors"]] == [["weights"], ["top_k"], ["pool"], ["per_query"]]
    assert document["detail"].endswith("; and 1 more")


TOKENIZE: dict[str, tuple[dict[str, Any], list[str | int], str]] = {
    "nothing": ({"input": []}, ["input"], "at least 1"),
    "ids": ({"input": [1, 2]}, ["input", 0], "string"),
    "number": ({"input": 1}, ["input"], "this is a text or a list of texts"),
    "pair beside a list": ({"input": ["a"], "pair": "b"}, ["pair"], "beside a single text"),
    "too many": ({"input": ["a"] * 8}, ["input"], "at most 7"),
}


@pytest.mark.parametrize("case", TOKENIZE)
def test_tokenize_names_the_field(client: httpx.Client, case: str) -> None:
    body, loc, complaint = TOKENIZE[case]
    check_invalid(client.post("/v1/tokenize", json=body), loc, complaint)


def test_unknown_model_lists_those_there_are(client: httpx.Client) -> None:
    for response in (
        client.post("/v1/analyze", json=GOOD | {"model": "huge"}),
        client.post("/v1/tokenize", json={"input": "a", "model": "huge"}),
        client.get("/v1/models/huge"),
    ):
        assert problem(response, 404)["detail"] == "there is no model 'huge' here; there are: tiny"


def test_answer_too_large_is_refused_with_what_to_ask_for_instead(client: httpx.Client) -> None:
    detail = problem(client.post("/v1/analyze", json={"input": [[5] * 41] * 2}), 413)["detail"]
    numbers = 2 * (3 * 5 * (41 * 41 + 14) + 41 * 35)
    assert detail.startswith(f"the answer would be about {numbers * 14 / 2**20:.1f} MiB ({numbers} numbers), more than the 0.3 MiB")
    for advice in ('weights "top" or "pooled"', "fewer layers", "a crop", "fewer sequences"):
        assert advice in detail
    assert client.post("/v1/analyze", json={"input": [[5] * 41] * 2, "weights": "none"}).status_code == 200


def test_attention_too_large_is_refused_before_it_is_held(client: httpx.Client) -> None:
    column = [[1.0]] * 200
    detail = problem(client.post("/v1/attend", json={"q": column, "k": column, "v": column, "include": ["output"]}), 413)["detail"]
    assert "120000 numbers in memory, more than the 100000" in detail
    assert "fewer queries and keys" in detail
    wide = {"x": [[1.0] * 200], "num_heads": 1, "seed": 0, "include": ["output"]}
    assert "160003 numbers in memory" in problem(client.post("/v1/attend", json=wide), 413)["detail"]
    column = [[1.0]] * 160
    detail = problem(client.post("/v1/attend", json={"q": column, "k": column, "v": column}), 413)["detail"]
    assert "leave steps out of include" in detail


@pytest.mark.parametrize("timeout", ["0", "-5", "soon", "1.5"])
def test_deadline_that_is_none_is_named(client: httpx.Client, timeout: str) -> None:
    document = problem(client.post("/v1/analyze", json=GOOD, headers={"x-request-timeout-ms": timeout}), 422)
    assert [error["loc"] for error in document["errors"]] == [["header", "x-request-timeout-ms"]]


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    assert "/docs" in problem(client.get("/v1/analyse"), 404)["detail"]
    assert "/docs" in problem(client.post("/v1/analyze/", json=GOOD), 404)["detail"]
    response = client.get("/v1/analyze")
    assert "Allow" in problem(response, 405)["detail"]
    assert response.headers["allow"] == "POST"
