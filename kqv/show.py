"""What an analysis looks like: in a notebook, as a page, and by matplotlib.

Presentation lives here, below the results that it shows: the engine's and the client's inherit `Shown`. A page is one file that
needs no server, so that it can be mailed. All of it can be read without its one script, by which another measure is chosen; no
other script may run in it, and a token that is HTML stays text. What moves is the dashboard.
"""

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from html import escape
from io import BytesIO
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kqv.drawing import Array, colour_of, levels, to_data_url
from kqv.errors import InputError
from kqv.looks import Look, looks, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 48
"""Tokens up to which each has a label beside a map."""
PIXELS = 400
"""How wide a map is shown."""
MOST_HINTS = 10_000
"""Cells of a page that say what they are to those who point at them; of more, none do."""


class Shown:
    """What results have that can be looked at."""

    attention: Any
    tokens: tuple[str, ...] | None

    def _repr_html_(self) -> str:
        """In a notebook: a map of the heads, and one of them."""
        return "".join(figure(look) for look in looks(self)) + MORE

    def page(self, measure: str | None = None) -> str:
        """A page of its own, with every head and measure to choose from: HTML that needs nothing else."""
        return page(looks(self, measure))

    def plot(
        self, measure: str | None = None, *, group: str | None = None, layer: int | None = None, head: int | None = None
    ) -> "Figure":
        """The same by matplotlib, which comes with `kqv[plot]`: a map of the heads by a measure, and one head."""
        return plot(next(iter(looks(self, measure, group=group, layer=layer, head=head))))


MORE = """<p style="font:12px system-ui,sans-serif;opacity:.7;margin:0">Other measures and heads: <code>.plot()</code>,
<code>.page()</code>; live views: <code>view</code> of <code>service.widget</code>.</p>"""

STYLE = "font:13px/1.4 system-ui,sans-serif;margin:0 0 1em"


def figure(look: Look) -> str:
    """HTML of a group: its heads, and the chosen one."""
    overview, chosen = heads_table(look, ""), head_map(look, look.row, look.column)
    return f'<figure style="{STYLE}">{caption(look)}<div style="{ROW}">{overview}{chosen}</div></figure>'


ROW = "display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start"


def caption(look: Look) -> str:
    """The caption of a figure."""
    return f'<figcaption style="margin-bottom:.5em">{escape(meaning(look))}</figcaption>'


def meaning(look: Look) -> str:
    """What the group is, and what its colours mean."""
    told = f"{look.name} attention"
    if look.keys:
        told += f" over {len(look.keys)} tokens"
    figures = look.figures()
    if figures is not None and look.measure is not None:
        low, high = span(figures, look.measure)
        told += f", heads by {spelled(look.measure)} ({low:.3g} dark to {high:.3g} bright)"
    return told


def spelled(measure: str | None) -> str:
    """A measure as people write it."""
    return (measure or "").replace("_", " ")


def heads_table(look: Look, prefix: str) -> str:
    """Layers × heads. With a prefix each is a label of the input that chooses it."""
    numbers = "".join(f'<th scope="col" style="{CELL}">{head}</th>' for head in look.found.heads)
    rows = "".join(
        f'<tr><th scope="row" style="{CELL}">{layer}</th>{"".join(head_cells(look, row, prefix))}</tr>'
        for row, layer in enumerate(look.found.layers)
    )
    corner = f'<td style="{CELL}"></td>'
    return (
        f'<table style="border-collapse:collapse;width:auto"><thead><tr>{corner}{numbers}</tr></thead><tbody>{rows}</tbody></table>'
    )


CELL = "padding:0;min-width:2.6em;height:1.9em;text-align:center;font-weight:normal;border:0"


def head_cells(look: Look, row: int, prefix: str) -> Iterator[str]:
    """A layer's cells."""
    for column, (told, background, ink) in enumerate(tellings(look, row)):
        title = f"{look.place(row, column)}: {spelled(look.measure)} {told}"
        inside = f'<label for="{prefix}-{row}-{column}" style="display:block;padding:.3em;cursor:pointer">{told}</label>'
        yield (f'<td title="{escape(title)}" style="{CELL};background:{background};color:{ink}">{inside if prefix else told}</td>')


def tellings(look: Look, row: int) -> Iterator[tuple[str, str, str]]:
    """What the cells of a layer say, on which colour, and in which."""
    figures = look.figures()
    for column in range(len(look.found.heads)):
        value = float("nan") if figures is None else float(figures[row, column])
        if isnan(value):
            yield "–", "transparent", "inherit"
        else:
            yield f"{value:.2f}", *colour_of(level_of(value, figures, look.measure))


def level_of(value: float, figures: Array | None, measure: str | None) -> int:
    """A figure's place among the colours."""
    assert figures is not None and measure is not None  # or there would be no value
    return int(levels(np.array([value]), *span(figures, measure))[0])


def head_map(look: Look, row: int, column: int, siblings: int = 1) -> str:
    """A head's weights, queries downwards and keys to the right, on a page that has so many of them."""
    weights = look.weights_of(row, column)
    place = escape(look.place(row, column))
    if weights is None:
        return f"<p>{place}: its weights were not asked for</p>"
    high = float(weights.max(initial=0.0)) or 1.0
    rows, columns = weights.shape
    cell = max(1.0, min(28.0, PIXELS / max(rows, columns)))
    width, height = columns * cell, rows * cell
    left, above = label_space(look.queries, rows), label_space(look.keys, columns)
    image = (
        f'<image href="{to_data_url(levels(weights, 0, high))}" x="{left}" y="{above}" width="{width:.1f}" height="{height:.1f}"'
    )
    told = f"{place}: weights from 0 (dark) to {high:.3g} (bright); queries downwards, keys to the right"
    return (
        f'<div><div style="margin-bottom:.3em">{told}</div>'
        f'<svg role="img" aria-label="{told}" width="{left + width:.0f}" height="{above + height:.0f}" fill="currentColor" '
        f'style="font:11px system-ui,sans-serif;max-width:100%;overflow:visible">'
        f'{image} preserveAspectRatio="none" style="image-rendering:pixelated"/>'
        f"{labels(look, rows, columns, cell, left, above)}{hints(look, weights, cell, left, above, siblings)}</svg></div>"
    )


def is_labelled(tokens: Sequence[str], length: int) -> bool:
    """Whether each row or column has its token beside it: there are as many, and they can be read."""
    return len(tokens) == length <= LABELLED


def label_space(tokens: Sequence[str], length: int) -> float:
    """Room for the labels, at most 12 characters of 7 pixels."""
    return 7.0 * min(12, max(map(len, tokens), default=0)) + 8 if is_labelled(tokens, length) else 0.0


def labels(look: Look, rows: int, columns: int, cell: float, left: float, above: float) -> str:
    """The tokens beside a map."""
    drawn = ""
    if is_labelled(look.queries, rows):
        for index, token in enumerate(look.queries):
            drawn += f'<text x="{left - 4}" y="{above + (index + 0.5) * cell + 4:.1f}" text-anchor="end">{short(token)}</text>'
    if is_labelled(look.keys, columns):
        for index, token in enumerate(look.keys):
            x = left + (index + 0.5) * cell + 4
            drawn += f'<text transform="translate({x:.1f},{above - 4}) rotate(-90)">{short(token)}</text>'
    return drawn


def short(token: str) -> str:
    """A token as a label."""
    return escape(token if len(token) <= 12 else f"{token[:11]}…")


def hints(look: Look, weights: Array, cell: float, left: float, above: float, siblings: int) -> str:
    """What each cell is, for those who point at it."""
    rows, columns = weights.shape
    if weights.size * siblings > MOST_HINTS:
        return ""
    if not (is_labelled(look.queries, rows) and is_labelled(look.keys, columns)):
        return ""
    size = f'width="{cell:.1f}" height="{cell:.1f}" fill="transparent"'
    return "".join(
        f'<rect x="{left + key * cell:.1f}" y="{above + query * cell:.1f}" {size}>'
        f"<title>{escape(look.queries[query])} → {escape(look.keys[key])}: {weights[query, key]:.4f}</title></rect>"
        for query in range(rows)
        for key in range(columns)
    )


def page(shown: Sequence[Look]) -> str:
    """All heads of all groups."""
    sections = [section(look, f"g{number}") for number, look in enumerate(shown)]
    title = " ".join(shown[0].queries[:40])
    rules = "".join(rule for section_rules, _ in sections for rule in section_rules)
    script = (Path(__file__).parent / "show.js").read_text(encoding="utf-8")
    allowed = b64encode(sha256(script.encode()).digest()).decode()
    return PAGE.format(
        title=escape(title), rules=rules, sections="".join(html for _, html in sections), script=script, allowed=allowed
    )


def section(look: Look, prefix: str) -> tuple[list[str], str]:
    """A group; which of its heads is seen is a choice of radio buttons, by rules of style that are the first part."""
    places = [(row, column) for row in range(len(look.found.layers)) for column in range(len(look.found.heads))]
    rules, inputs, maps = [], [], []
    for row, column in places:
        name, checked = f"{prefix}-{row}-{column}", " checked" * ((row, column) == (look.row, look.column))
        inputs.append(f'<input type="radio" name="{prefix}" id="{name}" aria-label="{escape(look.place(row, column))}"{checked}>')
        maps.append(f'<div class="map {name}">{head_map(look, row, column, len(places))}</div>')
        rules.append(f"#{name}:checked~.row .{name}{{display:block}}#{name}:checked~.row [for={name}]{{{CHOSEN}}}")
    heads = f'<div class="row">{heads_table(look, prefix)}<div>{"".join(maps)}</div></div>'
    return rules, f"<section>{caption(look)}{measures(look)}{''.join(inputs)}{heads}</section>"


def measures(look: Look) -> str:
    """All that were taken, to choose from where scripts run, and what the cells say of each: data that no markup can end."""
    if look.measure is None:
        return ""
    ids = [each for each in look.found.diagnostics if each != "similarity"]
    options = "".join(
        f'<option value="{each}"{" selected" * (each == look.measure)}>{escape(spelled(each))}</option>' for each in ids
    )
    data = json.dumps({each: told_of(replace(look, measure=each)) for each in ids}, ensure_ascii=False).replace("<", "\\u003c")
    return f'<p hidden>Heads by <select aria-label="Measure">{options}</select></p><script type="application/json">{data}</script>'


def told_of(look: Look) -> dict[str, Any]:
    """A measure as the page's script puts it into the cells."""
    cells = [cell for row in range(len(look.found.layers)) for cell in tellings(look, row)]
    return {"name": spelled(look.measure), "caption": meaning(look), "cells": cells}


CHOSEN = "outline:3px solid;outline-offset:-3px"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'sha256-{allowed}'">
<title>kqv: {title}</title><style>
:root{{color-scheme:light dark}}body{{font:14px/1.5 system-ui,sans-serif;margin:2em;max-width:80em}}
.row{{display:flex;flex-wrap:wrap;gap:2em;align-items:flex-start}}.row>div{{flex:1 1 24em}}.map{{display:none}}
input{{position:absolute;opacity:0}}figcaption{{font-weight:600}}section{{position:relative;margin-bottom:3em}}
{rules}</style></head>
<body><h1 style="font-size:1.2em">{title}</h1>{sections}
<p>Click a head to see its weights, or go through them with the arrow keys. Made by kqv.</p><script>{script}</script></body></html>
"""


def figure_kind() -> "type[Figure]":
    """matplotlib's figures, which here a notebook shows without pyplot too. Raises `InputError` where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib: pip install 'kqv[plot]'") from error

    class Plot(Figure):
        """Shown as PNG."""

        def _repr_png_(self) -> bytes:
            self.savefig(file := BytesIO(), format="png")
            return file.getvalue()

    return Plot


def plot(look: Look) -> "Figure":
    """Two panels. Raises `InputError` where matplotlib is missing."""
    weights, figures = look.weights_of(look.row, look.column), look.figures()
    drawing = figure_kind()(figsize=(11, 5), layout="constrained")
    left, right = drawing.subplots(1, 2)
    if figures is not None and look.measure is not None:
        low, high = span(figures, look.measure)
        drawing.colorbar(left.imshow(figures, vmin=low, vmax=high), ax=left)
        left.set(title=f"{look.name}: {spelled(look.measure)}", xlabel="head", ylabel="layer")
        left.set_xticks(range(len(look.found.heads)), map(str, look.found.heads))
        left.set_yticks(range(len(look.found.layers)), map(str, look.found.layers))
    if weights is not None:
        drawing.colorbar(right.imshow(weights, vmin=0), ax=right)
        right.set(title=look.place(look.row, look.column), xlabel="key", ylabel="query")
        if is_labelled(look.keys, weights.shape[1]):
            right.set_xticks(range(len(look.keys)), look.keys, rotation=90)
        if is_labelled(look.queries, weights.shape[0]):
            right.set_yticks(range(len(look.queries)), look.queries)
    return drawing
