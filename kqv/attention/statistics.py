"""What is worth knowing of a query's softmax, as numbers that can be gathered a block of keys at a time, in any order.

For a block of keys `Statistics` keeps the largest score m and sums of e = exp(s − m): Σe, Σe·(s − m), Σe², Σe·g(j) for the
relations of `kqv.attention.relations`, Σe·v, and the largest e. Two blocks merge by rescaling to the larger m, as in the online
softmax (Milakov and Gimelshein, 2018); so no figure needs the T×S map.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kqv.attention.relations import RELATIONS, Tokens

QUANTITIES = ("logsumexp", "row_sum", "forbidden", "entropy", "max_weight", "effective_tokens", "top_k_mass", *RELATIONS)
"""What is known of each query in the end: ln Σe^s; the sum of its weights, as they were multiplied with the values; the largest
weight of a masked key; and what the diagnostics are made of. All but the first are 0 for a query that sees no key."""

Quantities = Float[Tensor, "P *B H T"]
"""A plane for each of `QUANTITIES`."""

LOWEST = -1e30
"""Stands for −inf where differences are taken."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of H heads and T queries, over the keys of some blocks."""

    maximum: Float[Tensor, "*B H T"]
    total: Float[Tensor, "*B H T"]
    weighted: Float[Tensor, "*B H T"]
    """Σe·(s − m): entropy is ln Σe − this / Σe, which loses no digits where the scores are large."""
    squares: Float[Tensor, "*B H T"]
    forbidden: Float[Tensor, "*B H T"]
    """The largest e of a masked key."""
    related: Float[Tensor, "*B H T R"]
    values: Float[Tensor, "*B H T _"]
    """Σe·v, and in the last column Σe·1 by the same product."""
    top: Float[Tensor, "*B H T k"]
    """The largest e, strongest first; fewer where there are fewer keys."""

    def merge(self, other: "Statistics", top_k: int) -> "Statistics":
        """Of the keys of both. Associative, and the order doesn't matter, but for rounding."""
        maximum = torch.maximum(self.maximum, other.maximum)
        one, two = self.rescaled(maximum), other.rescaled(maximum)
        top = torch.cat((one.top, two.top), dim=-1)
        return Statistics(
            maximum,
            one.total + two.total,
            one.weighted + two.weighted,
            one.squares + two.squares,
            torch.maximum(one.forbidden, two.forbidden),
            one.related + two.related,
            one.values + two.values,
            top.topk(min(top_k, top.shape[-1]), dim=-1).values,
        )

    def rescaled(self, maximum: Float[Tensor, "*B H T"]) -> "Statistics":
        """The same sums with e = exp(s − maximum), for a maximum no smaller than its own."""
        lower = self.maximum - maximum
        factor = lower.exp()
        column = factor[..., None]
        return Statistics(
            maximum,
            factor * self.total,
            factor * (self.weighted + lower * self.total),
            factor.square() * self.squares,
            factor * self.forbidden,
            column * self.related,
            column * self.values,
            column * self.top,
        )

    def output(self) -> Float[Tensor, "*B H T E"]:
        """Σp·v; 0 for a query that sees no key."""
        return self.values[..., :-1] / self.total[..., None].where(self.total[..., None] > 0, 1)

    def quantities(self) -> Quantities:
        """What the sums say of each query."""
        total = self.total.where(self.total > 0, 1)
        spread = total.log()
        planes = [
            torch.where(self.total > 0, self.maximum + spread, -torch.inf),
            self.values[..., -1] / total,
            self.forbidden / total,
            (spread - self.weighted / total).clamp(min=0),
            self.top[..., 0] / total,
            total.square() / self.squares.where(self.total > 0, torch.inf),
            self.top.sum(-1) / total,
            *(self.related / total[..., None]).unbind(-1),
        ]
        return torch.stack(planes)


def gather(
    scaled_scores: Float[Tensor, "*B H T S"],
    visible: Bool[Tensor, "*#B #H T S"],
    values: Float[Tensor, "*B H S E"],
    functionals: Float[Tensor, "T S R"],
    top_k: int,
) -> Statistics:
    """The statistics of one block of keys; masked scores are −inf, and so is nothing else."""
    maximum = scaled_scores.amax(-1).clamp(min=LOWEST)
    below = (scaled_scores - maximum[..., None]).clamp(min=LOWEST)
    e = below.exp()
    product = e @ torch.cat((values, torch.ones_like(values[..., :1])), dim=-1)
    related = torch.einsum("...hts,tsr->...htr", e, functionals.to(e.dtype))
    top = e.topk(min(top_k, e.shape[-1]), dim=-1).values
    return Statistics(maximum, e.sum(-1), (e * below).sum(-1), e.square().sum(-1), (e * ~visible).amax(-1), related, product, top)


def quantities_of_weights(
    weights: Float[Tensor, "H T S"], visible: Bool[Tensor, "#H T S"], tokens: Tokens, top_k: int
) -> Float[Tensor, "P H T"]:
    """The same, from the whole map: what the other ways are tested against. The log-sum-exp is not known, and NaN."""
    query, key = torch.arange(weights.shape[1], device=tokens.device)[:, None], torch.arange(weights.shape[2], device=tokens.device)
    sees = visible.any(-1)
    planes = [
        torch.full_like(weights[..., 0], torch.nan),
        weights.sum(-1),
        (weights * ~visible).amax(-1),
        torch.special.entr(weights).sum(-1),
        weights.amax(-1),
        torch.where(sees, 1 / weights.square().sum(-1), 0),
        weights.topk(min(top_k, weights.shape[-1]), dim=-1).values.sum(-1),
    ]
    related = weights.transpose(0, 1) @ tokens.functionals(query, key).to(weights.dtype)
    return torch.stack([*planes, *related.permute(2, 1, 0)])
