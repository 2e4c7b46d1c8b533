"""Masks are predicates, and compose."""

import pytest
import torch

from kqv.attention.masks import Causal, Document, Everything, Mask, Padding, Table, Window, as_mask, visible


def seen(mask: Mask, queries: int = 3, keys: int = 3, batch: int = 1, heads: int = 1) -> list[object]:
    """The mask as rows of 0 and 1, [B, H, T, S] with single batch entries and heads left out."""
    return visible(mask, (batch, heads, queries, keys), torch.device("cpu")).int().squeeze((0, 1)).tolist()


def test_everything_is_seen_without_a_mask() -> None:
    assert seen(Everything(), 2, 3) == [[1, 1, 1], [1, 1, 1]]


def test_causal_queries_see_themselves_and_what_came_before() -> None:
    assert seen(Causal()) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_window_reaches_so_far_to_each_side() -> None:
    assert seen(Window(before=1, after=0)) == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert seen(Window(before=0, after=1)) == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_padding_hides_keys_past_each_length() -> None:
    assert seen(Padding(torch.tensor([1, 3])), 2, 3, batch=2) == [[[1, 0, 0]] * 2, [[1, 1, 1]] * 2]


def test_documents_see_only_themselves() -> None:
    documents = torch.tensor([0, 0, 1])
    assert seen(Document(documents, documents)) == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_masks_compose() -> None:
    documents = torch.tensor([0, 0, 1])
    assert seen(Causal() & Document(documents, documents)) == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert seen(Causal() & Window(before=1, after=5) & Padding(torch.tensor([2]))) == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_everything_is_neutral() -> None:
    causal = Causal()
    assert causal & Everything() is causal
    assert Everything() & causal is causal


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5), (7, 2, 3, 5), (7, 1, 3, 5), (1, 2, 3, 5)])
def test_a_table_is_seen_as_written(shape: tuple[int, ...]) -> None:
    table = torch.rand(shape) < 0.5
    evaluated = visible(as_mask(table), (7, 2, 3, 5), torch.device("cpu"))
    assert torch.equal(evaluated.expand(7, 2, 3, 5), table.expand(7, 2, 3, 5))


def test_a_block_of_a_mask_equals_that_block_of_the_whole() -> None:
    mask = Causal() & Window(before=2, after=0) & Table(torch.rand(1, 1, 11, 11) < 0.5)
    whole = visible(mask, (1, 1, 11, 11), torch.device("cpu"))
    zero = torch.zeros((1, 1, 1, 1), dtype=torch.long)
    block = mask(zero, zero, torch.arange(3, 8).view(1, 1, -1, 1), torch.arange(2, 9).view(1, 1, 1, -1))
    assert torch.equal(block, whole[:, :, 3:8, 2:9])
