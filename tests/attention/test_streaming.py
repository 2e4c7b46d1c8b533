"""The faster forms against the whole map in float64: the same output, and the same of every quantity."""

import math
from typing import Any

import pytest
import torch
from calls import HALF, assert_same, known, make_call, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from kqv.attention.biases import Linear, Relative, Tabulated, alibi_slopes
from kqv.attention.call import OutputProjection
from kqv.attention.masks import Causal, Everything, Mask, Table, Window
from kqv.attention.packed import observe_packed
from kqv.attention.relations import Tokens
from kqv.attention.sight import look, look_along, relate_along
from kqv.attention.statistics import QUANTITIES, Statistics, gather
from kqv.attention.streaming import streaming
from kqv.native import attention as native
from kqv.native.library import library


def is_built() -> bool:
    return library() is not None


needs_native = pytest.mark.skipif("not is_built()", reason="there is no C compiler here")


SAME = [(1, 1), (7, 7), (130, 130), (1, 300), (65, 129)]
BIASES = {"ALiBi": Linear(alibi_slopes(6)), "T5": Relative(torch.randn(32, 6), 128, both_ways=True)}
CASES: dict[str, Any] = {
    "everything": {"lengths": SAME, "mask": Everything()},
    "causal": {"lengths": SAME, "mask": Causal()},
    "a window": {"lengths": SAME, "mask": Causal() & Window(before=9, after=0)},
    "a window both ways": {"lengths": SAME, "mask": Window(before=100, after=3)},
    "across": {"lengths": [(5, 7), (130, 3), (1, 200)], "mask": Everything(), "group": "cross"},
    "no groups": {"lengths": SAME, "mask": Causal(), "key_heads": 6},
    "one key head": {"lengths": SAME, "mask": Causal(), "key_heads": 1},
    "ALiBi": {"lengths": SAME, "mask": Causal(), "bias": BIASES["ALiBi"], "key_heads": 6},
    "T5's bias": {"lengths": SAME, "mask": Everything(), "bias": BIASES["T5"], "key_heads": 6},
    "T5's bias, grouped": {"lengths": SAME, "mask": Everything(), "bias": BIASES["T5"]},
    "a table": {"lengths": [(40, 40)], "mask": Table(torch.rand(1, 6, 40, 40) < 0.3)},
    "a table for all heads, and a bias": {
        "lengths": [(40, 40)],
        "mask": Table(torch.rand(1, 1, 40, 40) < 0.3),
        "bias": Tabulated(torch.randn(1, 6, 40, 40)),
        "key_heads": 6,
    },
    "a bias of all pairs": {"lengths": [(40, 40)], "mask": Causal(), "bias": Tabulated(torch.randn(1, 6, 40, 40))},
    "heads of a prime width": {"lengths": SAME, "mask": Causal(), "width": 37},
    "wide heads": {"lengths": [(33, 33)], "mask": Causal(), "width": 256},
    "sharp heads": {"lengths": SAME, "mask": Causal(), "sharpness": 20.0},
    "equal scores": {"lengths": SAME, "mask": Causal(), "sharpness": 0.0},
    "long": {"lengths": [(700, 700)], "mask": Causal(), "key_heads": 6},
}


@pytest.fixture(params=["c", pytest.param("torch", id="torch")])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C part where there is one, or plain torch."""
    if request.param == "torch":
        monkeypatch.setattr(native, "serves", lambda *_: False)
    elif not is_built():
        pytest.skip("there is no C compiler here")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("form")
def test_statistics_equal_the_whole_map(case: str) -> None:
    torch.manual_seed(0)
    call = make_call(**CASES[case])
    tokens = [known(asking, there, same=call.same) for asking, there in CASES[case]["lengths"]]
    top_k = [1 + 4 * index % 9 for index in range(len(tokens))]
    assert_same(observe_packed(call, tokens, top_k), reference(call, tokens, top_k))


@pytest.mark.usefixtures("form")
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_statistics_equal_the_whole_map_whatever_the_shapes(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 1000)))
    key_heads, shared = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    lengths = []
    for _ in range(draw(st.integers(1, 4))):
        keys = draw(st.integers(1, 150))
        lengths.append((draw(st.integers(1, keys)), keys))
    heads = key_heads * shared
    windows = st.builds(Window, st.integers(0, 50), st.integers(0, 50))
    mask = draw(st.one_of(st.just(Everything()), st.just(Causal()), windows, windows.map(lambda window: Causal() & window)))
    bias = draw(st.sampled_from([None, Linear(alibi_slopes(heads)), Relative(torch.randn(8, heads), 20, both_ways=False)]))
    sharpness = draw(st.sampled_from([0.0, 1.0, 6.0]))
    width = draw(st.integers(1, 70))
    call = make_call(lengths, mask, bias, heads=heads, key_heads=key_heads, width=width, sharpness=sharpness)
    tokens = [known(*each) for each in lengths]
    top_k = [draw(st.integers(1, 12)) for _ in lengths]
    assert_same(observe_packed(call, tokens, top_k), reference(call, tokens, top_k))


@pytest.mark.usefixtures("form")
def test_a_query_that_sees_nothing_has_nothing() -> None:
    seen = torch.ones(5, 5, dtype=torch.bool)
    seen[2] = False
    call = make_call([(5, 5)], Table(seen[None, None]))
    output, quantities = observe_packed(call, [known(5, 5)], [8])
    assert (output[2] == 0).all()
    assert quantities[0, :, 2].isneginf().all()
    assert (quantities[1:, :, 2] == 0).all()
    assert quantities.isnan().sum() == 0


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("place", [0, 93, 202])
def test_the_largest_weights_may_lie_side_by_side(place: int) -> None:
    torch.manual_seed(0)
    call = make_call([(300, 300)], Everything())
    call.q.fill_(1.0)
    call.keys[0][place : place + 8] = torch.linspace(1.2, 1.9, 8)[:, None, None]  # others are around 0
    tokens = [known(300, 300)]
    assert_same(observe_packed(call, tokens, [8]), reference(call, tokens, [8]))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    call = make_call(SAME, Causal(), dtype=dtype)
    tokens = [known(*each) for each in SAME]
    found = observe_packed(call, tokens, [8] * len(SAME))
    assert found.output.dtype == dtype
    expected = reference(call, tokens, [8] * len(SAME))
    for name, plane, wanted in zip(QUANTITIES, found.quantities.double(), expected[1], strict=True):
        torch.testing.assert_close(plane, wanted, **HALF[name])


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neighbours_and_threads_change_nothing(threads: int) -> None:
    torch.manual_seed(0)
    call = make_call(SAME, Causal())
    tokens = [known(*each) for each in SAME]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        together = observe_packed(call, tokens, [8] * len(SAME))
        alone = [observe_packed(call.only(index), [tokens[index]], [8]) for index in range(len(SAME))]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together.output, torch.cat([each.output for each in alone]))
    assert torch.equal(together.quantities, torch.cat([each.quantities for each in alone], dim=-1))


def block_statistics(parts: list[int]) -> tuple[list[Statistics], Statistics]:
    """Of blocks of keys of these sizes, and of all of them at once."""
    keys, top_k = sum(parts), 5
    scores = torch.randn(3, 4, keys, dtype=torch.float64) * 9
    seen = torch.rand(1, 4, keys) < 0.7
    scores = scores.masked_fill(~seen, -math.inf)
    values, g = torch.randn(3, keys, 6, dtype=torch.float64), torch.rand(4, keys, 8, dtype=torch.float64)
    arguments = zip(scores.split(parts, -1), seen.split(parts, -1), values.split(parts, 1), g.split(parts, 1), strict=True)
    return [gather(*each, top_k) for each in arguments], gather(scores, seen, values, g, top_k)


@settings(deadline=None, max_examples=40)
@given(parts=st.lists(st.integers(1, 9), min_size=3, max_size=6), seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
def test_merging_is_associative_and_order_free(parts: list[int], seed: int, order: Any) -> None:
    torch.manual_seed(seed)
    blocks, whole = block_statistics(parts)
    left = blocks[0]
    for block in blocks[1:]:
        left = left.merge(block, 5)
    shuffled = blocks.copy()
    order.shuffle(shuffled)
    while len(shuffled) > 1:  # a tree, in another order
        shuffled = [*shuffled[2:], shuffled[0].merge(shuffled[1], 5)]
    for merged in (left, shuffled[0]):
        torch.testing.assert_close(merged.quantities(), whole.quantities(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(merged.output(), whole.output(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [(1, 1), (3, 7), (64, 5), (1000, 1000)])
def test_the_size_of_a_block_changes_nothing(block: tuple[int, int]) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 6, 40, 8).double(), torch.randn(1, 2, 40, 8).double(), torch.randn(1, 2, 40, 11).double()
    tokens = known(40, 40)
    expected = streaming(q, k, v, tokens=tokens, mask=Causal())
    found = streaming(q, k, v, tokens=tokens, mask=Causal(), queries=block[0], keys=block[1])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask", [Everything(), Causal(), Window(before=4, after=2)], ids=["everything", "causal", "window"])
@pytest.mark.parametrize("lengths", [(9, 9), (3, 17)])
@pytest.mark.parametrize("by", ["C", "torch"])
def test_sight_is_the_same_by_nearest_keys_and_by_all(
    mask: Mask, lengths: tuple[int, int], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    if by == "torch":
        monkeypatch.setattr("kqv.attention.sight.relate", lambda *_: None)
    call, tokens = make_call([lengths], mask), known(*lengths)
    limits = call.limits()
    assert limits is not None
    [sequence] = call.sequences()
    quick, slow = look_along(*limits, [tokens]), look(sequence.mask, tokens)
    assert torch.equal(quick.visible_keys, slow.visible_keys)
    assert torch.equal(quick.related, slow.related)


IDS = st.lists(st.sampled_from([0, 1, 16, 17, 32, 4096, 2**31 - 1]), min_size=1, max_size=40)
"""Few, so that they come again, and some that a table of 16 or of 64 puts into the same place."""


@settings(deadline=None, max_examples=100)
@given(
    batch=st.lists(st.tuples(IDS, st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=5),
    mask=st.sampled_from([Everything(), Causal(), Window(before=3, after=1)]),
)
def test_relations_of_a_batch_in_c_are_those_in_torch(batch: list[tuple[list[int], bool, bool, int]], mask: Mask) -> None:
    if not is_built():
        pytest.skip("there is no C compiler here")
    cpu, lengths, tokens = torch.device("cpu"), [], []
    for ids, has_ids, same, read in batch:
        keys, queries = len(ids), max(1, len(ids) - read)
        lengths.append((queries, keys))
        tokens.append(Tokens(queries, keys, cpu, same, torch.tensor(ids) if has_ids else None, torch.tensor(ids) == 1))
    limits = make_call(lengths, mask).limits()
    assert limits is not None
    assert torch.equal(look_along(*limits, tokens).related, relate_along(*limits, tokens))


def test_lengths_of_what_heads_add_need_no_wide_product() -> None:
    torch.manual_seed(0)
    projection, heads = OutputProjection(torch.randn(53, 5 * 7).double(), 5), torch.randn(11, 5, 7).double()
    expected = torch.einsum("nhd,whd->hnw", heads, projection.weight.unflatten(-1, (5, 7))).norm(dim=-1)
    torch.testing.assert_close(projection.lengths(heads), expected, rtol=1e-12, atol=0)
