"""What will be summed up of every layer's attention, known before the first attends, so that a whole pass can be one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kqv.attention.call import AttentionCall
from kqv.attention.relations import Tokens


@dataclass(frozen=True, eq=False)
class Counted:
    """Which of a layer's N packed queries the means of M measures are over."""

    counted: Float[Tensor, "M 1 N"]
    """1 where a query counts, else 0."""
    visible_keys: Int[Tensor, "1 N"]

    @cached_property
    def most(self) -> Float[Tensor, " N"]:
        """The entropy of a query that looks at all that it sees alike; of one that sees a single key, that of two."""
        return self.visible_keys[0].clamp(min=2).float().log()


@dataclass(frozen=True, eq=False)
class Shown:
    """The part of one sequence's maps that is wanted: of some layers and heads, each once, a crop of queries and keys."""

    weights: Float[Tensor, "L h Q K"]
    """Where they are written; zeros until then."""
    layers: tuple[int, ...]
    places: Int[Tensor, " H"]
    """Which of the shown heads each is, −1 for one that isn't shown; int32."""
    queries: slice
    keys: slice

    @classmethod
    def room(cls, layers: Sequence[int], heads: Sequence[int], num_heads: int, queries: slice, keys: slice) -> "Shown":
        """Room for it, of layers that have so many heads; what is named twice is there once."""
        layers, heads = once(layers), once(heads)
        places = torch.full((num_heads,), -1, dtype=torch.int32)
        places[list(heads)] = torch.arange(len(heads), dtype=torch.int32)
        sizes = (part.stop - part.start for part in (queries, keys))
        return cls(torch.zeros(len(layers), len(heads), *sizes, dtype=torch.float32), layers, places, queries, keys)

    def named(self, layers: Sequence[int], heads: Sequence[int]) -> Float[Tensor, "L H Q K"]:
        """The weights of the layers and heads as they were named."""
        weights = self.weights
        for dim, indices in enumerate((layers, heads)):
            if len(once(indices)) < len(indices):
                weights = weights.index_select(dim, torch.tensor([once(indices).index(index) for index in indices]))
        return weights


def once(indices: Sequence[int]) -> tuple[int, ...]:
    """Each index once, in the order in which they come."""
    return tuple(dict.fromkeys(indices))


class Foreseen(NamedTuple):
    """What is wanted of all layers: sums over the queries of each sequence, weights, and nothing at all of some layers."""

    tokens: Sequence[Tokens] = ()
    """What is known of each sequence."""
    top_k: Sequence[int] = ()
    """How many of the largest weights are summed in each."""
    measures: Sequence[str] = ()
    layers: Sequence[Counted | None] = ()
    maps: Sequence[Shown | None] = ()
    """Of each sequence; None where no weights are wanted."""


@runtime_checkable
class Foresight(Protocol):
    """An `Attend` that may know so much."""

    def __call__(self, call: AttentionCall, /) -> Float[Tensor, "N H D"]:
        """Attend."""

    def foresee(self, calls: Sequence[AttentionCall]) -> Foreseen | None:
        """What is wanted of a call for each layer, which are yet to be; None where that is more than sums and weights."""

    def take(
        self, calls: Sequence[AttentionCall], wanted: Foreseen, sums: Float[Tensor, "L M H S"], worst: Float[Tensor, "L 2 S"]
    ) -> None:
        """What was found: the sums, and the worst `row_sum_error` and `forbidden_mass` of each sequence; weights are written."""
