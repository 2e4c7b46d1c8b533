"""Nothing that anyone sends is an error of ours: no 5xx, always an answer, and then the next request is served."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.wire.requests import AnalyzeRequest, AttendRequest, GenerateRequest, TokenizeRequest

REQUESTS = {"analyze": AnalyzeRequest, "attend": AttendRequest, "generate": GenerateRequest, "tokenize": TokenizeRequest}
WORDS = [
    "tiny",
    "full",
    "top",
    "pooled",
    "none",
    "all",
    "entropy",
    "similarity",
    "hidden",
    "q",
    "weights",
    "causal",
    "left",
    "dense",
]


def matrices(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Of sides 1 to 3, so that two of them often fit each other."""
    sides = st.tuples(st.integers(1, 3), st.integers(1, 3))
    return sides.flatmap(
        lambda side: st.lists(st.lists(values, min_size=side[0], max_size=side[0]), min_size=side[1], max_size=side[1])
    )


rows = matrices(st.floats(-9, 9))
encoded = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["float32", "bool", "int8"]),
        "shape": st.lists(st.integers(-1, 2), max_size=4),
        "data": st.sampled_from(["", "AAAA", "AAAAAA==", "AAAAAAAAAAA="]),
    }
)
counts = st.integers(0, 5) | st.integers()
scalars = st.none() | st.booleans() | counts | st.floats() | st.sampled_from(WORDS) | st.text(max_size=8)
lists = st.lists(st.integers(-2, 7), max_size=5) | st.lists(st.sampled_from(WORDS), max_size=3)
likely = lists | rows | matrices(st.booleans()) | st.lists(rows, max_size=3) | encoded | st.sampled_from(WORDS) | counts
anything = st.recursive(
    scalars | likely,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "tokens", "embeddings", "pair"]), inner),
    max_leaves=8,
)
good = {
    "analyze": st.fixed_dictionaries(
        {"input": st.sampled_from(["the cat", [5, 6, 7], ["a", [5]], {"embeddings": [[0.5] * 35] * 2}])}
    ),
    "attend": st.fixed_dictionaries({"q": rows, "k": rows, "v": rows})
    | st.fixed_dictionaries({"x": rows, "num_heads": st.integers(1, 3), "seed": st.integers(0, 9)})
    | st.fixed_dictionaries({"x": rows, "num_heads": st.integers(1, 2), "w_q": rows, "w_k": rows, "w_v": rows, "w_o": rows}),
    "generate": st.fixed_dictionaries(
        {"input": st.sampled_from(["the cat", [5, 6, 7], ["a", [5]]]), "max_new_tokens": st.integers(1, 3)}
    ),
    "tokenize": st.fixed_dictionaries({"input": st.text(max_size=9) | st.lists(st.text(max_size=9))}),
}


def send(client: httpx.Client, route: str, content: bytes) -> httpx.Response:
    return client.post(f"/v1/{route}", content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize("route", REQUESTS)
@settings(max_examples=250)
@given(data=st.data())
def test_any_json_is_answered_or_refused(
    client: httpx.Client, decoder_client: httpx.Client, route: str, data: st.DataObject
) -> None:
    fields = st.sampled_from(list(REQUESTS[route].model_fields))
    changes = st.dictionaries(fields, likely, max_size=1) | st.dictionaries(fields, anything, max_size=2)
    content = json.dumps(data.draw(good[route]) | data.draw(changes))  # NaN and Infinity too, as Python writes them
    response = send(decoder_client if route == "generate" else client, route, content.encode())
    assert response.status_code in {200, 404, 413, 422}, (content, response.text)


@settings(max_examples=100)
@given(content=st.binary(max_size=64) | anything.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_request_is_refused(client: httpx.Client, content: bytes) -> None:
    assert send(client, "analyze", content).status_code in {400, 422}


def test_after_a_thousand_broken_requests_the_next_is_served(client: httpx.Client) -> None:
    broken = [b"{", b'{"input": []}', b'{"input": [97]}', b'{"input": "a", "layers": [9]}', b"\xff"]
    for number in range(1000):
        assert 400 <= send(client, "analyze", broken[number % len(broken)]).status_code < 500
    assert send(client, "analyze", b'{"input": "the cat"}').status_code == 200
