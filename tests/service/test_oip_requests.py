"""Inference requests that are wrong: each is told so in the protocol's form, and the next one is served."""

import gzip
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.oip.answers import InferAnswer
from service.oip.requests import InferRequest

LENGTH = "Inference-Header-Content-Length"
TEXT = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the cat"]}
GOOD = {"inputs": [TEXT], "outputs": [{"name": "pooled"}]}


@pytest.fixture(autouse=True)
def _next_request_is_served(client: httpx.Client) -> Iterator[None]:
    yield
    assert infer(client, GOOD).status_code == 200


def infer(client: httpx.Client, body: object, binary: bytes = b"", **headers: str) -> httpx.Response:
    """The request as Triton's client sends it: without a media type, and its length only where there is binary data."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    if binary:
        headers = {LENGTH: str(len(text))} | headers
    return client.post("/v2/models/tiny/infer", content=text + binary, headers=headers)


def complaint(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()
    assert list(error) == ["error"]
    return str(error["error"])


def ids(**changes: Any) -> dict[str, Any]:
    """An input of two sequences of three tokens."""
    return {"name": "input_ids", "shape": [2, 3], "datatype": "INT64", "data": [2, 5, 3, 2, 6, 3]} | changes


def of(*inputs: Any, **fields: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), "outputs": [{"name": "pooled"}]} | fields


def without(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({"inputs": []}, "at least 1"),
    "nothing at all": ({}, "inputs: Field required"),
    "an unknown field": (GOOD | {"input": []}, "no such field"),
    "an unknown field of an input": (of(TEXT | {"dtype": "x"}), "no such field"),
    "an unknown input": (of(TEXT | {"name": "prompt"}), "inputs.0.name: there is no input 'prompt'; there are text, pair"),
    "an input twice": (of(TEXT, TEXT), "inputs.1.name: the input 'text' is given twice"),
    "two sources": (
        of(TEXT, ids(shape=[1, 3], data=[2, 5, 3])),
        "embeddings, not text and input_ids",
    ),
    "no source": (of(TEXT | {"name": "pair"}), "not none of them"),
    "a mask beside texts": (of(TEXT, ids(name="attention_mask")), "attention_mask can't stand beside text"),
    "a pair beside ids": (of(ids(), TEXT | {"name": "pair"}), "pair can't stand beside input_ids"),
    "pairs of another number": (of(TEXT, TEXT | {"name": "pair", "shape": [2], "data": ["a", "b"]}), "pair needs the shape [1]"),
    "a target for an encoder": (of(TEXT, TEXT | {"name": "target"}), "there is no input 'target'"),
    "a mask of another shape": (of(ids(), ids(name="attention_mask", shape=[3, 2])), "attention_mask needs the shape [2, 3]"),
    "a mask with a gap": (of(ids(), ids(name="attention_mask", data=[1, 0, 1, 1, 1, 1])), "attention_mask of sequence 0 has a gap"),
    "a mask of nothing": (of(ids(), ids(name="attention_mask", data=[1, 1, 1, 0, 0, 0])), "sequence.1: the sequence is empty"),
    "an unknown output": (
        GOOD | {"outputs": [{"name": "logits"}]},
        "outputs.0.name: there is no output 'logits'; there are",
    ),
    "an output twice": (GOOD | {"outputs": [{"name": "pooled"}] * 2}, "outputs.1.name: the output 'pooled' is asked for twice"),
    "classes": (GOOD | {"outputs": [{"name": "pooled", "parameters": {"classification": 3}}]}, "no classes"),
    "an output in shared memory": (
        GOOD | {"outputs": [{"name": "pooled", "parameters": {"shared_memory_region": "a"}}]},
        "no shared memory",
    ),
    "a flag that is none": (GOOD | {"outputs": [{"name": "pooled", "parameters": {"binary_data": 1}}]}, "true or false, not 1"),
    "an input in shared memory": (
        of(without(TEXT, "data") | {"parameters": {"shared_memory_region": "a", "shared_memory_byte_size": 3}}),
        "there is no shared memory here; send the elements",
    ),
    "an unknown parameter of an input": (of(TEXT | {"parameters": {"a": 1}}), "no parameter but binary_data_size"),
    "an unknown parameter": (GOOD | {"parameters": {"priority": 1}}, "parameters.priority: there is no such parameter; there are"),
    "a sequence": (GOOD | {"parameters": {"sequence_id": 1}}, "there is no such parameter"),
    "a parameter that is a list": (GOOD | {"parameters": {"layers": [0]}}, "parameters.layers"),
    "a timeout of zero": (GOOD | {"parameters": {"timeout": 0}}, "timeout is in microseconds, 1 to 86400000000, not 0"),
    "a negative timeout": (GOOD | {"parameters": {"timeout": -5}}, "not -5"),
    "a timeout that is no number": (GOOD | {"parameters": {"timeout": "soon"}}, "not 'soon'"),
    "a timeout of true": (GOOD | {"parameters": {"timeout": True}}, "not True"),
    "layers of no form": (GOOD | {"parameters": {"layers": "first"}}, 'a text such as "0,-1"'),
    "layers of nothing": (GOOD | {"parameters": {"layers": ""}}, 'a text such as "0,-1"'),
    "a layer that there isn't": (GOOD | {"parameters": {"layers": "0,3"}}, "layers.1: layers has 3, but the model has 3: 0 to 2"),
    "a crop of three": (GOOD | {"parameters": {"queries": "0,1,2"}}, 'a text such as "0,8", two'),
    "a crop out of range": (GOOD | {"parameters": {"queries": "0,99"}}, "the sequence's length"),
    "an unknown way to cut": (GOOD | {"parameters": {"truncate": "middle"}}, "error, left, right"),
    "an unknown datatype": (of(TEXT | {"datatype": "STRING"}), "inputs.0.datatype: there is no datatype 'STRING'; there are BOOL"),
    "another datatype": (of(ids(datatype="FP32")), "input_ids is INT64, not FP32"),
    "texts as numbers": (of(TEXT | {"datatype": "INT64", "data": [5]}), "text is BYTES, not INT64"),
    "another rank": (of(ids(shape=[6])), "input_ids is [-1, -1], -1 being any size, not [6]"),
    "no rank": (of(ids(shape=[])), "inputs.0.shape"),
    "nine dimensions": (of(ids(shape=[1] * 9)), "at most 8"),
    "a negative size": (of(ids(shape=[-2, -3])), "greater than or equal to 0"),
    "a fractional size": (of(ids(shape=[2, 3.0])), "integer"),
    "a size beyond all": (of(ids(shape=[1 << 62, 1 << 62])), "data has 6 elements, but the shape"),
    "too few elements": (of(ids(data=[2, 5, 3])), "data has 3 elements, but the shape [2, 3] has 6"),
    "too many elements": (of(ids(data=[[2, 5, 3]] * 3)), "data has 9 elements"),
    "ragged elements": (of(ids(data=[[2, 5, 3], 2, 6, 3])), "elements of INT64 are int in JSON, not"),
    "elements that are floats": (of(ids(data=[2, 5, 3, 2, 6, 3.0])), "elements of INT64 are int in JSON, not float"),
    "elements that are true": (of(ids(data=[True] * 6)), "not bool"),
    "elements that are null": (of(ids(data=[None] * 6)), "not NoneType"),
    "elements that are objects": (of(ids(data=[{}] * 6)), "not dict"),
    "elements past the type": (of(ids(data=[2**70] * 6)), "data holds a number that INT64 can't"),
    "elements past a small type": (of(ids(datatype="INT8", data=[300] * 6)), "data holds a number that INT8 can't"),
    "texts that are numbers": (of(TEXT | {"data": [5]}), "elements of BYTES are str in JSON, not int"),
    "no data": (of(without(TEXT, "data")), "neither data nor binary_data_size"),
    "data that is no list": (of(TEXT | {"data": "a"}), "valid array"),
    "no sequence": (of(TEXT | {"shape": [0], "data": []}), "there is no sequence in the inputs"),
    "an empty sequence": (of(ids(shape=[2, 0], data=[])), "sequence.0: the sequence is empty"),
    "an empty text": (of(TEXT | {"data": [""]}), "sequence.0.text: text is empty"),
    "an unknown id": (of(ids(data=[2, 5, 97, 2, 6, 3])), "sequence.0.tokens.2: token ids of this model are whole numbers"),
    "too many sequences": (of(TEXT | {"shape": [8], "data": ["a"] * 8}), "at most 7 sequences, not 8"),
    "embeddings of another width": (
        of({"name": "embeddings", "shape": [1, 1, 2], "datatype": "FP32", "data": [0, 0]}),
        "embeddings are [tokens, 35] for this model",
    ),
    "embeddings past float32": (
        of({"name": "embeddings", "shape": [1, 1, 35], "datatype": "FP64", "data": [1e300] * 35}),
        "an infinity",
    ),
    "tokens of vectors": (
        of({"name": "embeddings", "shape": [1, 1, 35], "datatype": "FP32", "data": [0.5] * 35}, outputs=[{"name": "tokens"}]),
        "there is no tokens of this: it has no tokens of its own",
    ),
    "an id that is no text": (GOOD | {"id": 7}, "id: Input should be a valid string"),
    "a huge id": (GOOD | {"id": "x" * 1025}, "at most 1024"),
}


def test_examples_are_answered(client: httpx.Client) -> None:
    for example in InferRequest.model_json_schema()["examples"]:
        known = json.loads(json.dumps(example).replace("1996", "5").replace("101", "2").replace("102", "3"))
        response = infer(client, known)
        assert response.status_code == 200, response.text
        InferAnswer.model_validate_json(response.content, strict=True)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_field_is_named(client: httpx.Client, case: str) -> None:
    body, said = WRONG[case]
    assert said in complaint(infer(client, body))


BINARY = of(ids(data=None, parameters={"binary_data_size": 48}))
BYTES = np.array([[2, 5, 3], [2, 6, 3]]).tobytes()


def test_binary_data_is_read(client: httpx.Client) -> None:
    body = of(without(ids(), "data") | {"parameters": {"binary_data_size": 48}})
    assert infer(client, body, BYTES).json()["outputs"] == infer(client, of(ids())).json()["outputs"]
    assert infer(client, GOOD, **{LENGTH: str(len(json.dumps(GOOD)))}).status_code == 200  # with nothing after it


@pytest.mark.parametrize("length", ["-1", "1e3", "ten", "", "0x10", "+5", "5 5", "１", "9" * 19, "9" * 5000, "99999", "1.0"])
def test_length_of_the_json_is_a_number_within_the_body(client: httpx.Client, length: str) -> None:
    headers = [(LENGTH.encode(), length.encode())]
    response = client.post("/v2/models/tiny/infer", content=json.dumps(BINARY).encode() + BYTES, headers=headers)  # type: ignore[arg-type]
    assert f"header.{LENGTH}: this is how many bytes of the body are JSON" in complaint(response)


def test_two_lengths_are_none(client: httpx.Client) -> None:
    text = json.dumps(GOOD).encode()
    response = client.post("/v2/models/tiny/infer", content=text, headers=[(LENGTH, str(len(text)))] * 2)
    assert "this is how many bytes" in complaint(response)


@pytest.mark.parametrize("length", [0, 1, 10])
def test_length_that_cuts_the_json_is_malformed(client: httpx.Client, length: int) -> None:
    assert "the body is not JSON" in complaint(infer(client, BINARY, BYTES, **{LENGTH: str(length)}))


def texts(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def bytes_of(size: object, shape: list[int], datatype: str = "BYTES", name: str = "text") -> dict[str, Any]:
    return of({"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}})


SIZES: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "more than there is": (bytes_of(49, [2, 3], "INT64", "input_ids"), BYTES, "only 48 bytes are left of the body"),
    "less than there is": (bytes_of(40, [1, 5], "INT64", "input_ids"), BYTES, "8 bytes are left after the last tensor"),
    "not the shape's": (bytes_of(48, [2, 2], "INT64", "input_ids"), BYTES, "INT64 of shape [2, 2] takes 32 bytes"),
    "a shape beyond all": (bytes_of(48, [1 << 62, 1 << 62], "INT64", "input_ids"), BYTES, "takes 1701411834"),
    "negative": (bytes_of(-1, [2, 3], "INT64", "input_ids"), BYTES, "a whole number from 0 up, not -1"),
    "fractional": (bytes_of(48.0, [2, 3], "INT64", "input_ids"), BYTES, "not 48.0"),
    "true": (bytes_of(True, [2, 3], "INT64", "input_ids"), BYTES, "not True"),
    "a text": (bytes_of("48", [2, 3], "INT64", "input_ids"), BYTES, "not '48'"),
    "beside data": (of(ids(parameters={"binary_data_size": 48})), BYTES, "both data and binary_data_size"),
    "data for nobody": (of(ids()), BYTES, "48 bytes are left after the last tensor"),
    "a text that is cut": (bytes_of(5, [1]), texts(b"the cat")[:5], "the last element of BYTES is cut"),
    "a length that is cut": (bytes_of(2, [1]), b"\x01\x00", "the last element of BYTES is cut"),
    "a length beyond all": (bytes_of(8, [1]), b"\xff\xff\xff\xffcats", "the last element of BYTES is cut"),
    "one text too many": (bytes_of(13, [1]), texts(b"cat", b"do"), "has 2 elements, but the shape [1] has 1"),
    "one text too few": (bytes_of(7, [2]), texts(b"cat"), "has 1 elements, but the shape [2] has 2"),
    "a text that is no UTF-8": (bytes_of(6, [1]), texts(b"\xff\xfe"), "an element of BYTES is not UTF-8"),
    "half a surrogate pair": (bytes_of(7, [1]), texts(b"\xed\xa0\xbd"), "an element of BYTES is not UTF-8"),
    "NaN": (bytes_of(140, [1, 1, 35], "FP32", "embeddings"), b"\xff" * 140, "holds NaN"),
}


@pytest.mark.parametrize("case", SIZES)
def test_binary_sizes_add_up(client: httpx.Client, case: str) -> None:
    body, binary, said = SIZES[case]
    assert said in complaint(infer(client, body, binary))


def test_texts_may_hold_anything(client: httpx.Client) -> None:
    body = bytes_of(0, [3]) | {"outputs": [{"name": "lengths"}]}
    binary = texts("🙂 the cat".encode(), b"the\x00cat", b" ")
    body["inputs"][0]["parameters"]["binary_data_size"] = len(binary)
    assert infer(client, body, binary).json()["outputs"][0]["data"] == [5, 3, 2]


def test_compressed_requests_are_counted_inflated(client: httpx.Client) -> None:
    body = of(without(ids(), "data") | {"parameters": {"binary_data_size": 48}})
    text = json.dumps(body).encode()
    headers = {LENGTH: str(len(text)), "content-encoding": "gzip"}
    response = client.post("/v2/models/tiny/infer", content=gzip.compress(text + BYTES), headers=headers)
    assert response.status_code == 200
    bomb = client.post("/v2/models/tiny/infer", content=gzip.compress(bytes(1 << 28)), headers=headers)
    assert "the body is longer than 200000 bytes" in complaint(bomb, 413)
    assert "not gzip" in complaint(client.post("/v2/models/tiny/infer", content=b"{}", headers=headers))
    assert "gzip or deflate" in complaint(
        client.post("/v2/models/tiny/infer", content=b"{}", headers={"content-encoding": "br"}), 415
    )


def test_other_errors_have_the_protocols_form_too(client: httpx.Client) -> None:
    assert "the body is not JSON" in complaint(infer(client, b"{"))
    assert "recursion limit" in complaint(infer(client, b'{"inputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}"))
    assert "longer than 200000 bytes" in complaint(infer(client, b" " * 200_001), 413)
    assert "there is no model 'huge'" in complaint(client.post("/v2/models/huge/infer", json=GOOD), 404)
    assert "has one version, '1', and no '2'" in complaint(client.post("/v2/models/tiny/versions/2/infer", json=GOOD), 404)
    assert "nothing at this path" in complaint(client.get("/v2/model"), 404)
    assert "other methods" in complaint(client.delete("/v2/models/tiny"), 405)
    assert "the body is not JSON" in complaint(client.post("/v2/repository/index", content=b"{"))
    assert "no such field" in complaint(client.post("/v2/repository/index", json={"name": "tiny"}))
    assert client.post("/v2/repository/index", json={"ready": True}).status_code == 200
    assert "x-request-timeout-ms" in complaint(infer(client, GOOD, **{"x-request-timeout-ms": "0"}))
    wide = {"inputs": [ids(shape=[7, 41], data=[5] * 7 * 41)], "outputs": [{"name": "attention.encoder.weights"}]}
    assert "the answer would be about" in complaint(infer(client, wide), 413)


def test_filling_up_counts_for_the_length_of_the_answer(client: httpx.Client) -> None:
    lengths = {"name": "attention_mask", "shape": [5, 41], "datatype": "INT64", "data": [1] * 41 + ([1] + [0] * 40) * 4}
    body = {"inputs": [ids(shape=[5, 41], data=[5] * 205), lengths], "outputs": [{"name": "attention.encoder.weights"}]}
    assert f"{5 * 15 * 41 * 41} numbers" in complaint(infer(client, body), 413)


NAMES = ["text", "input_ids", "embeddings", "attention_mask", "pair", "hidden", "pooled", "attention.encoder.q"]
values = st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.sampled_from(["the cat", "", "0,1"])
inputs = st.fixed_dictionaries(
    {
        "name": st.sampled_from(NAMES),
        "shape": st.lists(st.integers(-1, 3), max_size=3),
        "datatype": st.sampled_from(["BYTES", "INT64", "INT32", "FP32", "BOOL", "INT4"]),
    },
    optional={
        "data": st.lists(values, max_size=9) | st.lists(st.lists(values, max_size=3), max_size=3),
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "shared_memory_region"]), values, max_size=1),
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.just([TEXT]) | st.lists(inputs, max_size=3)},
    optional={
        "id": st.text(max_size=3),
        "parameters": st.dictionaries(st.sampled_from(["timeout", "layers", "keys", "truncate", "binary_data_output"]), values),
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(NAMES)}), max_size=3),
    },
)


@settings(max_examples=200)
@given(body=requests, binary=st.binary(max_size=24), length=st.integers(-2, 2) | st.none())
def test_anything_is_answered_or_refused(client: httpx.Client, body: Any, binary: bytes, length: int | None) -> None:
    text = json.dumps(body).encode()
    headers = {} if length is None else {LENGTH: str(len(text) + length)}
    response = client.post("/v2/models/tiny/infer", content=text + binary, headers=headers)
    assert response.status_code in {200, 400, 413, 504}, response.text
    assert response.status_code == 200 or list(response.json()) == ["error"]
