"""Linformer's attention is the package's with the package's matrices, and draws matrices of its own by seed."""

from typing import Any

import linformer
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import kqv
from kqv.attention import linformer as module
from kqv.attention.dense import dense
from kqv.attention.linformer import Linformer
from kqv.attention.masks import Causal


def qkv(queries: int = 11, keys: int = 13, heads: int = 3, groups: int = 3) -> list[torch.Tensor]:
    return [
        torch.randn(1, count, length, width) for count, length, width in ((heads, queries, 7), (groups, keys, 7), (groups, keys, 5))
    ]


@given(
    heads=st.integers(1, 4),
    width=st.integers(1, 9),
    rank=st.integers(1, 7),
    queries=st.integers(1, 17),
    keys=st.integers(1, 19),
    shared=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_equals_the_package_with_its_weights(
    heads: int, width: int, rank: int, queries: int, keys: int, shared: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    reference = linformer.LinformerSelfAttention(heads * width, keys, k=rank, heads=heads, share_kv=shared).requires_grad_(False)
    torch.nn.init.zeros_(reference.to_out.bias)
    values = reference.to_k if shared else reference.to_v
    projections = kqv.Projections(*(layer.weight.T for layer in (reference.to_q, reference.to_k, values, reference.to_out)))
    attention = Linformer(e=reference.proj_k.T, f=None if shared else reference.proj_v.T)
    x, context = torch.randn(queries, heads * width), torch.randn(keys, heads * width)
    found = kqv.multi_head(x, projections, heads, context=context, attention=attention)
    assert_close(found.output, reference(x[None], context[None])[0], rtol=1e-5, atol=1e-5)
    assert_close(found.attention.output, found.attention.weights @ found.v, rtol=1e-5, atol=1e-5)


def test_queries_are_attended_by_themselves_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv()
    whole = Linformer(rank=4)(q, k, v, weights=True)
    monkeypatch.setattr(module, "CHUNK", 4)
    parts, lean = (Linformer(rank=4)(q, k, v, weights=weights) for weights in (True, False))
    assert_close(parts.weights, whole.weights)
    assert_close(parts.output, whole.output)
    assert_close(lean.output, whole.output)


def test_grouped_heads_equal_repeated_ones() -> None:
    q, k, v = qkv(heads=6, groups=2)
    attention = Linformer(rank=4)
    repeated = attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1))
    assert_close(attention(q, k, v).output, repeated.output)


def test_projections_that_keep_every_key_are_dense_attention() -> None:
    q, k, v = qkv()
    for e in (torch.eye(13), torch.eye(13).expand(3, 13, 13)):
        found = Linformer(e=e)(q, k, v, weights=True)
        assert_close(found.weights, dense(q, k, v).weights)
        assert_close(found.output, dense(q, k, v).output)


def drawn(layer: int = 0, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return Linformer(rank=4, **options).at(layer).projections(3, 2003)


def test_what_is_drawn_is_shared_as_asked() -> None:
    e, f = drawn()
    assert e.shape == f.shape == (3, 4, 2003)
    assert_close(e.var(), torch.tensor(1 / 4), rtol=0.03, atol=0)
    assert not torch.equal(e[0], e[1])
    assert not torch.equal(e, f)
    assert drawn(share_heads=True)[0].shape == (1, 4, 2003)
    assert torch.equal(*drawn(share_values=True))
    assert not torch.equal(e, drawn(layer=1)[0])
    assert torch.equal(drawn(layer=1, share_layers=True)[0], drawn(layer=2, share_layers=True)[0])
    assert not torch.equal(e, drawn(seed=1)[0])
    torch.randn(7)
    assert torch.equal(e, drawn()[0])


def test_the_maps_are_made_only_when_asked() -> None:
    found = Linformer(rank=4)(*qkv())
    assert found.weights is found.visible is found.scaled_scores is None


def test_half_precision_is_computed_in_float32() -> None:
    q, k, v = (tensor.half() for tensor in qkv())
    found = Linformer(rank=4)(q, k, v)
    assert_close(found.output, Linformer(rank=4)(q.float(), k.float(), v.float()).output, rtol=0, atol=0)


MATRIX = torch.ones(4, 13)
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, tuple[str, ...]]] = {
    "no rank": ({}, {}, "either the rank", ("attention", "rank")),
    "rank and matrix": ({"rank": 4, "e": MATRIX}, {}, "either the rank", ("attention", "rank")),
    "rank 0": ({"rank": 0}, {}, "a rank of 0 leaves no keys", ("attention", "rank")),
    "values alone": ({"rank": 4, "f": MATRIX}, {}, "give e too", ("attention", "f")),
    "another length": ({"e": MATRIX[:, 1:]}, {}, "which is for 12 keys, and there are 13", ("attention", "e")),
    "values of another length": ({"e": MATRIX, "f": MATRIX[:, 1:]}, {}, "send one for 13, or a rank", ("attention", "f")),
    "another rank": ({"e": MATRIX, "f": MATRIX[1:]}, {}, "as many keys as values, not 4 and 3", ("attention", "f")),
    "a vector": ({"e": MATRIX[0]}, {}, "[rank, keys]", ("attention", "e")),
    "not a number": ({"e": MATRIX * torch.nan}, {}, "finite numbers", ("attention", "e")),
    "other heads": ({"e": MATRIX.expand(2, 4, 13)}, {}, "2 heads, and there are 3", ("attention", "e")),
    "causal": ({"rank": 4}, {"mask": Causal()}, "take performer or longformer", ("mask",)),
    "biased": ({"rank": 4}, {"bias": torch.zeros(11, 13)}, "no bias of single ones", ("bias",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_do_is_refused(case: str) -> None:
    parameters, options, message, location = REFUSED[case]
    with pytest.raises(kqv.InputError) as caught:
        kqv.attend(*qkv(), attention=Linformer(**parameters), **options)
    assert message in str(caught.value)
    assert caught.value.location == location
