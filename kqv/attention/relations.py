"""What a key is to a query: itself, the token before, the same word again.

A relation is a predicate of (query, key), like a mask, and can be evaluated for any block of a map. The weight that a query puts on
the keys of a relation is Σ_j p_ij g(i, j), which needs no map, and whose g is the same in every head and layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kqv.attention.masks import Index


@dataclass(frozen=True, eq=False)
class Tokens:
    """What is known of a sequence's queries and keys."""

    queries: int
    keys: int
    device: torch.device
    same: bool = True
    """Whether queries and keys are the same tokens (self-attention); the queries are the last of them."""
    ids: Int[Tensor, " S"] | None = None
    special: Bool[Tensor, " S"] | None = None
    """Which keys are the tokenizer's special tokens."""

    @cached_property
    def ids32(self) -> Int[Tensor, " S"] | None:
        """The ids as the C part reads them."""
        return None if self.ids is None else self.ids.int()

    @cached_property
    def nearest(self) -> tuple[Index, Index, Index]:
        """For each query the nearest keys with its own token, before it and after it, and the nearest that followed such a one.

        What there is none of is −1 before, and past the end after. Of tokens b a b b, the last has 2, 4 and 1.
        """
        if self.ids is None or not self.knows("duplicate"):
            return torch.full((self.queries,), -1), torch.full((self.queries,), self.keys), torch.full((self.queries,), -1)
        before, after = torch.full((self.keys,), -1), torch.full((self.keys,), self.keys)
        ids, places = self.ids.cpu().sort(stable=True)  # each token's places side by side, in order
        again = ids[1:] == ids[:-1]
        before[places[1:][again]], after[places[:-1][again]] = places[:-1][again], places[1:][again]
        # The key after the one before is the query itself, where the two are neighbours.
        found = torch.where(before == torch.arange(self.keys) - 1, before[before], before)
        follower = torch.where((before >= 0) & (found >= 0), found + 1, -1)
        return before[self.read :], after[self.read :], follower[self.read :]

    @cached_property
    def has_special(self) -> bool:
        """Whether any key is a special token."""
        return self.special is not None and bool(self.special.any())

    @property
    def read(self) -> int:
        """How many keys come before the first query."""
        return self.keys - self.queries if self.same else 0

    def knows(self, name: str) -> bool:
        """Whether there can be such keys here; tokens of two sequences can't be compared."""
        match name:
            case "first":
                return True
            case "special":
                return self.has_special
            case "duplicate" | "induction":
                return self.same and self.ids is not None
            case _:
                return self.same

    def relation(self, name: str, query: Index, key: Index) -> Bool[Tensor, "..."]:
        """Where a relation holds between indices that broadcast against each other; nowhere if it makes no sense here."""
        if not self.knows(name):
            return torch.zeros(torch.broadcast_shapes(query.shape, key.shape), dtype=torch.bool, device=self.device)
        return RELATIONS[name](self, query + self.read, key)

    def functionals(self, query: Index, key: Index) -> Float[Tensor, "T S R"]:
        """g(i, j) of every relation for queries [T, 1] and keys [S]: how far, for `distance`; 1 on the keys of the others."""
        g = torch.stack([self.relation(name, query, key) for name in RELATIONS], dim=-1).float()
        g[..., 0] *= (query + self.read - key).abs()
        return g


def everywhere(tokens: Tokens, place: Index, key: Index) -> Bool[Tensor, "..."]:
    return torch.ones(torch.broadcast_shapes(place.shape, key.shape), dtype=torch.bool, device=tokens.device)


def first(tokens: Tokens, place: Index, key: Index) -> Bool[Tensor, "..."]:
    return (key == 0) & everywhere(tokens, place, key)


def special(tokens: Tokens, place: Index, key: Index) -> Bool[Tensor, "..."]:
    assert tokens.special is not None
    return tokens.special[key] & everywhere(tokens, place, key)


def duplicate(tokens: Tokens, place: Index, key: Index) -> Bool[Tensor, "..."]:
    assert tokens.ids is not None
    return (tokens.ids[place] == tokens.ids[key]) & (place != key)


def induction(tokens: Tokens, place: Index, key: Index) -> Bool[Tensor, "..."]:
    assert tokens.ids is not None
    return (tokens.ids[place] == tokens.ids[(key - 1).clamp(min=0)]) & (key >= 1) & (key < place)


RELATIONS: dict[str, Callable[[Tokens, Index, Index], Bool[Tensor, "..."]]] = {
    "distance": everywhere,
    "self": lambda tokens, place, key: place == key,
    "previous": lambda tokens, place, key: place - 1 == key,
    "next": lambda tokens, place, key: place + 1 == key,
    "first": first,
    "special": special,
    "duplicate": duplicate,
    "induction": induction,
}
"""By the measure that counts its keys, from the query's place among the keys; `distance` counts all of them by how far they are."""
