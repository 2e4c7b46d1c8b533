"""An analysis as who answers the dashboard's views: what they ask the service for, taken from what was found already.

So the widget shows an analysis, the engine's or the client's, without a server and without computing it again. It has what was kept
and no more: of another layer, or of weights that weren't kept, it says so.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kqv.drawing import Array
from kqv.errors import InputError
from kqv.looks import Look, by_head, looks, pool
from service.client.tensors import write_json


class Findings:
    """Answers `/v1/analyze` as a server would that had been asked for this. Raises `InputError` for what has no maps to show."""

    def __init__(self, analysis: Any) -> None:
        self._looks = {look.name: look for look in looks(analysis)}
        for look in self._looks.values():
            check_shown(look)
        first = next(iter(self._looks.values()))
        self._tokens = tuple(analysis.tokens or map(str, range(map_of(first, 0, 0).shape[1])))  # numbers, for embeddings
        self._target = getattr(analysis, "target_tokens", None)

    @property
    def text(self) -> str:
        """What was read, as far as it is known."""
        return " ".join(self._tokens)

    def first(self) -> dict[str, str]:
        """Where to look first: attributes of the element."""
        look = next(iter(self._looks.values()))
        place = {"group": look.name, "layer": str(look.found.layers[look.row]), "head": str(look.found.heads[look.column])}
        return place | ({} if look.measure is None else {"measure": look.measure})

    def answer(self, body: Mapping[str, Any]) -> bytes:
        """The JSON of an answer. Raises `InputError` for what wasn't kept."""
        if body["weights"] == "none":
            raise InputError(f"this analysis doesn't have {', '.join(body['diagnostics'])} as the views show it; a server does")
        if "layers" not in body:
            groups = {name: overview_fields(look, int(body["pool"])) for name, look in self._looks.items()}
        else:
            groups = {name: head_fields(look, body) for name, look in self._looks.items() if has_head(look, body)}
        if not groups:
            raise InputError(f"this analysis doesn't have that head; it has {', '.join(map(told, self._looks.values()))}")
        result = {"tokens": self._tokens, "target_tokens": self._target, "attention": groups, "truncated": 0}
        return write_json({"model": body.get("model"), "results": [result]})


def check_shown(look: Look) -> None:
    """Raise `InputError` for what isn't the whole map of each head."""
    if look.map_of(0, 0) is None:
        raise InputError('the widget shows maps, of which this has none: analyze with weights="full"')
    shape = None if look.found.weights is None else tuple(look.found.weights.shape[-2:])
    if look.keys and shape not in (None, (len(look.queries), len(look.keys))):
        raise InputError("the widget shows whole maps, and this has a part of them: analyze without queries and keys")


def has_head(look: Look, body: Mapping[str, Any]) -> bool:
    """Whether the one head that is asked for was analyzed."""
    [layer], [head] = body["layers"], body["heads"]
    return layer in look.found.layers and head in look.found.heads


def head_fields(look: Look, body: Mapping[str, Any]) -> dict[str, Any]:
    """One head's weights, or what is in view of them."""
    [layer], [head] = body["layers"], body["heads"]
    weights = in_view(look, map_of(look, look.found.layers.index(layer), look.found.heads.index(head)), body)
    kind = "pooled" if body["weights"] == "pooled" else "weights"
    side = int(body["pool"]) if kind == "pooled" else max(weights.shape)
    return {"layers": [layer], "heads": [head], kind: pool(weights, side)[None, None]}


def map_of(look: Look, row: int, column: int) -> Array:
    """A head's weights, of which there are some."""
    weights = look.map_of(row, column)
    assert weights is not None  # or `check_shown` would have said so
    return weights.astype(np.float32, copy=False)


def told(look: Look) -> str:
    """Which heads there are."""
    layers, heads = (", ".join(map(str, each)) for each in (look.found.layers, look.found.heads))
    return f"{look.name} layers {layers} with heads {heads}"


def overview_fields(look: Look, side: int) -> dict[str, Any]:
    """Each head's measures and thumbnail, in a table from the first layer and head to the last that there are.

    The views count heads from 0: those between that weren't asked for are undefined, and dark.
    """
    found = look.found
    rows, columns = max(found.layers) + 1, max(found.heads) + 1
    places = np.ix_(found.layers, found.heads)
    figures = {name: np.full((rows, columns), np.nan, np.float32) for name in found.diagnostics if name != "similarity"}
    for name, table in figures.items():
        table[places] = by_head(found.diagnostics[name])
    small = [[pool(map_of(look, row, column), side) for column in range(len(found.heads))] for row in range(len(found.layers))]
    thumbnails = np.zeros((rows, columns, *small[0][0].shape), np.float32)
    thumbnails[places] = np.array(small)
    return {"layers": [*range(rows)], "heads": [*range(columns)], "pooled": thumbnails, "diagnostics": figures}


def in_view(look: Look, weights: Array, body: Mapping[str, Any]) -> Array:
    """The part of a map that is asked for. Raises `InputError` where only tiles were kept."""
    rows, columns = body.get("queries"), body.get("keys")
    if rows is None or columns is None or (rows, columns) == ([0, len(look.queries)], [0, len(look.keys)]):
        return weights
    if look.found.weights is None and look.found.top is None:
        raise InputError('only tiles of the maps were kept: analyze with weights="full" to come closer')
    return weights[slice(*rows), slice(*columns)]
