"""Sequences in one row, and back."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from kqv.packing import Packing


def test_worked_example() -> None:
    packing = Packing((2, 3))
    assert packing.tokens == 5
    assert packing.offsets == (0, 2)
    assert packing.positions(torch.device("cpu")).tolist() == [0, 1, 0, 1, 2]


@given(st.lists(st.integers(1, 11), min_size=1, max_size=7))
def test_split_gives_each_sequence_back(lengths: list[int]) -> None:
    sequences = [torch.randn(length, 3) for length in lengths]
    parts = Packing(tuple(lengths)).split(torch.cat(sequences))
    assert len(parts) == len(sequences)
    assert all(torch.equal(part, sequence) for part, sequence in zip(parts, sequences, strict=True))
