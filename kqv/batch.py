"""Sequences of one batch as the packed rows that a network reads, in as few passes as it can do."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kqv.cache import Cache
from kqv.inputs import TokenSequence
from kqv.network import Network, Side
from kqv.packing import Packing
from kqv.transformer import Inputs

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_passes(
    network: Network, shape: Callable[[Item], Hashable], items: Sequence[Item], work: Callable[[list[Item]], Sequence[Result]]
) -> list[Result]:
    """What `work` makes of the items, in order: of all together, or of those of one shape where lengths don't mix."""
    if network.mixes_lengths:
        return list(work(list(items)))
    together: dict[Hashable, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        together[shape(item)].append(index)
    results: dict[int, Result] = {}
    for indices in together.values():
        results |= zip(indices, work([items[index] for index in indices]), strict=True)
    return [results[index] for index in range(len(items))]


def pack(sequences: Sequence[TokenSequence], side: Side, caches: tuple[Cache, ...] = ()) -> Inputs:
    """The sequences as one row: of ids, or of vectors where any sequence brings its own."""
    weight = side.weight
    packing = Packing(tuple(map(len, sequences)))
    if all(sequence.ids is not None for sequence in sequences):
        tokens: Tensor = numbers([index for sequence in sequences for index in sequence.ids or ()], weight.device)
    else:
        tokens = torch.cat([vectors(sequence, side) for sequence in sequences])
    types = [kind for sequence in sequences for kind in sequence.token_types or (0,) * len(sequence)]
    return Inputs(tokens, packing, numbers(types, weight.device) if side.has_token_types else None, caches)


def pack_ids(sequences: Sequence[Sequence[int]], side: Side, caches: tuple[Cache, ...] = ()) -> Inputs:
    """Bare ids as one row."""
    return pack([TokenSequence(tuple(ids)) for ids in sequences], side, caches)


def vectors(sequence: TokenSequence, side: Side) -> Float[Tensor, "n W"]:
    """The sequence's own embeddings, or those looked up for its ids."""
    if sequence.embeddings is not None:
        return sequence.embeddings.to(side.weight.device, side.weight.dtype)
    return side.lookup(numbers(sequence.ids or (), side.weight.device))


def numbers(values: Sequence[int], device: torch.device) -> Int[Tensor, " n"]:
    return torch.tensor(values, dtype=torch.long, device=device)
