"""Sequences of one batch as the packed rows that a transformer reads."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kqv.cache import Cache
from kqv.inputs import TokenSequence
from kqv.packing import Packing
from kqv.transformer import Inputs, Stack


def pack(sequences: Sequence[TokenSequence], stack: Stack, caches: tuple[Cache, ...] = ()) -> Inputs:
    """The sequences as one row: of ids, or of vectors where any sequence brings its own."""
    weight = stack.embedding.tokens.weight
    packing = Packing(tuple(map(len, sequences)))
    if all(sequence.ids is not None for sequence in sequences):
        tokens: Tensor = numbers([index for sequence in sequences for index in sequence.ids or ()], weight.device)
    else:
        tokens = torch.cat([vectors(sequence, stack) for sequence in sequences])
    types = [kind for sequence in sequences for kind in sequence.token_types or (0,) * len(sequence)]
    return Inputs(tokens, packing, numbers(types, weight.device) if stack.embedding.token_types else None, caches)


def pack_ids(sequences: Sequence[Sequence[int]], stack: Stack, caches: tuple[Cache, ...] = ()) -> Inputs:
    """Bare ids as one row."""
    return pack([TokenSequence(tuple(ids)) for ids in sequences], stack, caches)


def vectors(sequence: TokenSequence, stack: Stack) -> Float[Tensor, "n W"]:
    """The sequence's own embeddings, or those looked up for its ids."""
    weight = stack.embedding.tokens.weight
    if sequence.embeddings is not None:
        return sequence.embeddings.to(weight.device, weight.dtype)
    return stack.embedding.lookup(numbers(sequence.ids or (), weight.device))


def numbers(values: Sequence[int], device: torch.device) -> Int[Tensor, " n"]:
    return torch.tensor(values, dtype=torch.long, device=device)
