"""Who may look at whom.

A mask is a predicate of (batch, head, query, key): index tensors that broadcast against each other go in, booleans come out,
true where the query may see the key. So a mask can be evaluated for any block of queries and keys, and masks compose with `&`:

    Causal() & Window(before=128, after=0)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Index = Int[Tensor, "..."]
Visible = Bool[Tensor, "..."]
Interval = tuple[Index, Index]
"""The first key that is seen, and the one after the last."""


class Mask(ABC):
    """A predicate of (batch, head, query, key); true where the query may see the key."""

    @abstractmethod
    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        """Broadcast the four indices; return whether each query may see each key."""

    def interval(self, query: Index, keys: Index) -> Interval | None:
        """The keys, out of so many, that each query sees, where they lie side by side, the same in every head; else None.

        >>> Causal().interval(torch.tensor([0, 1]), torch.tensor([9, 9]))
        (tensor([0, 0]), tensor([1, 2]))
        """
        return None

    def __and__(self, other: "Mask") -> "Mask":
        if isinstance(self, Everything):
            return other
        return self if isinstance(other, Everything) else Both(self, other)


@dataclass(frozen=True)
class Everything(Mask):
    """Every query sees every key."""

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=key.device)

    def interval(self, query: Index, keys: Index) -> Interval:
        return torch.zeros_like(keys), keys


@dataclass(frozen=True)
class Causal(Mask):
    """A query sees itself and what came before it."""

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        return key <= query

    def interval(self, query: Index, keys: Index) -> Interval:
        return torch.zeros_like(keys), torch.minimum(query + 1, keys)


@dataclass(frozen=True)
class Window(Mask):
    """A query sees `before` keys to its left, itself, and `after` keys to its right (Longformer, Mistral)."""

    before: int
    after: int

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        return (query - key <= self.before) & (key - query <= self.after)

    def interval(self, query: Index, keys: Index) -> Interval:
        return (query - self.before).clamp(min=0), torch.minimum(query + self.after + 1, keys)


@dataclass(frozen=True, eq=False)
class Padding(Mask):
    """Keys at or past a batch entry's length are padding, and nobody sees them."""

    lengths: Int[Tensor, " B"]

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        return key < self.lengths[batch]


@dataclass(frozen=True, eq=False)
class Document(Mask):
    """Several documents in one row: a query sees the keys of its own document."""

    query_documents: Int[Tensor, " T"]
    key_documents: Int[Tensor, " S"]

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        return self.query_documents[query] == self.key_documents[key]


@dataclass(frozen=True, eq=False)
class Table(Mask):
    """A mask spelled out, true where the query may see the key."""

    table: Bool[Tensor, "#B #H T S"]

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        batches, heads = self.table.shape[:2]
        return self.table[batch if batches > 1 else 0 * batch, head if heads > 1 else 0 * head, query, key]


@dataclass(frozen=True, eq=False)
class Both(Mask):
    """Seen under both masks; what `&` makes."""

    first: Mask
    second: Mask

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        return self.first(batch, head, query, key) & self.second(batch, head, query, key)

    def interval(self, query: Index, keys: Index) -> Interval | None:
        first, second = self.first.interval(query, keys), self.second.interval(query, keys)
        if first is None or second is None:
            return None
        return torch.maximum(first[0], second[0]), torch.minimum(first[1], second[1])


@dataclass(frozen=True, eq=False)
class Shifted(Mask):
    """A mask for queries that begin `by` places after the first key, as in decoding with a cache."""

    mask: Mask
    by: int

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        return self.mask(batch, head, query + self.by, key)

    def interval(self, query: Index, keys: Index) -> Interval | None:
        return self.mask.interval(query + self.by, keys)


@dataclass(frozen=True, eq=False)
class Picked(Mask):
    """A mask for some heads, queries and keys alone, picked by their indices."""

    mask: Mask
    heads: Int[Tensor, " h"]
    queries: Int[Tensor, " t"]
    keys: Int[Tensor, " s"]

    def __call__(self, batch: Index, head: Index, query: Index, key: Index) -> Visible:
        return self.mask(batch, self.heads[head], self.queries[query], self.keys[key])


def visible(mask: Mask, shape: tuple[int, int, int, int], device: torch.device) -> Bool[Tensor, "#B #H T S"]:
    """Evaluate `mask` for a whole (B, H, T, S); batch entries and heads that it doesn't tell apart share one map.

    >>> visible(Causal(), (1, 1, 2, 2), torch.device("cpu")).tolist()
    [[[[True, False], [True, True]]]]
    """
    return mask(*index_grid(shape, device)).expand(-1, -1, shape[2], shape[3])


def index_grid(shape: tuple[int, int, int, int], device: torch.device) -> tuple[Index, Index, Index, Index]:
    """Indices of batch, head, query and key, each along its own axis of (B, H, T, S)."""
    batch, head, query, key = (torch.arange(size, device=device) for size in shape)
    return along_axes(batch, head, query, key)


def along_axes(
    batch: Int[Tensor, " B"], head: Int[Tensor, " H"], query: Int[Tensor, " T"], key: Int[Tensor, " S"]
) -> tuple[Index, Index, Index, Index]:
    """The indices of a block of maps, each along its own axis of (B, H, T, S)."""
    return batch.view(-1, 1, 1, 1), head.view(1, -1, 1, 1), query.view(1, 1, -1, 1), key.view(1, 1, 1, -1)


MaskLike = Mask | Literal["none", "causal"] | Bool[Tensor, "..."]


def as_mask(mask: MaskLike) -> Mask:
    """The mask that a caller means by a name, or by booleans of shape [T, S], [H, T, S] or [B, H, T, S]."""
    if isinstance(mask, Mask):
        return mask
    if isinstance(mask, str):
        return {"none": Everything(), "causal": Causal()}[mask]
    return Table(mask[(None,) * (4 - mask.ndim)])
