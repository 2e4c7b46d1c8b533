"""Tensors become JSON without loss of what float32 holds, large ones in pieces that nobody notices."""

import json
import threading
import time
import tracemalloc

import pytest
import torch
from torch.testing import assert_close

from service.wire.encoding import BASE64, BASE64_CHUNK, BYTES_PER_NUMBER, CHUNK, FILE, LISTS, Encoding, Form, encode, list_chunks
from service.wire.tensors import EncodedTensor, decode, to_array


def test_numbers_survive_the_way_there_and_back() -> None:
    tensor = torch.randn(1000) * torch.logspace(-30, 30, 1000)
    assert torch.equal(torch.tensor(json.loads(encode(tensor))), tensor)


def test_what_is_no_number_is_null() -> None:
    assert encode({"a": torch.tensor([1.5, torch.nan, torch.inf, -torch.inf])}) == b'{"a":[1.5,null,null,null]}'


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_other_types_are_written_too(dtype: torch.dtype) -> None:
    assert json.loads(encode(torch.tensor([[0, 1], [1, 1]]).to(dtype))) == [[0, 1], [1, 1]]


def test_views_are_written_in_their_own_order() -> None:
    tensor = torch.arange(6).view(2, 3)
    assert json.loads(encode(tensor.T)) == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("shape", [(3, 7, CHUNK // 5), (2 * CHUNK, 1), (1, 1, 2 * CHUNK), (2 * CHUNK,), (5, CHUNK + 1)])
def test_pieces_of_a_large_tensor_are_the_whole(shape: tuple[int, ...]) -> None:
    tensor = torch.arange(torch.Size(shape).numel()).view(shape)
    assert json.loads(encode([tensor])) == [tensor.tolist()]


def test_large_tensors_come_in_pieces_of_bounded_size() -> None:
    pieces = list(list_chunks(to_array(torch.rand(12, 300, 300))))
    assert max(map(len, pieces)) <= CHUNK * BYTES_PER_NUMBER


@pytest.mark.parametrize("encoding", ["lists", "base64"])
def test_large_tensors_stand_where_they_belong(encoding: Encoding) -> None:
    """Beside small ones, and beside texts that have the byte which stands for them while they are left out."""
    first, second, small = torch.arange(CHUNK + 1), -torch.arange(2 * CHUNK), torch.arange(3)
    found = json.loads(encode({"\0": "\0", "a": [first, small, {"b": second}, "\0"], "c": first}, encoding))
    assert [*found] == ["\0", "a", "c"]
    assert found["\0"] == found["a"][3] == "\0"
    expected = [encode(each, encoding) for each in (first, small, second)]
    assert [found["a"][0], found["a"][1], found["a"][2]["b"]] == [json.loads(each) for each in expected]
    assert found["c"] == found["a"][0] != found["a"][2]["b"]


@pytest.mark.parametrize("form", [LISTS, BASE64])
def test_an_answer_is_in_memory_once(form: Form) -> None:
    weights = torch.softmax(3 * torch.randn(6, 12, 100, 100), -1)
    tracemalloc.start()
    parts = form.encode({"results": [{"weights": weights}, {"weights": weights}]})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.5 * sum(map(len, parts))


def test_what_json_does_not_have_is_an_error() -> None:
    with pytest.raises(TypeError, match="object"):
        encode({"a": object()})


def test_other_threads_get_their_turn_while_a_large_answer_is_encoded() -> None:
    tensor = torch.rand(100, 200, 200)
    encoding = threading.Thread(target=encode, args=(tensor,))
    turns, started = 0, time.perf_counter()
    encoding.start()
    while encoding.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns >= 3, f"{turns} turns in {time.perf_counter() - started:.3f} s"


def test_prediction_of_an_answers_length_is_close() -> None:
    weights = torch.softmax(3 * torch.randn(12, 128, 128), -1)
    length = len(encode(weights)) / weights.numel()
    assert 0.8 * BYTES_PER_NUMBER <= length <= BYTES_PER_NUMBER
    assert_close(torch.tensor(json.loads(encode(weights))), weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(0, 3), (2, 3), (3, BASE64_CHUNK // 4 + 5)])
def test_base64_holds_every_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 9).to(dtype)
    given = EncodedTensor.model_validate(json.loads(encode({"a": tensor}, "base64"))["a"])
    assert torch.equal(decode(given, ()), tensor)


def test_base64_has_what_lists_lack() -> None:
    tensor = torch.tensor([[torch.nan, -torch.inf]])
    given = EncodedTensor.model_validate(json.loads(encode(tensor, "base64")))
    assert_close(decode(given, ()), tensor, equal_nan=True)


@pytest.mark.parametrize("form", [BASE64, FILE])
def test_prediction_of_the_length_of_bytes_is_close(form: Form) -> None:
    weights = torch.softmax(torch.randn(12, 128, 128), -1)
    keys = torch.zeros(12, 128, 128, dtype=torch.int64)
    length = sum(map(len, form.encode({"top": {"weights": weights, "keys": keys}}))) / (2 * weights.numel())
    assert 0.95 * form.bytes_per_number <= length <= 1.02 * form.bytes_per_number
