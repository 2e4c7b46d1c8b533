"""What is added to the scaled scores before the softmax.

Like a mask, a bias is a function of (batch, head, query, key), so that it can be evaluated for any block of queries and keys.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kqv.attention.masks import Index, index_grid


class Bias(ABC):
    """A function of (batch, head, query, key) that is added to the scaled scores."""

    relative: ClassVar[bool] = False
    """Whether it is told from the head and from key − query alone."""

    @abstractmethod
    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Float[Tensor, "..."]:
        """Broadcast the four indices; return what is added to each score."""


@dataclass(frozen=True, eq=False)
class Tabulated(Bias):
    """A bias spelled out."""

    table: Float[Tensor, "#B #H T S"]

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Float[Tensor, "..."]:
        batches, heads = self.table.shape[:2]
        return self.table[batch if batches > 1 else 0 * batch, head if heads > 1 else 0 * head, query, key]


@dataclass(frozen=True, eq=False)
class Linear(Bias):
    """ALiBi (Press et al., 2022): each head takes off its slope for every token of distance."""

    relative: ClassVar[bool] = True
    slopes: Float[Tensor, " H"]

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Float[Tensor, "..."]:
        return -self.slopes[head] * (query - key).abs()


@dataclass(frozen=True, eq=False)
class Relative(Bias):
    """T5's learned bias of each head for every bucket of distances (Raffel et al., 2020)."""

    relative: ClassVar[bool] = True
    table: Float[Tensor, "buckets H"]
    max_distance: int
    both_ways: bool
    """Half the buckets are for keys after the query; without it those share the bucket of the query itself."""

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Float[Tensor, "..."]:
        return self.table[bucket(key - query, len(self.table), self.max_distance, both_ways=self.both_ways), head]


@dataclass(frozen=True, eq=False)
class ShiftedBias(Bias):
    """A bias for queries that begin `by` places after the first key."""

    bias: Bias
    by: int

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Float[Tensor, "..."]:
        return self.bias(batch, head, query + self.by, key)


@dataclass(frozen=True, eq=False)
class PickedBias(Bias):
    """A bias for some heads, queries and keys alone, picked by their indices."""

    bias: Bias
    heads: Int[Tensor, " h"]
    queries: Int[Tensor, " t"]
    keys: Int[Tensor, " s"]

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Float[Tensor, "..."]:
        return self.bias(batch, self.heads[head], self.queries[query], self.keys[key])


def bucket(offset: Int[Tensor, "..."], buckets: int, max_distance: int, *, both_ways: bool) -> Int[Tensor, "..."]:
    """T5's bucket of a key `offset` places after the query: one for each small distance, then logarithmic ones up to the maximum.

    >>> bucket(torch.tensor([0, -1, -7, -8, -200, 1]), 32, 128, both_ways=True).tolist()
    [0, 1, 7, 8, 15, 17]
    """
    after = torch.zeros_like(offset)
    if both_ways:
        buckets //= 2
        after = (offset > 0) * buckets
        distance = offset.abs()
    else:
        distance = (-offset).clamp(min=0)
    exact = buckets // 2
    growth = (distance.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
    return after + torch.where(distance < exact, distance, far)


def alibi_slopes(num_heads: int) -> Float[Tensor, " H"]:
    """2^(−8h/H) for h = 1 … H where H is a power of two; other counts take every second slope of the next power for the rest."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * head / power) for head in range(1, power + 1)]
    between = [2 ** (-4 * head / power) for head in range(1, 2 * (num_heads - power) + 1, 2)]
    return torch.tensor(slopes + between)


def added(bias: Bias, shape: tuple[int, int, int, int], device: torch.device) -> Float[Tensor, "#B #H T S"]:
    """Evaluate `bias` for a whole (B, H, T, S)."""
    return bias(*index_grid(shape, device)).expand(-1, -1, shape[2], shape[3])
