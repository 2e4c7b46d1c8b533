"""Per-head measures of attention, version 1, from the weights themselves: the reference for every faster form.

A measure is a value a query; a head's figure is its mean over the queries where it is defined, NaN where there are none. Queries
and keys are the real tokens of one sequence, and a query that sees no key is in no figure. Natural logarithms. docs/diagnostics.md
has the formulas and their sources.

Many measures are Σ_j p_ij g(i, j) for a g that doesn't depend on the head: the weight on the token before, on the same token, on
special tokens. Those are one matrix product, whatever their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kqv.attention.variants import Variant

VERSION = 1


@dataclass(frozen=True, eq=False)
class Tokens:
    """What the measures know of a sequence's tokens; the same in every layer and head."""

    queries: int
    keys: int
    device: torch.device
    same: bool = True
    """Whether queries and keys are the same tokens (self-attention); the queries are the last of them."""
    ids: Int[Tensor, " S"] | None = None
    special: Bool[Tensor, " S"] | None = None
    """Which keys are the tokenizer's special tokens."""

    @cached_property
    def offset(self) -> Int[Tensor, "T S"]:
        """How many places after the query the key stands."""
        query = torch.arange(self.queries, device=self.device) + (self.keys - self.queries if self.same else 0)
        return torch.arange(self.keys, device=self.device) - query[:, None]

    @property
    def query_ids(self) -> Int[Tensor, "T 1"]:
        """Ids of the queries, in a column."""
        assert self.ids is not None
        return self.ids[self.keys - self.queries :, None]

    @cached_property
    def nothing(self) -> Bool[Tensor, "T S"]:
        return torch.zeros(self.queries, self.keys, dtype=torch.bool, device=self.device)

    @cached_property
    def relations(self) -> dict[str, Bool[Tensor, "T S"]]:
        """Which keys each linear measure counts for which query; none where queries and keys can't be compared."""
        between = ("first", "special")
        return {name: relation(self) if self.same or name in between else self.nothing for name, relation in RELATIONS.items()}

    @cached_property
    def functionals(self) -> Float[Tensor, "T S R"]:
        """g(i, j) of every linear measure, in the order of `RELATIONS`: how far, for `distance`; 1 on the keys of the others."""
        g = torch.stack([*self.relations.values()], dim=-1).float()
        g[..., 0] *= self.offset.abs()
        return g


def first(tokens: Tokens) -> Bool[Tensor, "T S"]:
    is_first = tokens.nothing.clone()
    is_first[:, 0] = True
    return is_first


def special(tokens: Tokens) -> Bool[Tensor, "T S"]:
    return tokens.nothing if tokens.special is None else tokens.special.expand(tokens.queries, -1)


def duplicate(tokens: Tokens) -> Bool[Tensor, "T S"]:
    if tokens.ids is None:
        return tokens.nothing
    return (tokens.query_ids == tokens.ids) & (tokens.offset != 0)


def induction(tokens: Tokens) -> Bool[Tensor, "T S"]:
    if tokens.ids is None:
        return tokens.nothing
    follows = tokens.query_ids == tokens.ids.roll(1)
    follows[:, 0] = False
    return follows & (tokens.offset < 0)


RELATIONS: dict[str, Callable[[Tokens], Bool[Tensor, "T S"]]] = {
    "distance": lambda tokens: ~tokens.nothing,
    "self": lambda tokens: tokens.offset == 0,
    "previous": lambda tokens: tokens.offset == -1,
    "next": lambda tokens: tokens.offset == 1,
    "first": first,
    "special": special,
    "duplicate": duplicate,
    "induction": induction,
}
"""The keys that each linear measure counts; `distance` is first, and counts all of them by how far they are."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One sequence's attention in one layer, as the measures see it."""

    weights: Float[Tensor, "H T S"]
    visible: Bool[Tensor, "#H T S"]
    head_outputs: Float[Tensor, "H T D"]
    tokens: Tokens
    w_o: Float[Tensor, "W H D"] | None = None
    """Output projection, a [W, D] for each head; without it the head outputs themselves are measured."""
    top_k: int = 8

    @cached_property
    def visible_keys(self) -> Int[Tensor, "#H T"]:
        """How many keys each query sees."""
        return self.visible.sum(-1)

    @cached_property
    def entropy(self) -> Float[Tensor, "H T"]:
        return torch.special.entr(self.weights).sum(-1)


def normalized_entropy(subject: Subject) -> Float[Tensor, "H T"]:
    return subject.entropy / subject.visible_keys.clamp(min=2).to(subject.weights.dtype).log()


def output_norm(subject: Subject) -> Float[Tensor, "H T"]:
    added = subject.head_outputs
    if subject.w_o is not None:
        added = added @ subject.w_o.to(added.dtype).permute(1, 2, 0)
    return added.norm(dim=-1)


def max_received(subject: Subject) -> Float[Tensor, " H"]:
    counted = (subject.visible_keys > 0).sum(-1, keepdim=True)
    return (subject.weights.sum(-2) / counted).amax(-1)


def similarity(subject: Subject) -> Float[Tensor, "H H"]:
    counted = (subject.visible_keys > 0).all(0)
    weights, entropy = subject.weights[:, counted], subject.entropy[:, counted]
    mixed = torch.stack([torch.special.entr((weights + head) / 2).sum(-1) for head in weights])
    return (mixed - (entropy + entropy[:, None]) / 2).mean(-1)


def top_k(weights: Float[Tensor, "H T S"], k: int) -> tuple[Float[Tensor, "H T k"], Int[Tensor, "H T k"]]:
    """The k largest weights of each query and their keys, strongest first; all of them where there are fewer."""
    return weights.topk(min(k, weights.shape[-1]), dim=-1)


@dataclass(frozen=True)
class Diagnostic:
    """A measure, made in one of three ways."""

    summary: str
    """What it says, in a few words."""
    of_query: Callable[[Subject], Float[Tensor, "H T"]] | None = None
    """A value for each query; without it, and without `of_head`, the measure is linear: Σ_j p_ij g(i, j)."""
    of_head: Callable[[Subject], Tensor] | None = None
    """A value for a whole head, [H], or for each pair, [H, H]."""
    defined: Literal["everywhere", "2 keys", "exists", "seen"] = "everywhere"
    """At every query; where it sees 2 keys or more; where such a key exists; where the query sees such a key."""
    by_name_only: bool = False
    """Not part of "all": it costs a second pass."""


DIAGNOSTICS: dict[str, Diagnostic] = {
    "entropy": Diagnostic("−Σ p ln p, in nats", lambda subject: subject.entropy),
    "normalized_entropy": Diagnostic("entropy as a share of a uniform head's, 0 to 1", normalized_entropy, defined="2 keys"),
    "max_weight": Diagnostic("largest weight: the head's confidence", lambda subject: subject.weights.amax(-1)),
    "effective_tokens": Diagnostic("1 / Σ p²", lambda subject: 1 / subject.weights.square().sum(-1)),
    "top_k_mass": Diagnostic("sum of the top_k largest weights", lambda subject: top_k(subject.weights, subject.top_k)[0].sum(-1)),
    "distance": Diagnostic("mean distance to what is looked at, in tokens", defined="exists"),
    "self": Diagnostic("weight on the token itself", defined="exists"),
    "previous": Diagnostic("weight on the token before", defined="exists"),
    "next": Diagnostic("weight on the token after", defined="seen"),
    "first": Diagnostic("weight on the first token: the usual sink"),
    "special": Diagnostic("weight on the tokenizer's special tokens", defined="exists"),
    "duplicate": Diagnostic("weight on other occurrences of the same token", defined="seen"),
    "induction": Diagnostic("weight on what followed earlier occurrences of the token", defined="seen"),
    "output_norm": Diagnostic("length of what the head adds to the residual stream", output_norm),
    "max_received": Diagnostic(
        "largest mean weight that a key receives: the strongest sink", of_head=max_received, by_name_only=True
    ),
    "similarity": Diagnostic("Jensen–Shannon divergence between heads", of_head=similarity, by_name_only=True),
}
DEFAULT_DIAGNOSTICS = tuple(name for name, diagnostic in DIAGNOSTICS.items() if not diagnostic.by_name_only)


def diagnose(subject: Subject, names: Sequence[str], *, per_query: bool = False) -> dict[str, Tensor]:
    """Each named diagnostic as a mean a head, [H] ([H, H] for `similarity`), or with `per_query` as [H, T]; NaN where undefined."""
    of_query = [name for name in names if DIAGNOSTICS[name].of_head is None]
    values = _values(subject, of_query)
    if values and not per_query:
        means = torch.stack([*values.values()]).nanmean(-1)
        values = dict(zip(values, means, strict=True))
    return values | {name: of_head(subject) for name in names if (of_head := DIAGNOSTICS[name].of_head)}


OF_SHARES = frozenset({"entropy", "normalized_entropy", "effective_tokens", "similarity"})
"""The measures that take a query's weights for shares of a whole."""


def defined_for(variant: Variant | None, figures: dict[str, Tensor]) -> dict[str, Tensor]:
    """The figures, without those that the weights of another attention than dense leave undefined: Linformer's can be negative."""
    if variant is None or variant.distributes:
        return figures
    return {name: torch.full_like(figure, torch.nan) if name in OF_SHARES else figure for name, figure in figures.items()}


def _values(subject: Subject, names: Sequence[str]) -> dict[str, Float[Tensor, "H T"]]:
    """A value a query of each named diagnostic, NaN where undefined."""
    values = _linear(subject) if RELATIONS.keys() & names else {}
    values |= {name: of_query(subject) for name in names if (of_query := DIAGNOSTICS[name].of_query)}
    return {name: values[name].masked_fill(~_defined(subject, name), torch.nan) for name in names}


def _linear(subject: Subject) -> dict[str, Float[Tensor, "H T"]]:
    """Σ_j p_ij g(i, j) of every linear measure, as one matrix product a query."""
    sums = subject.weights.transpose(0, 1) @ subject.tokens.functionals.to(subject.weights.dtype)
    return dict(zip(RELATIONS, sums.permute(2, 1, 0), strict=True))


def _defined(subject: Subject, name: str) -> Bool[Tensor, "#H T"]:
    """The queries that a measure's mean is over."""
    sees = subject.visible_keys > 0
    match DIAGNOSTICS[name].defined:
        case "everywhere":
            return sees
        case "2 keys":
            return subject.visible_keys >= 2
        case "exists":
            return sees & subject.tokens.relations[name].any(-1)
        case "seen":
            return (subject.visible & subject.tokens.relations[name]).any(-1)
