"""Files of tensors: what they say is what JSON says, bit by bit, and one that lies is told so."""

import base64
import json
import struct
from collections.abc import Iterator
from itertools import chain
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import check_invalid, problem
from torch import Tensor

from service.wire.answers import AnalyzeAnswer, AttendAnswer

FILE = "application/x-safetensors"
JSON = "application/json"
SENTENCE = "the cat sat on the mat ."
EVERYTHING = {
    "input": [SENTENCE, {"embeddings": [[0.5] * 35] * 7}],
    "outputs": ["hidden", "pooled", "q", "k", "v", "scaled_scores", "head_outputs"],
    "diagnostics": ["entropy", "duplicate", "similarity"],
    "layers": [1, 2],
}
EYE = [[1.0, 0.0], [0.0, 1.0]]
HEADS = {"q": EYE, "k": EYE, "v": EYE}
GOOD = {"input": "the cat", "weights": "none"}


@pytest.fixture(autouse=True)
def _next_request_is_served(client: httpx.Client) -> Iterator[None]:
    yield
    assert client.post("/v1/analyze", json=GOOD).status_code == 200


def metadata(file: bytes) -> dict[str, str]:
    [length] = struct.unpack_from("<Q", file)
    found: dict[str, str] = json.loads(file[8 : 8 + length])["__metadata__"]
    return found


def whole(file: bytes) -> Any:
    """A file's answer with its tensors put where they belong, as nested lists with null for what is no number."""
    answer = json.loads(metadata(file)["response"])
    for name, tensor in safetensors.torch.load(file).items():
        *way, last = name.split(".")
        place = answer
        for part in way:
            place = place[int(part) if isinstance(place, list) else part]
        assert last not in place
        nested = tensor.numpy().astype(object)
        place[last] = np.where(np.isfinite(tensor.numpy()), nested, None).tolist()
    return answer


def without_timing(answer: Any) -> Any:
    return {name: value for name, value in answer.items() if name != "timing"}


def in_float32(answer: Any) -> Any:
    """JSON's decimals as the numbers that they stand for."""
    match answer:
        case dict():
            return {name: in_float32(value) for name, value in answer.items()}
        case list():
            return [in_float32(value) for value in answer]
        case float():
            return float(np.float32(answer))
    return answer


@pytest.mark.parametrize("weights", ["full", "top", "pooled", "none"])
def test_file_says_what_json_says(client: httpx.Client, weights: str) -> None:
    body = EVERYTHING | {"weights": weights}
    response = client.post("/v1/analyze", json=body, headers={"accept": FILE})
    assert response.headers["content-type"] == FILE
    expected = client.post("/v1/analyze", json=body).json()
    assert in_float32(without_timing(whole(response.content))) == in_float32(without_timing(expected))
    assert "results.1.attention.encoder.scaled_scores" in safetensors.torch.load(response.content)


def test_what_json_calls_null_is_told_apart_in_a_file(client: httpx.Client) -> None:
    body = HEADS | {"mask": "causal"}
    tensors = safetensors.torch.load(client.post("/v1/attend", json=body, headers={"accept": FILE}).content)
    assert tensors["scaled_scores"][0, 0, 1] == -torch.inf  # masked
    assert tensors["diagnostics.induction"].isnan().all()  # undefined


def test_tensors_of_a_file_are_aligned(client: httpx.Client) -> None:
    file = client.post("/v1/analyze", json=EVERYTHING | {"weights": "top"}, headers={"accept": FILE}).content
    [length] = struct.unpack_from("<Q", file)
    sizes = {"F32": 4, "I64": 8}
    for name, tensor in json.loads(file[8 : 8 + length]).items():
        if name != "__metadata__":
            assert (8 + length + tensor["data_offsets"][0]) % sizes[tensor["dtype"]] == 0, name


def test_generated_attention_comes_as_a_file_too(decoder_client: httpx.Client) -> None:
    body = {"input": ["the cat", "a"], "max_new_tokens": 3, "weights": "full", "diagnostics": ["entropy"]}
    response = decoder_client.post("/v1/generate", json=body, headers={"accept": FILE})
    expected = decoder_client.post("/v1/generate", json=body).json()
    assert in_float32(without_timing(whole(response.content))) == in_float32(without_timing(expected))


def test_large_files_are_sent_whole(client: httpx.Client) -> None:
    body = {"input": [[5] * 41], "weights": "full", "outputs": ["hidden", "q", "k", "v"]}
    response = client.post("/v1/analyze", json=body, headers={"accept": FILE})
    assert len(response.content) > 1 << 17
    assert int(response.headers["content-length"]) == len(response.content)
    assert "attention" in whole(response.content)["results"][0]


def test_more_fits_into_a_file_than_into_json(client: httpx.Client) -> None:
    body = {
        "input": [[5] * 41] * 2,
        "weights": "full",
        "diagnostics": "none",
        "outputs": [],
        "layers": [0, 1],
        "heads": [0, 1, 2, 3],
    }
    assert client.post("/v1/analyze", json=body).status_code == 413
    assert client.post("/v1/analyze", json=body | {"encoding": "base64"}).status_code == 200
    assert client.post("/v1/analyze", json=body, headers={"accept": FILE}).status_code == 200


def test_base64_says_what_lists_say(client: httpx.Client) -> None:
    body = {"input": SENTENCE, "weights": "top", "outputs": ["hidden"]}
    nested = client.post("/v1/analyze", json=body).json()["results"][0]
    encoded = client.post("/v1/analyze", json=body | {"encoding": "base64"}).json()["results"][0]
    keys, hidden = encoded["attention"]["encoder"]["top"]["keys"], encoded["hidden"]
    assert (hidden["dtype"], hidden["shape"]) == ("float32", [9, 35])
    assert np.frombuffer(base64.b64decode(hidden["data"]), "<f4").tolist() == in_float32([*chain(*nested["hidden"])])
    assert (
        np.frombuffer(base64.b64decode(keys["data"]), "<i8").reshape(keys["shape"]).tolist()
        == (nested["attention"]["encoder"]["top"]["keys"])
    )


def test_answers_in_base64_are_described_too(client: httpx.Client) -> None:
    other = {"attention": {"kind": "longformer", "window": 2}, "compare": True, "encoding": "base64"}
    response = client.post("/v1/analyze", json={"input": SENTENCE, "weights": "pooled"} | other)
    assert '"output_error":{"dtype":"float32"' in response.text
    AnalyzeAnswer.model_validate_json(response.content, strict=True)
    AttendAnswer.model_validate_json(client.post("/v1/attend", json=HEADS | other).content, strict=True)


def test_events_have_base64_as_well(decoder_client: httpx.Client) -> None:
    body = {"input": "the cat", "max_new_tokens": 1, "weights": "full", "stream": True, "encoding": "base64"}
    events = decoder_client.post("/v1/generate", json=body).text
    assert '"weights":{"dtype":"float32","shape":[3,5,7,7],"data":"' in events


ACCEPTED = [
    (None, JSON),
    ("", JSON),
    ("*/*", JSON),
    ("application/*", JSON),
    ("text/html, */*;q=0.1", JSON),
    (FILE, FILE),
    ("Application/X-SafeTensors", FILE),
    (f"{JSON};q=0.5, {FILE}", FILE),
    (f"{FILE};q=0.5, {JSON};q=0.5", JSON),
    (f"{FILE};q=0.9, {JSON};q=0.95", JSON),
    (f"*/*, {JSON};q=0", FILE),
    (f"{JSON};q=0.2, application/*;q=0.3", FILE),
    (f"{JSON};q=1.5, {FILE};q=0.1", FILE),  # a quality that is none
    (f"{JSON}; charset=utf-8 , text/plain", JSON),
]


@pytest.mark.parametrize(("accept", "media_type"), ACCEPTED)
def test_caller_gets_what_it_likes_best(client: httpx.Client, accept: str | None, media_type: str) -> None:
    request = client.build_request("POST", "/v1/attend", json=HEADS)
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept
    response = client.send(request)
    assert (response.status_code, response.headers["content-type"]) == (200, media_type)


@pytest.mark.parametrize("accept", ["text/html", f"{JSON};q=0, {FILE};q=0.0", "image/*", "application/", "*", ";;,,q"])
def test_what_nobody_offers_is_not_acceptable(client: httpx.Client, accept: str) -> None:
    for path, body in (("analyze", GOOD), ("attend", HEADS)):
        detail = problem(client.post(f"/v1/{path}", json=body, headers={"accept": accept}), 406)["detail"]
        assert f"{JSON} or {FILE}" in detail


def test_several_accept_headers_are_one(client: httpx.Client) -> None:
    headers = [("accept", f"{JSON};q=0.1"), ("accept", f"{FILE};q=0.2")]
    assert client.post("/v1/attend", json=HEADS, headers=headers).headers["content-type"] == FILE


def test_stream_is_events_and_nothing_else(decoder_client: httpx.Client) -> None:
    body = {"input": "the cat", "max_new_tokens": 1, "stream": True}
    for accept in ("text/event-stream", "*/*", f"{JSON}, text/*;q=0.1"):
        response = decoder_client.post("/v1/generate", json=body, headers={"accept": accept})
        assert response.headers["content-type"].startswith("text/event-stream")
    assert 'leave "stream" out' in problem(decoder_client.post("/v1/generate", json=body, headers={"accept": FILE}), 406)["detail"]
    body["stream"] = False
    assert decoder_client.post("/v1/generate", json=body, headers={"accept": "text/event-stream"}).status_code == 406


def post(client: httpx.Client, path: str, file: bytes, **headers: str) -> httpx.Response:
    return client.post(f"/v1/{path}", content=file, headers={"content-type": FILE} | headers)


def file_of(tensors: dict[str, Tensor], request: Any = None) -> bytes:
    return safetensors.torch.save(tensors, None if request is None else {"request": json.dumps(request)})


def test_request_may_be_a_file(client: httpx.Client) -> None:
    q, k, v, bias = torch.randn(3, 5, 2), torch.randn(3, 7, 2), torch.randn(3, 7, 11), torch.randn(5, 7)
    mask = torch.rand(5, 7) < 0.7
    mask[:, 0] = True
    tensors = {"q": q, "k": k, "v": v, "bias": bias, "mask": mask}
    body = {name: tensor.tolist() for name, tensor in tensors.items()} | {"scale": 0.5, "include": ["weights", "output"]}
    expected = client.post("/v1/attend", json=body).json()
    answered = post(client, "attend", file_of(tensors, {"scale": 0.5, "include": ["weights", "output"]})).json()
    assert answered == expected
    tensors["scale"] = torch.tensor(0.5)  # of no dimensions, a number
    assert post(client, "attend", file_of(tensors, {"include": ["weights", "output"]})).json() == expected


def test_projections_may_come_in_a_file(client: httpx.Client) -> None:
    tensors = {"x": torch.randn(5, 6), "w_q": torch.randn(6, 4), "w_k": torch.randn(6, 4), "w_v": torch.randn(6, 10)}
    tensors |= {"w_o": torch.randn(10, 6), "num_heads": torch.tensor(2)}
    expected = client.post("/v1/attend", json={name: tensor.tolist() for name, tensor in tensors.items()}).json()
    file = post(client, "attend", file_of(tensors), accept=FILE).content
    assert in_float32(whole(file)) == in_float32(expected)


def test_sequences_may_come_in_a_file(client: httpx.Client) -> None:
    first, second, ids = torch.randn(7, 35), torch.randn(4, 35).double(), torch.tensor([5, 6, 7])
    tensors = {"input.0.embeddings": first, "input.2.embeddings": second, "input.3": ids}
    rest = {"input": [{}, "the cat"], "layers": [-1], "queries": [0, 3]}
    file = post(client, "analyze", file_of(tensors, rest), accept=FILE).content
    body = rest | {"input": [{"embeddings": first.tolist()}, "the cat", {"embeddings": second.tolist()}, ids.tolist()]}
    expected = client.post("/v1/analyze", json=body).json()
    assert in_float32(without_timing(whole(file))) == in_float32(without_timing(expected))


def test_eleven_sequences_stay_in_order(client: httpx.Client) -> None:
    tensors = {f"input.{index}": torch.arange(index, index + 2) for index in range(11)}
    response = post(client, "analyze", file_of(tensors, {"weights": "none"}))
    assert "at most 7 sequences, not 11" in problem(response, 422)["detail"]  # and not: index 10 comes before 2


def test_rows_of_a_file_are_lists(client: httpx.Client) -> None:
    tensors = {"input": torch.tensor([5, 6]), "layers": torch.tensor([0]), "keys": torch.tensor([0, 1])}
    [result] = post(client, "analyze", file_of(tensors)).json()["results"]
    assert result["token_ids"] == [5, 6]
    assert np.shape(result["attention"]["encoder"]["weights"]) == (1, 5, 2, 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "int64", "uint8"])
def test_any_type_of_number_is_read(client: httpx.Client, dtype: str) -> None:
    q = torch.randint(0, 3, (2, 3)).to(getattr(torch, dtype))
    answer = post(client, "attend", file_of({"q": q, "k": q.clone(), "v": q.clone()}, {"include": ["q"]})).json()
    assert answer["q"] == [q.tolist()]


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: tuple[int, ...] = (1, 1), offsets: tuple[int, int] = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "no header": raw(b"", length=0),
    "a header longer than the body": raw({"q": entry()}, b"1234", length=10**6),
    "a header longer than memory": raw({"q": entry()}, b"1234", length=2**63),
    "a header of more than all": raw({"q": entry()}, b"1234", length=2**64 - 1),
    "a header that is no JSON": raw(b"hello"),
    "a header that is a list": raw([]),
    "a header that is no UTF-8": raw(b'{"\xff": 1}'),
    "a header nested too deep": raw(b'{"q":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "a type that there isn't": raw({"q": entry("F99")}, b"1234"),
    "a negative size": raw({"q": entry(shape=(-1, 1))}, b"1234"),
    "a size beyond all": raw({"q": entry(shape=(2**62, 2**62))}, b"1234"),
    "a size that isn't the data's": raw({"q": entry(shape=(3, 1))}, b"1234"),
    "data beyond the end": raw({"q": entry(shape=(2, 1), offsets=(0, 8))}, b"1234"),
    "data that runs backwards": raw({"q": entry(offsets=(4, 0))}, b"1234"),
    "data that overlaps": raw({"q": entry(), "k": entry(offsets=(2, 6))}, b"123456"),
    "data that is shared": raw({"q": entry(), "k": entry()}, b"1234"),
    "a hole": raw({"q": entry(), "k": entry(offsets=(8, 12))}, b"1" * 12),
    "trailing bytes": raw({"q": entry()}, b"12345"),
    "metadata that is no text": raw({"__metadata__": {"request": 5}}),
    "metadata twice": raw(b'{"__metadata__":{"request":"{}"},"__metadata__":{"request":"{}"}}'),
    "a text twice": raw(b'{"__metadata__":{"request":"{}","request":"{}"}}'),
    "a tensor twice": raw(f'{{"q":{json.dumps(entry())},"q":{json.dumps(entry(offsets=(4, 8)))}}}'.encode(), b"12345678"),
    "a tensor twice, at one place": raw(f'{{"q":{json.dumps(entry())},"\\u0071":{json.dumps(entry())}}}'.encode(), b"1234"),
    "a field twice": raw(b'{"q":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4],"by":1,"by":2}}', b"1234"),
    "JSON": b'{"q": [[1]], "k": [[1]], "v": [[1]]}',
}


@pytest.mark.parametrize("case", LIES)
def test_file_that_lies_is_malformed(client: httpx.Client, case: str) -> None:
    assert problem(post(client, "attend", LIES[case]), 400)["detail"].startswith("the body is not a safetensors file: ")


@pytest.mark.parametrize("text", ["{", "", "[]", "NaN", '{"input": NaN}', "5", "\ud800"])
def test_rest_of_a_file_is_a_json_object(client: httpx.Client, text: str) -> None:
    body = raw({"__metadata__": {"request": text}})
    assert problem(post(client, "attend", body), 400)["title"] == "Malformed body"


ONE = torch.ones(1, 35)
INVALID: dict[str, tuple[str, dict[str, Tensor], Any, list[str | int], str]] = {
    "unknown tensor": ("attend", {"queries": ONE}, HEADS, ["queries"], "no such field"),
    "a path that nothing has": ("analyze", {"input.embeddings.0": ONE}, {}, ["input", "embeddings"], "this is a matrix of numbers"),
    "an index too far": (
        "analyze",
        {"input.2.embeddings": ONE},
        {"input": ["a"]},
        ["input", 2, "embeddings"],
        "next index is 1, not 2",
    ),
    "an index far too far": ("analyze", {"input.99999999999": ONE}, {"input": ["a"]}, ["input", "99999999999"], "next index is 1"),
    "a field of a list": ("analyze", {"input.embeddings": ONE}, {"input": ["a"]}, ["input", "embeddings"], "list of 1"),
    "a field of a text": ("analyze", {"input.0.embeddings": ONE}, {"input": ["a"]}, ["input", 0, "embeddings"], "leads nowhere"),
    "an index of an object": ("analyze", {"input.0": ONE}, {"input": {}}, ["input", 0], "leads nowhere"),
    "given twice": ("attend", {"q": ONE}, HEADS, ["q"], "given twice"),
    "given twice, as null": ("attend", {"q": ONE}, {"q": None}, ["q"], "given twice"),
    "an empty name": ("attend", {"": ONE}, HEADS, [""], "no such field"),
    "a tensor for a text": ("analyze", {"model": ONE}, GOOD, ["model"], "string"),
    "a tensor for a choice": ("analyze", {"weights": ONE}, {"input": "a"}, ["weights"], "'full'"),
    "a matrix of ids": ("analyze", {"input": torch.ones(2, 3).long()}, {}, ["input"], "this is a sequence or a list of them"),
    "numbers for ids": ("analyze", {"input": torch.ones(3)}, {}, ["input", 0], "integer"),
    "a row for a matrix": ("attend", {"q": torch.ones(3)}, {"k": EYE, "v": EYE}, ["q"], "this is a matrix [n, d]"),
    "four dimensions": (
        "attend",
        {"q": torch.ones(1, 1, 2, 2)},
        {"k": EYE, "v": EYE},
        ["q"],
        "this has 4 dimensions, and not 2 or 3",
    ),
    "a stack for a matrix": (
        "analyze",
        {"input.embeddings": torch.ones(1, 1, 35)},
        {},
        ["input", "embeddings"],
        "this has 3 dimensions, and not 2",
    ),
    "a stack of projections": (
        "attend",
        {"x": torch.ones(2, 2, 2)},
        {"num_heads": 1, "seed": 0},
        ["x"],
        "this has 3 dimensions, and not 2",
    ),
    "NaN": ("attend", {"q": torch.full((2, 2), torch.nan)}, {"k": EYE, "v": EYE}, ["q"], "q holds NaN"),
    "an infinity": ("analyze", {"input.embeddings": ONE * torch.inf}, {}, ["input", "embeddings"], "an infinity"),
    "past float32": (
        "attend",
        {"q": ONE.double() * 1e300},
        {"k": ONE.tolist(), "v": ONE.tolist()},
        ["q"],
        "q holds NaN or an infinity",
    ),
    "NaN for a number": ("attend", {"scale": torch.tensor(torch.nan)}, HEADS, ["scale"], "finite"),
    "booleans for numbers": ("attend", {"q": torch.ones(2, 2).bool()}, {"k": EYE, "v": EYE}, ["q", "dtype"], "not bool"),
    "numbers for booleans": ("attend", {"mask": torch.ones(2, 2)}, HEADS, ["mask", "dtype"], "a mask is bool, not float32"),
    "no queries": ("attend", {"q": torch.ones(0, 2)}, {"k": EYE, "v": EYE}, ["q"], "at least one number"),
    "a type that isn't read": ("attend", {"q": torch.ones(2, 2).to(torch.float8_e4m3fn)}, {}, ["q"], "F8_E4M3 is not read here"),
}


@pytest.mark.parametrize("case", INVALID)
def test_tensor_that_is_wrong_is_named(client: httpx.Client, case: str) -> None:
    path, tensors, request, loc, complaint = INVALID[case]
    check_invalid(post(client, path, file_of(tensors, request)), loc, complaint)


def test_other_routes_read_no_files(client: httpx.Client) -> None:
    response = post(client, "tokenize", file_of({}, {"input": "a"}))
    assert "send it with Content-Type: application/json, not application/x-safetensors" in problem(response, 415)["detail"]


WHOLE = file_of({"q": torch.ones(2, 2), "k": torch.ones(3, 2), "v": torch.ones(3, 1)}, {"include": ["output"]})


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_files_are_answered_or_refused(client: httpx.Client, data: st.DataObject) -> None:
    body = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)) | st.just(len(body)))
    response = post(client, "attend", bytes(body[:cut]) + data.draw(st.binary(max_size=3)))
    assert response.status_code in {200, 400, 422}, response.text
