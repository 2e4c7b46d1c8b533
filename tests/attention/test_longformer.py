"""Longformer's attention is dense attention under its own mask, in linear time and memory; its window and tokens are checked."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import kqv
from kqv.attention import longformer
from kqv.attention.biases import Linear, alibi_slopes
from kqv.attention.dense import dense
from kqv.attention.longformer import GlobalHeads, Longformer
from kqv.attention.masks import Causal, Everything, Table

MAPS = ("weights", "scaled_scores", "visible", "output", "logsumexp")


def qkv(n: int, heads: int = 3, groups: int = 3, batch: int = 1) -> list[torch.Tensor]:
    return [torch.randn(batch, count, n, width) for count, width in ((heads, 7), (groups, 7), (groups, 5))]


def pattern(n: int, side: int, dilation: int, global_tokens: tuple[int, ...]) -> torch.Tensor:
    """Who sees whom, pair by pair, as the paper says it (section 3.1)."""
    offset = torch.arange(n) - torch.arange(n)[:, None]
    seen = torch.stack([offset == steps * dilation for steps in range(-side, side + 1)]).any(0)
    seen[list(global_tokens)] = True
    seen[:, list(global_tokens)] = True
    return seen


@settings(max_examples=50)
@given(
    n=st.integers(1, 41),
    side=st.integers(1, 9),
    dilations=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    chosen=st.sets(st.integers(0, 40), max_size=3),
    groups=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 2),
    causal=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_dense_attention_under_its_own_mask(
    n: int,
    side: int,
    dilations: list[int],
    chosen: set[int],
    groups: int,
    batch: int,
    causal: bool,
    biased: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    side = min(side, max(1, n // max(dilations)))
    dilations = dilations if side * max(dilations) <= n else [1] * 4
    global_tokens = tuple(index for index in chosen if index < n)
    q, k, v = qkv(n, 4, groups, batch)
    mask, bias = Causal() if causal else Everything(), Linear(alibi_slopes(4)) if biased else None
    attention = Longformer(window=2 * side, dilation=tuple(dilations), global_tokens=global_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longformer, "BLOCK", 8)  # so that blocks have ends
        found = attention(q, k, v, mask=mask, bias=bias, scale=0.4, weights=True)
        lean = attention(q, k, v, mask=mask, bias=bias, scale=0.4)
    seen = torch.stack([pattern(n, side, dilation, global_tokens) for dilation in dilations])
    expected = dense(q, k, v, mask=mask & Table(seen[None]), bias=bias, scale=0.4)
    for name in MAPS:
        actual = getattr(found, name)
        assert_close(actual, getattr(expected, name).expand_as(actual), rtol=0, atol=1e-5)
    assert_close(lean.output, expected.output, rtol=0, atol=1e-5)
    assert lean.weights is lean.scaled_scores is lean.visible is None


def test_global_tokens_look_by_their_own_heads() -> None:
    q, k, v = qkv(23)
    other = GlobalHeads(*qkv(23))
    found = Longformer(window=4, global_tokens=(3, -1), global_heads=other)(q, k, v, weights=True)
    local = dense(q, k, v, mask=Table(pattern(23, 2, 1, (3, 22))[None, None]))
    wide = dense(*other)
    rows = [3, 22]
    rest = [row for row in range(23) if row not in rows]
    for name in ("weights", "output", "scaled_scores"):
        assert_close(getattr(found, name)[:, :, rows], getattr(wide, name)[:, :, rows])
        assert_close(getattr(found, name)[:, :, rest], getattr(local, name)[:, :, rest])


def test_a_window_over_everything_is_dense_attention() -> None:
    q, k, v = qkv(29)
    assert_close(Longformer(window=56)(q, k, v).output, dense(q, k, v).output)
    assert_close(Longformer(window=58)(q, k, v).output, dense(q, k, v).output)
    assert not torch.allclose(Longformer(window=54)(q, k, v).output, dense(q, k, v).output)


def test_half_precision_is_computed_in_float32() -> None:
    q, k, v = (tensor.bfloat16() for tensor in qkv(29))
    found = Longformer(window=4)(q, k, v)
    assert found.output.dtype == torch.float32
    assert_close(found.output, Longformer(window=4)(q.float(), k.float(), v.float()).output, rtol=0, atol=0)


def test_nothing_of_all_pairs_is_made_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def watched(*arguments: Any, **options: Any) -> Any:
        nonlocal largest
        found = dense(*arguments, **options)
        largest = max(largest, found.weights[0, 0].numel())
        return found

    monkeypatch.setattr(longformer, "dense", watched)
    Longformer(window=32, global_tokens=(5,))(*qkv(2000, 1, 1))
    assert largest <= longformer.BLOCK * (longformer.BLOCK + 32 + 1)


REFUSED = {
    "window 0": ({"window": 0}, "a window of 0 sees nothing", "window"),
    "window negative": ({"window": -2}, "take 2 or more", "window"),
    "window odd": ({"window": 7}, "take 6 or 8, not 7", "window"),
    "window beyond n": ({"window": 24}, "reaches 12 tokens to either side, beyond the sequence of 11; take at most 22", "window"),
    "dilated beyond n": ({"window": 6, "dilation": 4}, "take at most 4 with this dilation", "window"),
    "dilation alone beyond n": ({"window": 2, "dilation": 12}, "take a smaller dilation", "window"),
    "dilation 0": ({"window": 2, "dilation": 0}, "1 or more", "dilation"),
    "dilations of another number": ({"window": 2, "dilation": (1, 2)}, "2 dilations are given for 3 heads", "dilation"),
    "no dilations": ({"window": 2, "dilation": ()}, "0 dilations are given", "dilation"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_window_is_refused(case: str) -> None:
    parameters, message, field = REFUSED[case]
    with pytest.raises(kqv.InputError) as caught:
        Longformer(**parameters)(*qkv(11))
    assert message in str(caught.value)
    assert caught.value.location == ("attention", field)


@pytest.mark.parametrize("index", [11, -12])
def test_a_global_token_is_in_the_sequence(index: int) -> None:
    with pytest.raises(
        kqv.InputError, match=f"global token {index} is outside the sequence of 11: 0 to 10, or -11 to -1"
    ) as caught:
        Longformer(window=2, global_tokens=(0, index))(*qkv(11))
    assert caught.value.location == ("attention", "global_tokens", 1)


def test_cross_attention_has_no_window() -> None:
    q, k, v = qkv(11)
    with pytest.raises(kqv.InputError, match="linformer and performer serve cross-attention"):
        Longformer(window=2)(q[:, :, :5], k, v)


def test_a_query_that_sees_nothing_is_refused_with_weights_or_without() -> None:
    mask = torch.ones(11, 11, dtype=torch.bool)
    mask[4, 2:7] = False  # sees keys, but none in its window
    for weights in (True, False):
        with pytest.raises(kqv.InputError, match="hides every key from query 4"):
            kqv.attend(*qkv(11), mask=mask, attention=Longformer(window=4), weights=weights)


def test_global_heads_have_the_shape_of_the_local_ones() -> None:
    q, k, v = qkv(11)
    lifted = kqv.attend(
        q[0], k[0], v[0], attention=Longformer(window=2, global_tokens=(0,), global_heads=GlobalHeads(q[0], k[0], v[0]))
    )
    assert_close(lifted.output, Longformer(window=2, global_tokens=(0,))(q, k, v).output[0])
    for heads, field in ((GlobalHeads(q[:, :2], k, v), "global_q"), (GlobalHeads(q, k, v * torch.inf), "global_v")):
        with pytest.raises(kqv.InputError, match="finite numbers of the shape of") as caught:
            Longformer(window=2, global_tokens=(0,), global_heads=heads)(q, k, v)
        assert caught.value.location == ("attention", field)


def test_a_window_is_missing_where_no_model_has_one() -> None:
    with pytest.raises(kqv.InputError, match="only a Longformer checkpoint has windows of its own"):
        Longformer(global_tokens=(0,))(*qkv(11))
