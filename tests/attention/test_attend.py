"""Attention on the caller's own tensors, and what is refused at its door."""

import pytest
import torch

import kqv
from kqv.attention.masks import Causal


def qkv(*lead: int, queries: int = 5, keys: int = 7, width: int = 3) -> list[torch.Tensor]:
    return [torch.randn(*lead, length, width) for length in (queries, keys, keys)]


def test_the_result_has_the_shape_of_what_was_given() -> None:
    one, several, batch = kqv.attend(*qkv()), kqv.attend(*qkv(2)), kqv.attend(*qkv(11, 2))
    assert one.output.shape == (1, 5, 3)
    assert one.weights.shape == (1, 5, 7)
    assert several.output.shape == (2, 5, 3)
    assert batch.output.shape == (11, 2, 5, 3)
    assert batch.logsumexp.shape == (11, 2, 5)


def test_one_head_in_three_shapes_is_the_same_attention() -> None:
    q, k, v = qkv()
    expected = kqv.attend(q, k, v).output
    torch.testing.assert_close(kqv.attend(q[None], k[None], v[None]).output, expected, rtol=0, atol=0)
    torch.testing.assert_close(kqv.attend(q[None, None], k[None, None], v[None, None]).output[0], expected, rtol=0, atol=0)


def test_a_mask_has_a_name_a_table_or_a_predicate() -> None:
    q, k, v = qkv(2, queries=5, keys=5)
    by_name = kqv.attend(q, k, v, mask="causal")
    table = torch.ones(5, 5, dtype=torch.bool).tril()
    for mask in (table, table.expand(2, 5, 5), Causal()):
        torch.testing.assert_close(kqv.attend(q, k, v, mask=mask).weights, by_name.weights, rtol=0, atol=0)


def test_bias_and_scale_enter_before_the_softmax() -> None:
    q, k, v = qkv(2)
    bias = torch.randn(5, 7)
    result = kqv.attend(q, k, v, bias=bias, scale=0.7)
    torch.testing.assert_close(result.scaled_scores, result.scores * 0.7 + bias)
    torch.testing.assert_close(result.weights, result.scaled_scores.softmax(-1))


def test_multi_head_attention_equals_torch() -> None:
    x, context = torch.randn(5, 12), torch.randn(7, 10)
    projections = kqv.draw_projections(12, 3, seed=1, d_context=10)
    reference = torch.nn.MultiheadAttention(12, 3, bias=False, kdim=10, vdim=10, batch_first=True)
    with torch.no_grad():
        for parameter, matrix in (
            (reference.q_proj_weight, "w_q"),
            (reference.k_proj_weight, "w_k"),
            (reference.v_proj_weight, "w_v"),
        ):
            parameter.copy_(getattr(projections, matrix).T)
        reference.out_proj.weight.copy_(projections.w_o.T)
        expected, weights = reference(x[None], context[None], context[None], average_attn_weights=False)
    found = kqv.multi_head(x, projections, 3, context=context)
    torch.testing.assert_close(found.output, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.attention.weights, weights[0], rtol=0, atol=1e-6)


def test_a_seed_draws_the_same_matrices_whatever_was_drawn_before() -> None:
    first = kqv.draw_projections(6, 2, seed=3)
    torch.randn(100)
    second = kqv.draw_projections(6, 2, seed=3)
    assert torch.equal(first.w_o, second.w_o)
    assert not torch.equal(first.w_q, kqv.draw_projections(6, 2, seed=4).w_q)


def hiding(row: int) -> torch.Tensor:
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[row] = False
    return mask


Q, K, V = qkv(2)
REFUSED = {
    "widths": ((Q, K[..., :2], V), {}, "same width", ("k",)),
    "lengths": ((Q, K, V[:, :4]), {}, "same heads and length", ("v",)),
    "dimensions": ((Q, K[0], V[0]), {}, "all [n, d]", ("q",)),
    "heads": ((torch.randn(3, 5, 3), K, V), {}, "divide those of q", ("k",)),
    "a vector": ((Q[0, 0], K[0, 0], V[0, 0]), {}, "all [n, d]", ("q",)),
    "no keys": ((Q, K[:, :0], V[:, :0]), {}, "at least one number", ("q",)),
    "not a number": ((Q * torch.nan, K, V), {}, "q holds NaN", ("q",)),
    "infinity": ((Q, K, V * torch.inf), {}, "v holds NaN or an infinity", ("v",)),
    "overflow": ((Q * 1e30, K * 1e30, V), {}, "overflow float32; scale q and k down", ("q",)),
    "a blind query": ((Q, K, V), {"mask": hiding(3)}, "hides every key from query 3", ("mask",)),
    "a causal mask of fewer keys is fine, but not a table of them": ((Q, K, V), {"mask": hiding(0)[:4]}, "[5, 7]", ("mask",)),
    "a bias of another shape": ((Q, K, V), {"bias": torch.zeros(3, 5, 7)}, "bias is [queries, keys]", ("bias",)),
    "a bias of infinity": ((Q, K, V), {"bias": torch.full((5, 7), torch.inf)}, "bias holds NaN", ("bias",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    tensors, options, message, location = REFUSED[case]
    with pytest.raises(kqv.InputError) as caught:
        kqv.attend(*tensors, **options)
    assert message in str(caught.value)
    assert caught.value.location == location


PROJECTIONS = kqv.draw_projections(12, 3, seed=1)


@pytest.mark.parametrize(
    ("x", "changes", "num_heads", "message"),
    [
        (torch.randn(5, 12), {}, 5, "num_heads divides the columns of w_q, 12; 5 does not"),
        (torch.randn(5, 12), {}, 0, "0 does not"),
        (torch.randn(5, 11), {}, 3, "w_q needs 11 rows"),
        (torch.randn(5), {}, 3, "x and context are [tokens, width]"),
        (torch.randn(5, 12), {"w_k": torch.randn(12, 9)}, 3, "as many columns"),
        (torch.randn(5, 12), {"w_o": torch.randn(9, 12)}, 3, "w_o needs 12 rows"),
    ],
)
def test_projections_that_do_not_fit_are_refused(
    x: torch.Tensor, changes: dict[str, torch.Tensor], num_heads: int, message: str
) -> None:
    projections = kqv.Projections(**(vars(PROJECTIONS) | changes))
    with pytest.raises(kqv.InputError) as caught:
        kqv.multi_head(x, projections, num_heads)
    assert message in str(caught.value)


def test_heads_divide_the_width_of_drawn_projections() -> None:
    with pytest.raises(kqv.InputError, match="num_heads divides the width of x, 12; 5 does not"):
        kqv.draw_projections(12, 5, seed=0)
