"""What a caller wants to see of a forward pass: layers, heads, crops, how much of the weights, which measures."""

from dataclasses import dataclass
from typing import Literal, get_args

from kqv.attention.variants import Variant
from kqv.config import Group, ModelShape
from kqv.diagnostics import DEFAULT_DIAGNOSTICS, DIAGNOSTICS
from kqv.errors import InputError
from kqv.overrides import served

Weights = Literal["full", "top", "pooled", "none"]
Output = Literal["hidden", "pooled", "logits", "q", "k", "v", "scaled_scores", "head_outputs"]
Crop = tuple[int, int]

PER_HEAD: frozenset[Output] = frozenset({"q", "k", "v", "scaled_scores", "head_outputs"})
"""The outputs that come a layer and a head, within an attention group."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is kept of one sequence; the fields are those of `POST /v1/analyze`. Raises `InputError` for meaningless values."""

    layers: tuple[int, ...] | None = None
    """Indices to report, negative ones from the end; all without it."""
    heads: tuple[int, ...] | None = None
    weights: Weights = "full"
    """Whole maps, the `top_k` keys of each query, maps max-pooled to a side of `pool`, or none."""
    top_k: int = 8
    pool: int = 32
    queries: Crop | None = None
    """Half-open crop `[start, stop]` of the reported maps; means are always over the whole sequence."""
    keys: Crop | None = None
    diagnostics: tuple[str, ...] | Literal["all", "none"] = "all"
    per_query: bool = False
    """Diagnostics a query instead of their mean."""
    outputs: tuple[Output, ...] = ("hidden",)
    attention: Variant | None = None
    """What the layers attend by in place of the model's own attention."""
    groups: tuple[Group, ...] | None = None
    """The kinds of attention that do so; all that it can serve without this."""
    compare: bool = False
    """With an `attention`: also each head's distance from dense attention on the same queries, keys and values."""

    def __post_init__(self) -> None:
        if self.weights not in get_args(Weights):
            raise InputError(f"weights is one of {', '.join(get_args(Weights))}, not {self.weights!r}", ("weights",))
        for field in ("top_k", "pool"):
            if getattr(self, field) < 1:
                raise InputError(f"{field} is 1 or more, not {getattr(self, field)}", (field,))
        known(self.outputs, get_args(Output), "outputs")
        known(self.measures, tuple(DIAGNOSTICS), "diagnostics")
        self.check_attention()

    def check_attention(self) -> None:
        """Raise `InputError` for what the attention can't show, and for a comparison without another attention."""
        if self.compare and self.attention is None:
            message = "compare gives the distance of another attention from dense; name one in attention, or leave compare out"
            raise InputError(message, ("compare",))
        if self.attention is not None and not self.attention.scores_pairs and "scaled_scores" in self.outputs:
            message = (
                f"{self.attention.kind} never makes scaled_scores of all pairs of tokens; leave it out, or look at the weights"
            )
            raise InputError(message, ("outputs", self.outputs.index("scaled_scores")))

    @property
    def measures(self) -> tuple[str, ...]:
        """The ids of the diagnostics that are wanted, each once."""
        if not isinstance(self.diagnostics, str):
            return tuple(dict.fromkeys(self.diagnostics))
        if self.diagnostics not in ("all", "none"):
            message = f'diagnostics is "all", "none" or a tuple of ids, not {self.diagnostics!r}'
            raise InputError(message, ("diagnostics",))
        return DEFAULT_DIAGNOSTICS if self.diagnostics == "all" else ()

    @property
    def looks_at_heads(self) -> bool:
        """Whether anything of the attention itself is wanted."""
        return self.weights != "none" or bool(self.measures) or self.compare or not PER_HEAD.isdisjoint(self.outputs)


@dataclass(frozen=True)
class Scope:
    """A selection settled for one attention group of one sequence: no defaults, no negative indices, nothing out of range."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    queries: slice
    keys: slice
    lengths: tuple[int, int]
    """Tokens on the side of the queries and of the keys, reported or not."""
    attention: Variant | None = None
    """What attends in place of the model's own attention."""

    @property
    def map_size(self) -> tuple[int, int]:
        """Reported queries and keys."""
        return self.queries.stop - self.queries.start, self.keys.stop - self.keys.start

    def cells(self, config: ModelShape) -> int:
        """How many weights are looked at, of all heads: those that aren't reported are computed with the others."""
        return len(self.layers) * config.num_heads * self.lengths[0] * self.lengths[1]

    def numbers(self, selection: Selection, config: ModelShape) -> int:
        """How many numbers the group's part of the answer holds."""
        queries, keys = self.map_size
        weights = {
            "full": queries * keys,
            "top": 2 * queries * min(selection.top_k, keys),
            "pooled": min(selection.pool, queries) * min(selection.pool, keys),
            "none": 0,
        }
        rows = {"q": self.lengths[0], "k": self.lengths[1], "v": self.lengths[1], "head_outputs": self.lengths[0]}
        outputs = sum(rows[name] * config.d_head for name in rows.keys() & {*selection.outputs})
        outputs += queries * keys * ("scaled_scores" in selection.outputs)
        special = {"max_received": 1, "similarity": len(self.heads)}
        measures = sum(special.get(name, queries if selection.per_query else 1) for name in selection.measures)
        compared = 2 * selection.compare * (self.attention is not None)
        return len(self.layers) * len(self.heads) * (weights[selection.weights] + outputs + measures + compared)


def scopes(selection: Selection, config: ModelShape, lengths: dict[Group, tuple[int, int]]) -> dict[Group, Scope]:
    """Settle `selection` for each attention group of a model, whose `lengths` are those of queries and keys.

    Raises `InputError` for what is out of range; a layer that only one of two stacks has is reported for that one.
    """
    deepest = max(config.groups.values())
    indices(selection.layers, deepest, "layers")
    chosen = selection.attention
    overridden = served(chosen, selection.groups, config, lengths) if chosen is not None else frozenset()
    return {
        group: Scope(
            layers=within(selection.layers, count),
            heads=indices(selection.heads, config.num_heads, "heads"),
            queries=crop(selection.queries, lengths[group][0], "queries"),
            keys=crop(selection.keys, lengths[group][1], "keys"),
            lengths=lengths[group],
            attention=chosen if group in overridden else None,
        )
        for group, count in config.groups.items()
    }


def within(chosen: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    """Those of the chosen layers that a stack of `count` has, all by default, none where it has none of them."""
    return tuple(range(count)) if chosen is None else tuple(index % count for index in chosen if -count <= index < count)


def indices(chosen: tuple[int, ...] | None, count: int, field: str) -> tuple[int, ...]:
    """The chosen indices as non-negative ones, all `count` of them by default."""
    if chosen is None:
        return tuple(range(count))
    if not chosen:
        raise InputError(f"{field} is empty; name at least one, or leave it out for all", (field,))
    for place, index in enumerate(chosen):
        if not -count <= index < count:
            raise InputError(f"{field} has {index}, but the model has {count}: 0 to {count - 1}, or -{count} to -1", (field, place))
    return tuple(index % count for index in chosen)


def crop(bounds: Crop | None, length: int, field: str) -> slice:
    """A half-open range within `length`, the whole of it by default."""
    start, stop = (0, length) if bounds is None else bounds
    if not 0 <= start < stop <= length:
        raise InputError(
            f"{field} is [{start}, {stop}], but needs 0 <= start < stop <= {length}, the sequence's length in tokens", (field,)
        )
    return slice(start, stop)


def known(names: tuple[str, ...], choices: tuple[str, ...], field: str) -> None:
    """Raise `InputError` for the first name that is none of the choices."""
    for index, name in enumerate(names):
        if name not in choices:
            raise InputError(f"{field} has {name!r}; there are {', '.join(choices)}", (field, index))
