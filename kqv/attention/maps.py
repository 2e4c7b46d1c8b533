"""The map of one sequence's attention in one layer, or any part of it: kept whole, or made again out of the log-sum-exp."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kqv.attention.call import SequenceAttention
from kqv.attention.masks import along_axes
from kqv.attention.result import AttentionResult

BLOCK = 1 << 22
"""Numbers of a map that are made at once where all of it is looked at and none kept: 16 MB of float32."""


class Maps(ABC):
    """Scores and weights of some heads, queries and keys."""

    @abstractmethod
    def scores(self, heads: Sequence[int], queries: slice, keys: slice) -> Float[Tensor, "h q k"]:
        """Q Kᵀ · scale + bias, −inf where masked; in float32 at least."""

    @abstractmethod
    def weights(self, heads: Sequence[int], queries: slice, keys: slice) -> Float[Tensor, "h q k"]:
        """The weights; 0 for a query that sees no key."""

    def blocks(self, heads: Sequence[int], queries: slice, keys: slice) -> Iterator[tuple[slice, Float[Tensor, "h q k"]]]:
        """The weights, a block of queries at a time."""
        step = max(1, BLOCK // (len(heads) * (keys.stop - keys.start)))
        for start in range(queries.start, queries.stop, step):
            rows = slice(start, min(start + step, queries.stop))
            yield rows, self.weights(heads, rows, keys)


@dataclass(frozen=True, eq=False)
class WholeMaps(Maps):
    """Of attention that kept them."""

    result: AttentionResult
    """Without a batch dimension."""

    def scores(self, heads: Sequence[int], queries: slice, keys: slice) -> Float[Tensor, "h q k"]:
        assert self.result.scaled_scores is not None  # a selection of what an attention lacks is refused
        return self.result.scaled_scores[list(heads), queries, keys]

    def weights(self, heads: Sequence[int], queries: slice, keys: slice) -> Float[Tensor, "h q k"]:
        assert self.result.weights is not None
        return self.result.weights[list(heads), queries, keys]


@dataclass(frozen=True, eq=False)
class FromHeads(Maps):
    """Made again out of queries and keys."""

    sequence: SequenceAttention

    def scores(self, heads: Sequence[int], queries: slice, keys: slice) -> Float[Tensor, "h q k"]:
        sequence, device = self.sequence, self.sequence.q.device
        dtype = torch.promote_types(sequence.q.dtype, torch.float32)
        shared, chosen = sequence.q.shape[1] // sequence.k.shape[1], torch.tensor(heads, device=device)
        q, k = sequence.q[0, chosen, queries].to(dtype), sequence.k[0, chosen // shared, keys].to(dtype)
        scores = (q * sequence.scale) @ k.mT
        rows, columns = (torch.arange(part.start, part.stop, device=device) for part in (queries, keys))
        grid = along_axes(torch.zeros(1, dtype=torch.long, device=device), chosen, rows, columns)
        if sequence.bias is not None:
            scores = scores + sequence.bias(*grid)[0]
        return scores.masked_fill(~sequence.mask(*grid)[0], -torch.inf)


@dataclass(frozen=True, eq=False)
class RemadeMaps(FromHeads):
    """p_ij = exp(s_ij − LSE_i): any weight, without the others of its row."""

    logsumexp: Float[Tensor, "H T"]

    def weights(self, heads: Sequence[int], queries: slice, keys: slice) -> Float[Tensor, "h q k"]:
        """Whole rows are rounded so that they sum to 1."""
        scores, total = self.scores(heads, queries, keys), self.logsumexp[list(heads), queries, None]
        sees = total.isfinite()
        if scores.shape[-1] == self.sequence.k.shape[2]:
            return scores.softmax(-1).where(sees, 0)
        return (scores - total.where(sees, 0)).exp()
