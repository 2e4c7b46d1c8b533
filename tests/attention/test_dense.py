"""The six steps, against closed forms and torch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kqv.attention.biases import Tabulated
from kqv.attention.dense import dense
from kqv.attention.fused import fused
from kqv.attention.masks import Causal, Everything, Mask, Table, Window

FLOAT64 = {"rtol": 0, "atol": 1e-14}  # a few roundings of numbers around 1


def random_qkv(batch: int = 2, heads: int = 3, queries: int = 5, keys: int = 7, width: int = 11) -> tuple[torch.Tensor, ...]:
    shapes = [(batch, heads, queries, width), (batch, heads, keys, width), (batch, heads, keys, width)]
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


def test_worked_example() -> None:
    q = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]], dtype=torch.float64)
    k = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]]], dtype=torch.float64)
    v = torch.tensor([[[[1.0], [0.0]]]], dtype=torch.float64)
    result = dense(q, k, v, scale=math.log(2))
    assert result.scores is not None and result.weights is not None and result.logsumexp is not None
    assert result.scores[0, 0].tolist() == [[1, 0], [2, 2]]
    # scaled scores ln 2 and 0 make weights 2 : 1; equal ones make them equal.
    torch.testing.assert_close(result.weights[0, 0], torch.tensor([[2 / 3, 1 / 3], [1 / 2, 1 / 2]], dtype=torch.float64), **FLOAT64)
    torch.testing.assert_close(result.output[0, 0, :, 0], torch.tensor([2 / 3, 1 / 2], dtype=torch.float64), **FLOAT64)
    torch.testing.assert_close(result.logsumexp[0, 0], torch.tensor([math.log(3), math.log(8)], dtype=torch.float64), **FLOAT64)


def test_each_step_follows_from_the_one_before() -> None:
    q, k, v = random_qkv()
    bias = torch.randn(1, 3, 5, 7, dtype=torch.float64)
    result = dense(q, k, v, bias=Tabulated(bias), scale=0.3)
    assert result.scores is not None and result.scaled_scores is not None and result.weights is not None
    torch.testing.assert_close(result.scores, torch.einsum("bhtd,bhsd->bhts", q, k), **FLOAT64)
    torch.testing.assert_close(result.scaled_scores, result.scores * 0.3 + bias, **FLOAT64)
    exponentials = result.scaled_scores.exp()
    torch.testing.assert_close(result.weights, exponentials / exponentials.sum(-1, keepdim=True), **FLOAT64)
    torch.testing.assert_close(result.output, torch.einsum("bhts,bhsd->bhtd", result.weights, v), **FLOAT64)
    torch.testing.assert_close(result.logsumexp, exponentials.sum(-1).log(), **FLOAT64)


def test_scale_is_one_over_the_root_of_the_width() -> None:
    q, k, v = random_qkv(width=16)
    torch.testing.assert_close(dense(q, k, v).output, dense(q, k, v, scale=0.25).output, rtol=0, atol=0)


def test_zero_queries_attend_uniformly_to_what_they_see() -> None:
    q, k, v = random_qkv(queries=7, keys=7)
    weights = dense(torch.zeros_like(q), k, v, mask=Causal()).weights
    assert weights is not None
    expected = torch.tril(torch.ones(7, 7, dtype=torch.float64)) / torch.arange(1, 8)[:, None]
    torch.testing.assert_close(weights, expected.expand_as(weights), **FLOAT64)


def test_a_query_that_sees_no_key_attends_to_nothing() -> None:
    q, k, v = random_qkv()
    table = torch.ones(5, 7, dtype=torch.bool)
    table[3] = False
    result = dense(q, k, v, mask=Table(table[None, None]))
    assert result.weights is not None and result.logsumexp is not None
    assert (result.weights[:, :, 3] == 0).all()
    assert (result.output[:, :, 3] == 0).all()
    assert (result.logsumexp[:, :, 3] == -math.inf).all()
    assert result.output.isfinite().all()


def test_scores_of_a_thousand_do_not_overflow() -> None:
    q, k, v = random_qkv()
    result = dense(1000 * q, 1000 * k, v)
    assert result.weights is not None
    assert result.output.isfinite().all()
    torch.testing.assert_close(result.weights.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64), **FLOAT64)


def test_grouped_heads_equal_repeated_ones() -> None:
    q, _, _ = random_qkv(heads=6)
    _, k, v = random_qkv(heads=2)
    grouped = dense(q, k, v)
    repeated = dense(q, k.repeat_interleave(3, dim=1), v.repeat_interleave(3, dim=1))
    torch.testing.assert_close(grouped.output, repeated.output, rtol=0, atol=0)


def test_half_precision_is_computed_in_float32() -> None:
    q, k, v = (tensor.to(torch.bfloat16) for tensor in random_qkv())
    result = dense(q, k, v)
    exact = dense(q.double(), k.double(), v.double())
    assert result.weights is not None and exact.weights is not None
    assert result.weights.dtype == torch.float32
    torch.testing.assert_close(result.weights.double(), exact.weights, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mask", [Everything(), Causal(), Window(before=2, after=1), Causal() & Window(before=2, after=0)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("key_heads", [1, 2, 6])
def test_fused_equals_dense(mask: Mask, with_bias: bool, key_heads: int) -> None:
    q, _, _ = random_qkv(heads=6, queries=7)
    _, k, v = random_qkv(heads=key_heads)
    bias = Tabulated(torch.randn(1, 6, 7, 7, dtype=torch.float64)) if with_bias else None
    expected = dense(q, k, v, mask=mask, bias=bias, scale=0.3).output
    torch.testing.assert_close(fused(q, k, v, mask=mask, bias=bias, scale=0.3).output, expected, rtol=0, atol=1e-13)


@given(st.integers(1, 3), st.integers(1, 13), st.integers(1, 13), st.integers(1, 9), st.integers(0, 2**16))
def test_rows_of_weights_sum_to_one(heads: int, queries: int, keys: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    q, k, v = random_qkv(1, heads, queries, keys, width)
    result = dense(q.float(), k.float(), v.float())
    assert result.weights is not None
    # At most 13 weights are summed, each rounded to 2^-24 of itself.
    torch.testing.assert_close(result.weights.sum(-1), torch.ones(1, heads, queries), rtol=0, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_equals_torch_multi_head_attention(causal: bool) -> None:
    heads, width, tokens = 3, 21, 5
    reference = torch.nn.MultiheadAttention(width, heads, batch_first=True, dtype=torch.float64)
    torch.nn.init.normal_(reference.in_proj_bias)
    x = torch.randn(1, tokens, width, dtype=torch.float64)
    hidden = torch.nn.Transformer.generate_square_subsequent_mask(tokens, dtype=torch.float64) if causal else None
    expected, expected_weights = reference(x, x, x, attn_mask=hidden, average_attn_weights=False)
    projected = torch.nn.functional.linear(x, reference.in_proj_weight, reference.in_proj_bias).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in projected)
    result = dense(q, k, v, mask=Causal() if causal else Everything())
    assert result.weights is not None
    torch.testing.assert_close(result.weights, expected_weights, **FLOAT64)
    torch.testing.assert_close(reference.out_proj(result.output.transpose(1, 2).flatten(-2)), expected, **FLOAT64)
