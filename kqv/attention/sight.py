"""What each query may look at: how many keys there are for it, and whether any is in a relation to it.

It tells where a measure is defined: the weight on the next token says nothing of a query that may not see it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from kqv.attention.masks import Index, Mask, along_axes
from kqv.attention.relations import RELATIONS, Tokens
from kqv.native.relations import Known, relate

MUST_SEE = frozenset({"next", "duplicate", "induction"})
"""Relations in which a key counts only for those who may see it; of the others it is enough that there is one."""
ROWS = 256
"""Queries that are judged at once."""


class Sight(NamedTuple):
    """Of N queries; heads that a mask doesn't tell apart share one row."""

    visible_keys: Int[Tensor, "#H N"]
    related: Bool[Tensor, " R #H N"]
    """Whether there is a key of each of `RELATIONS`."""

    @property
    def sees(self) -> Bool[Tensor, "#H N"]:
        """Whether a query may look at anything."""
        return self.visible_keys > 0


def look(mask: Mask, tokens: Tokens, heads: int = 1) -> Sight:
    """Under any mask, a block of queries at a time; `heads` of them, where it tells them apart."""
    batch, head, query, key = (torch.arange(size, device=tokens.device) for size in (1, heads, tokens.queries, tokens.keys))
    parts = []
    for rows in query.split(ROWS):
        seen = mask(*along_axes(batch, head, rows, key))[0].expand(-1, len(rows), len(key))
        related = [find(name, tokens, rows[:, None], key, seen) for name in RELATIONS]
        parts.append(Sight(seen.sum(-1), torch.stack(related)))
    return join_sights(parts)


def find(name: str, tokens: Tokens, query: Index, key: Index, seen: Bool[Tensor, "h T S"]) -> Bool[Tensor, "h T"]:
    """Whether there is a key in the relation, for every query of a block."""
    holds = tokens.relation(name, query, key)
    return (holds & seen if name in MUST_SEE else holds.expand_as(seen)).any(-1)


def look_along(low: Int[Tensor, " N"], high: Int[Tensor, " N"], tokens: Sequence[Tokens]) -> Sight:
    """Of a whole batch, each of whose queries sees the keys low … high − 1 of its sequence, itself among them if it is one.

    A key in the relation is then seen if the nearest one is, so that nothing needs a map.
    """
    sequences = [
        Known(known.ids32 if known.same else None, known.queries, known.keys, known.same, known.has_special) for known in tokens
    ]
    related = relate(low, high, sequences)
    if related is None:
        related = relate_along(low, high, tokens)
    visible = (high - low).clamp(min=0)[None]
    return Sight(visible.to(tokens[0].device), related.to(tokens[0].device))


def relate_along(low: Int[Tensor, " N"], high: Int[Tensor, " N"], tokens: Sequence[Tokens]) -> Bool[Tensor, " R 1 N"]:
    """Whether they see a key of each of `RELATIONS`."""
    place = torch.cat([torch.arange(known.read, known.read + known.queries) for known in tokens])
    same, has_ids, has_special = (
        torch.tensor([known.knows(name) for known in tokens]).repeat_interleave(torch.tensor([known.queries for known in tokens]))
        for name in ("self", "duplicate", "special")
    )
    before, after, follower = (torch.cat(columns) for columns in zip(*(known.nearest for known in tokens), strict=True))
    found = {
        "distance": same,
        "self": same,
        "previous": same & (place >= 1),
        "next": same & (place + 1 < high),
        "first": torch.ones_like(same),
        "special": has_special,
        "duplicate": has_ids & ((before >= low) | (after < high)),
        "induction": has_ids & (follower >= low),
    }
    return torch.stack([found[name] for name in RELATIONS])[:, None]


def join_sights(parts: Sequence[Sight]) -> Sight:
    """Of further queries, one after the other."""
    heads = max(len(part.visible_keys) for part in parts)
    return Sight(
        torch.cat([part.visible_keys.expand(heads, -1) for part in parts], dim=-1),
        torch.cat([part.related.expand(-1, heads, -1) for part in parts], dim=-1),
    )
