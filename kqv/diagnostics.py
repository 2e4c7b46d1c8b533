"""Per-head measures of attention, version 1.

A measure is a value a query; a head's figure is its mean over the queries where it is defined, NaN where there are none. Queries
and keys are the real tokens of one sequence, and a query that sees no key is in no figure. Natural logarithms. docs/diagnostics.md
has the formulas and their sources.

Nearly all are told from the statistics of the softmax (`kqv.attention.statistics`); the few that compare queries or heads with each
other need the weights themselves, a block of queries at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from kqv.attention.foresight import Counted
from kqv.attention.masks import Table
from kqv.attention.relations import RELATIONS, Tokens
from kqv.attention.sight import Sight, look
from kqv.attention.statistics import QUANTITIES, quantities_of_weights
from kqv.attention.variants import Variant
from kqv.native import figures as native

VERSION = 1


@dataclass(frozen=True)
class AcrossQueries:
    """A measure of a whole head or of pairs of heads: a sum over queries, and what is made of it."""

    add: Callable[[Float[Tensor, "H T S"], Bool[Tensor, "#H T"]], Tensor]
    """The sum over a block of queries, of their weights and of whether they see anything."""
    finish: Callable[[Tensor, Bool[Tensor, "#H T"]], Tensor]
    """The figures, [H] or [H, H], of the whole sum."""


def compare_heads(weights: Float[Tensor, "H T S"], sees: Bool[Tensor, "#H T"]) -> Float[Tensor, "H H"]:
    """Σ over queries of each pair's Jensen–Shannon divergence: the entropy of the mean less the mean of the entropies."""
    counted = weights[:, sees.all(0)]
    entropy = torch.special.entr(counted).sum(-1)
    mixed = torch.stack([torch.special.entr((counted + head) / 2).sum(-1) for head in counted])
    return (mixed - (entropy + entropy[:, None]) / 2).sum(-1)


@dataclass(frozen=True)
class Diagnostic:
    """A measure."""

    summary: str
    """What it says, in a few words."""
    defined: Literal["everywhere", "2 keys", "related"] = "everywhere"
    """At every query; where it sees 2 keys or more; where there is a key in the relation that it is called by."""
    across: AcrossQueries | None = None
    by_name_only: bool = False
    """Not part of "all": it costs a second pass."""

    @property
    def of_head(self) -> bool:
        """Whether it is a value a head, or a pair of heads, and none a query."""
        return self.across is not None


DIAGNOSTICS: dict[str, Diagnostic] = {
    "entropy": Diagnostic("−Σ p ln p, in nats"),
    "normalized_entropy": Diagnostic("entropy as a share of a uniform head's, 0 to 1", defined="2 keys"),
    "max_weight": Diagnostic("largest weight: the head's confidence"),
    "effective_tokens": Diagnostic("1 / Σ p²"),
    "top_k_mass": Diagnostic("sum of the top_k largest weights"),
    "distance": Diagnostic("mean distance to what is looked at, in tokens", defined="related"),
    "self": Diagnostic("weight on the token itself", defined="related"),
    "previous": Diagnostic("weight on the token before", defined="related"),
    "next": Diagnostic("weight on the token after", defined="related"),
    "first": Diagnostic("weight on the first token: the usual sink"),
    "special": Diagnostic("weight on the tokenizer's special tokens", defined="related"),
    "duplicate": Diagnostic("weight on other occurrences of the same token", defined="related"),
    "induction": Diagnostic("weight on what followed earlier occurrences of the token", defined="related"),
    "output_norm": Diagnostic("length of what the head adds to the residual stream"),
    "max_received": Diagnostic(
        "largest mean weight that a key receives: the strongest sink",
        across=AcrossQueries(
            add=lambda weights, sees: weights.sum(-2),
            finish=lambda received, sees: (received / sees.sum(-1, keepdim=True)).amax(-1),
        ),
        by_name_only=True,
    ),
    "similarity": Diagnostic(
        "Jensen–Shannon divergence between heads",
        across=AcrossQueries(add=compare_heads, finish=lambda divergence, sees: divergence / sees.all(0).sum()),
        by_name_only=True,
    ),
}
DEFAULT_DIAGNOSTICS = tuple(name for name, diagnostic in DIAGNOSTICS.items() if not diagnostic.by_name_only)
QUERY_MEASURES = tuple(name for name, diagnostic in DIAGNOSTICS.items() if not diagnostic.of_head)
"""Those that have a value for each query, in the order of all tensors of them."""


def query_measures(
    quantities: Float[Tensor, "P H N"], visible_keys: Int[Tensor, "#H N"], output_norm: Float[Tensor, "H N"]
) -> list[Float[Tensor, "H N"]]:
    """Every measure's value for each query, defined or not, in the order of `QUERY_MEASURES`."""
    planes = dict(zip(QUANTITIES, quantities, strict=True))
    planes["normalized_entropy"] = planes["entropy"] / visible_keys.clamp(min=2).to(quantities.dtype).log()
    planes["output_norm"] = output_norm
    return [planes[name] for name in QUERY_MEASURES]


def defined(sight: Sight) -> Bool[Tensor, " M #H N"]:
    """The queries that each measure's mean is over."""
    related = dict(zip(RELATIONS, sight.related, strict=True))
    sees = sight.sees
    where = {"everywhere": lambda name: sees, "2 keys": lambda name: sight.visible_keys >= 2, "related": related.__getitem__}
    return torch.stack([sees & where[DIAGNOSTICS[name].defined](name) for name in QUERY_MEASURES])


@dataclass(frozen=True, eq=False)
class Judged:
    """What a kind of attention lets each of N packed queries see, and so which of M measures are defined for it, in S sequences."""

    sight: Sight
    lengths: tuple[int, ...]
    defined: Bool[Tensor, " M #H N"]

    @cached_property
    def counted(self) -> Float[Tensor, " M #H N"]:
        """1 where a measure's mean is over the query."""
        return self.defined.float()

    @cached_property
    def foreseen(self) -> Counted:
        """The same for a pass that is one call."""
        return Counted(self.counted, self.sight.visible_keys)

    @cached_property
    def sequences(self) -> Float[Tensor, "N S"]:
        """1 where a query is of the sequence."""
        owner = torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))
        return one_hot(owner, len(self.lengths)).float().to(self.defined.device)

    @cached_property
    def counts(self) -> Float[Tensor, " M #H S"]:
        """Queries that a mean is over."""
        return torch.stack([part.sum(-1) for part in self.counted.split(self.lengths, dim=-1)], dim=-1)

    def means(self, values: Sequence[Float[Tensor, "H N"]]) -> Float[Tensor, "M H S"]:
        """Of each sequence's queries; NaN where a measure is defined for none."""
        sums = native.sums(values, self.counted, self.lengths)
        if sums is None:
            sums = (torch.stack(list(values)) * self.defined) @ self.sequences.to(values[0].dtype)
        return sums / self.counts


def judge(sight: Sight, lengths: Sequence[int]) -> Judged:
    """Which measures are defined for the queries of sequences of these lengths."""
    return Judged(sight, tuple(lengths), defined(sight))


def output_norms(head_outputs: Float[Tensor, "H N D"], w_o: Float[Tensor, "W H D"] | None) -> Float[Tensor, "H N"]:
    """‖z W_O‖ of each query and head; of the head outputs themselves where there is no output projection."""
    added = head_outputs if w_o is None else head_outputs @ w_o.to(head_outputs.dtype).permute(1, 2, 0)
    return added.norm(dim=-1)


def measure_across(name: str, blocks: Iterable[tuple[slice, Float[Tensor, "H T S"]]], sees: Bool[Tensor, "#H T"]) -> Tensor:
    """A measure of heads, from all queries' weights, a block of queries at a time."""
    across = DIAGNOSTICS[name].across
    assert across is not None
    total = sum((across.add(weights, sees[:, rows]) for rows, weights in blocks), start=torch.zeros(()))
    return across.finish(total, sees)


OF_SHARES = frozenset({"entropy", "normalized_entropy", "effective_tokens", "similarity"})
"""The measures that take a query's weights for shares of a whole."""


def defined_for(variant: Variant | None, figures: dict[str, Tensor]) -> dict[str, Tensor]:
    """The figures, without those that the weights of another attention than dense leave undefined: Linformer's can be negative."""
    if variant is None or variant.distributes:
        return figures
    return {name: torch.full_like(figure, torch.nan) if name in OF_SHARES else figure for name, figure in figures.items()}


@dataclass(frozen=True, eq=False)
class Subject:
    """One sequence's attention in one layer, with its whole map: what every faster way is tested against."""

    weights: Float[Tensor, "H T S"]
    visible: Bool[Tensor, "#H T S"]
    head_outputs: Float[Tensor, "H T D"]
    tokens: Tokens
    w_o: Float[Tensor, "W H D"] | None = None
    """Output projection, a [W, D] for each head; without it the head outputs themselves are measured."""
    top_k: int = 8


def diagnose(subject: Subject, names: Sequence[str], *, per_query: bool = False) -> dict[str, Tensor]:
    """Each named diagnostic as a mean a head, [H] ([H, H] for `similarity`), or with `per_query` as [H, T]; NaN where undefined."""
    sight = look(Table(subject.visible[None]), subject.tokens, len(subject.visible))
    quantities = quantities_of_weights(subject.weights, subject.visible, subject.tokens, subject.top_k)
    measures = query_measures(quantities, sight.visible_keys, output_norms(subject.head_outputs, subject.w_o))
    values = torch.stack(measures).masked_fill(~defined(sight), torch.nan)
    figures = dict(zip(QUERY_MEASURES, values if per_query else values.nanmean(-1), strict=True))
    whole = [(slice(0, len(subject.weights[0])), subject.weights)]
    return {name: figures[name] if name in figures else measure_across(name, whole, sight.sees) for name in names}
