"""An analysis as a person reads it in a terminal: all heads as a map, the sharpest of them in figures, and one token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # a table without an analysis doesn't need torch
    from kqv.analysis import Analysis, GroupAnalysis
    from kqv.config import Group


class Pattern(NamedTuple):
    """A place where a head may put most of its weight."""

    label: str
    place: str
    colour: str


PATTERNS = {
    "previous": Pattern("prev", "the token before", "green"),
    "next": Pattern("next", "the token after", "cyan"),
    "self": Pattern("self", "the token itself", "yellow"),
    "first": Pattern("1st", "the first token", "bright_black"),
    "special": Pattern("spec", "special tokens", "bright_black"),
}
"""By the diagnostic that measures it, the narrowest place first."""

MOST = 0.5
"""The share of its weight from which on a head is called by a pattern."""

SHOWN = 6
"""How many heads are shown in figures."""


@dataclass(frozen=True)
class Head:
    """One head's figures, and its place in the analysis."""

    layer: int
    head: int
    row: int
    column: int
    figures: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """How much of the weight is on each pattern's place, where there is such a place."""
        return {name: self.figures[name] for name in PATTERNS if not isnan(self.figures[name])}

    @property
    def pattern(self) -> str:
        """The narrowest place that most of the weight is on, or else the one with the largest share."""
        return next((name for name, share in self.shares.items() if share >= MOST), max(self.shares, key=self.shares.__getitem__))

    @property
    def sharpness(self) -> float:
        """The largest weight, less what rests on the first or the special tokens, where heads go that find nothing to do."""
        return self.figures["max_weight"] * (1 - max(self.shares.get(name, 0.0) for name in ("first", "special")))


def describe(analysis: Analysis) -> Iterator[RenderableType]:
    """Everything there is to print of an analysis that has its tokens, the default diagnostics and the top weights."""
    for group, found in analysis.attention.items():
        heads, (queries, keys) = read_heads(found), sides(analysis, group)
        across = f"of {len(queries)} tokens to {len(keys)}" if group == "cross" else f"over {len(queries)} tokens"
        yield heading(f"{group} attention {across}")
        if len(heads) > 1:
            yield head_map(found, heads)
            yield legend()
            yield heading("The sharpest heads, not counting what rests on the first and the special tokens")
        yield figures_table(heads[:SHOWN])
        yield heading(f"Layer {heads[0].layer}, head {heads[0].head}: what each token looks at most")
        yield looks_table(found, heads[0], queries, keys)


def sides(analysis: Analysis, group: Group) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Whose queries and whose keys a kind of attention has: a decoder's are the target's, where there is one."""
    source = analysis.tokens or ()
    target = analysis.target_tokens or source
    return source if group == "encoder" else target, target if group == "decoder" else source


def read_heads(found: GroupAnalysis) -> list[Head]:
    """The heads of a group, the sharpest first."""
    values = {name: tensor.tolist() for name, tensor in found.diagnostics.items()}
    heads = [
        Head(layer, head, row, column, {name: value[row][column] for name, value in values.items()})
        for row, layer in enumerate(found.layers)
        for column, head in enumerate(found.heads)
    ]
    return sorted(heads, key=lambda head: -head.sharpness)


def head_map(found: GroupAnalysis, heads: list[Head]) -> Table:
    """Layers × heads, each labelled by its pattern."""
    table = plain_table("layer", *map(str, found.heads), gap=1)
    labels = {(head.row, head.column): map_label(head) for head in heads}
    for row, layer in enumerate(found.layers):
        table.add_row(str(layer), *(labels[row, column] for column in range(len(found.heads))))
    return table


def map_label(head: Head) -> Text:
    pattern = PATTERNS[head.pattern]
    return Text(pattern.label, pattern.colour) if head.shares[head.pattern] >= MOST else Text("·")


def legend() -> Text:
    """What the labels of the map mean."""
    labels = (Text.assemble(f"{pattern.place} (", (pattern.label, pattern.colour), ")") for pattern in PATTERNS.values())
    return Text.assemble(f"{MOST:.0%} of the weight or more is on ", Text(", ").join(labels), ", or none of these (·)")


def figures_table(heads: list[Head]) -> Table:
    """The heads with what makes them out."""
    table = plain_table("layer", "head", "entropy", "max weight", "distance", "pattern", "share")
    for head in heads:
        figures = (decimal(head.figures[name]) for name in ("entropy", "max_weight", "distance"))
        pattern = Text(head.pattern, PATTERNS[head.pattern].colour)
        table.add_row(str(head.layer), str(head.head), *figures, pattern, f"{head.shares[head.pattern]:.0%}")
    return table


def looks_table(found: GroupAnalysis, head: Head, queries: tuple[str, ...], keys: tuple[str, ...]) -> Table:
    """Each token with the one that it looks at most, and how much."""
    assert found.top is not None
    strongest, weights = (top[head.row, head.column, :, 0].tolist() for top in (found.top.keys, found.top.weights))
    table = plain_table("", "token", "", "looks at", "weight", "")
    for query, (token, key, weight) in enumerate(zip(queries, strongest, weights, strict=True)):
        table.add_row(str(query), Text(token), str(key), Text(keys[key]), f"{weight:.2f}", "█" * round(20 * weight))
    return table


def decimal(figure: float) -> str:
    return "–" if isnan(figure) else f"{figure:.2f}"


def heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def plain_table(*columns: str, gap: int = 2) -> Table:
    """A table without lines."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for column in columns:
        table.add_column(column, header_style="dim")
    return table
