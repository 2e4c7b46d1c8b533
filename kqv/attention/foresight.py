"""What will be summed up of every layer's attention, known before the first attends, so that a whole pass can be one call."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

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
