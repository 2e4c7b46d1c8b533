"""POST /v1/attend shows every step of the formula, for tensors that can be checked by hand and for random ones."""

import base64
import math

import httpx
import numpy as np
import pytest
import torch
from serving import attend
from torch.testing import assert_close

import kqv

STEPS = ["q", "k", "v", "scores", "scaled_scores", "weights", "head_outputs", "output", "diagnostics"]


def test_two_tokens_by_hand(client: httpx.Client) -> None:
    answer = attend(client, q=[[0], [1]], k=[[0], [1]], v=[[1], [3]], mask="causal", scale=math.log(3))
    assert list(answer) == STEPS
    assert answer["scores"] == [[[0, 0], [0, 1]]]
    assert answer["scaled_scores"] == [[[0, None], [0, pytest.approx(math.log(3))]]]
    assert_close(torch.tensor(answer["weights"]), torch.tensor([[[1.0, 0.0], [0.25, 0.75]]]))
    assert_close(torch.tensor(answer["output"]), torch.tensor([[1.0], [2.5]]))
    assert answer["diagnostics"]["self"] == [pytest.approx(0.875)]
    assert answer["diagnostics"]["previous"] == [pytest.approx(0.25)]
    assert answer["diagnostics"]["induction"] == [None]


def test_heads_are_the_engines(client: httpx.Client) -> None:
    q, k, v = torch.randn(3, 5, 2), torch.randn(3, 7, 2), torch.randn(3, 7, 11)
    mask, bias = torch.rand(5, 7) < 0.7, torch.randn(3, 5, 7)
    mask[:, 0] = True
    answer = attend(client, q=q.tolist(), k=k.tolist(), v=v.tolist(), mask=mask.tolist(), bias=bias.tolist(), scale=0.3)
    expected = kqv.attend(q, k, v, mask=mask, bias=bias, scale=0.3)
    assert_close(torch.tensor(answer["weights"]), expected.weights)
    assert_close(torch.tensor(answer["head_outputs"]), expected.output)
    assert_close(torch.tensor(answer["output"]), expected.output.transpose(0, 1).flatten(1))
    assert np.shape(answer["k"]) == (3, 7, 2)
    assert answer["diagnostics"]["self"] == [None] * 3  # 5 queries of 7 keys: not the same tokens
    assert np.shape(answer["diagnostics"]["entropy"]) == (3,)


def test_projections_are_the_engines(client: httpx.Client) -> None:
    x, context = torch.randn(5, 6), torch.randn(7, 3)
    projections = kqv.Projections(torch.randn(6, 4), torch.randn(3, 4), torch.randn(3, 10), torch.randn(10, 6))
    given = {name: matrix.tolist() for name, matrix in vars(projections).items()}
    answer = attend(client, x=x.tolist(), context=context.tolist(), num_heads=2, **given)
    expected = kqv.multi_head(x, projections, 2, context=context)
    assert_close(torch.tensor(answer["q"]), expected.q)
    assert_close(torch.tensor(answer["weights"]), expected.attention.weights)
    assert_close(torch.tensor(answer["output"]), expected.output)
    heads = expected.attention.output[0] @ projections.w_o[:5]
    assert answer["diagnostics"]["output_norm"][0] == pytest.approx(heads.norm(dim=-1).mean().item())
    assert answer["diagnostics"]["self"] == [None, None]


def test_seed_draws_the_same_projections_each_time(client: httpx.Client) -> None:
    body = {"x": torch.randn(5, 6).tolist(), "num_heads": 3, "include": ["weights", "output"]}
    first, again, other = (attend(client, **body, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    expected = kqv.multi_head(torch.tensor(body["x"]), kqv.draw_projections(6, 3, 1), 3)
    assert_close(torch.tensor(first["output"]), expected.output)


def test_only_what_is_included_is_shown(client: httpx.Client) -> None:
    body = {"q": [[1.0]], "k": [[1.0]], "v": [[1.0]]}
    assert list(attend(client, **body, include=["output", "weights"])) == ["weights", "output"]
    assert attend(client, **body, include=[]) == {}


NUMBERS = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()


@pytest.mark.parametrize("dtype", NUMBERS)
def test_encoded_tensors_equal_nested_ones(client: httpx.Client, dtype: str) -> None:
    values = torch.randint(0, 5, (2, 3, 5)).to(getattr(torch, dtype))
    data = base64.b64encode(values.flatten().view(torch.uint8).numpy().tobytes()).decode()
    nested, encoded = values.tolist(), {"dtype": dtype, "shape": [2, 3, 5], "data": data}
    assert attend(client, q=nested, k=nested, v=nested) == attend(client, q=encoded, k=encoded, v=encoded)


def test_any_byte_but_zero_is_true_in_an_encoded_mask(client: httpx.Client) -> None:
    zeros, mask = [[0.0], [0.0]], {"dtype": "bool", "shape": [2, 2], "data": base64.b64encode(b"\x01\x00\xff\x01").decode()}
    answer = attend(client, q=zeros, k=zeros, v=zeros, mask=mask)
    assert answer["weights"] == [[[1, 0], [0.5, 0.5]]]


def test_attention_waits_its_turn_with_everything_else(client: httpx.Client) -> None:
    response = client.post("/v1/attend", json={"q": [[1.0]], "k": [[1.0]], "v": [[1.0]]})
    names = [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]
    assert names == ["tokenize", "queue", "forward", "encode"]
