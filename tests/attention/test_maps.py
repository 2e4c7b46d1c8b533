"""Any part of a map, made again by the C part, is that part of the whole map."""

from typing import Any

import pytest
import torch
from calls import make_call
from hypothesis import given, settings
from hypothesis import strategies as st

from kqv.attention.biases import Linear, Relative, Tabulated, alibi_slopes
from kqv.attention.dense import dense
from kqv.attention.masks import Causal, Everything, Table, Window
from kqv.attention.packed import remake
from kqv.native.attention import NativeMaps
from kqv.native.library import library

LENGTHS = [(9, 9), (3, 107), (130, 130)]
WHOLE = [(130, 130)]
"""What a table tells of."""
CASES: dict[str, dict[str, Any]] = {
    "everything": {"mask": Everything()},
    "causal": {"mask": Causal()},
    "a window": {"mask": Window(before=5, after=2)},
    "across": {"mask": Everything(), "group": "cross"},
    "one key head": {"mask": Causal(), "key_heads": 1},
    "ALiBi": {"mask": Causal(), "bias": Linear(alibi_slopes(6))},
    "T5's bias": {"mask": Everything(), "bias": Relative(torch.randn(32, 6), 128, both_ways=True)},
    "a table": {"lengths": WHOLE, "mask": Table(torch.arange(130 * 130).view(1, 1, 130, 130) % 7 < 3)},
    "a bias of all pairs": {"lengths": WHOLE, "mask": Causal(), "bias": Tabulated(torch.randn(1, 6, 130, 130))},
}


@st.composite
def crops(draw: st.DrawFn, length: int) -> slice:
    start = draw(st.integers(0, length - 1))
    return slice(start, draw(st.integers(start + 1, length)))


@pytest.mark.parametrize("case", CASES)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_part_of_a_map_is_that_of_the_whole(case: str, data: st.DataObject) -> None:
    if library() is None:
        pytest.skip("there is no C compiler here")
    torch.manual_seed(0)
    given_call = {"lengths": LENGTHS} | CASES[case]
    call, lengths = make_call(**given_call), given_call["lengths"]
    index = data.draw(st.integers(0, len(lengths) - 1))
    queries, keys = (data.draw(crops(length)) for length in lengths[index])
    heads = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=7))
    whole = call.sequence(index).by(dense).entry(0)
    assert whole.weights is not None
    assert whole.logsumexp is not None
    maps = remake(call, index, whole.logsumexp)
    assert isinstance(maps, NativeMaps)
    found, scores = maps.weights(heads, queries, keys), maps.scores(heads, queries, keys)
    torch.testing.assert_close(found, whole.weights[heads, queries, keys], rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(scores, whole.scaled_scores[heads, queries, keys], rtol=1e-5, atol=1e-5)
