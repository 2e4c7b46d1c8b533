"""What there is to look at in a result: its groups, a measure of their heads, and the maps, all as numpy arrays.

A result is the engine's, with tensors, or the client's, with arrays, under the same names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kqv.drawing import Array
from kqv.errors import InputError

SHARES = frozenset(
    "normalized_entropy max_weight top_k_mass self previous next first special duplicate induction max_received".split()
)
"""Measures that lie between 0 and 1, and are coloured so; all others from their smallest to their largest."""
SIDE = 256
"""The longest side of a map in a page; of more, the largest weight of each tile."""


class Found(Protocol):
    """One kind of attention: `kqv.GroupAnalysis`, or the client's."""

    @property
    def layers(self) -> tuple[int, ...]: ...
    @property
    def heads(self) -> tuple[int, ...]: ...
    @property
    def weights(self) -> Any: ...
    @property
    def top(self) -> Any: ...
    @property
    def pooled(self) -> Any: ...
    @property
    def diagnostics(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Look:
    """A group, and the place in it that is looked at."""

    name: str
    found: Found
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    """Tokens; none where embeddings were given."""
    measure: str | None
    """What the heads are coloured by; None where nothing was measured."""
    row: int
    column: int

    def figures(self) -> Array | None:
        """The measure of each head, [L, H]."""
        return None if self.measure is None else by_head(self.found.diagnostics[self.measure])

    def place(self, row: int, column: int) -> str:
        """What a head is called."""
        return f"layer {self.found.layers[row]}, head {self.found.heads[column]}"

    def map_of(self, row: int, column: int) -> Array | None:
        """The weights of a head as they were kept, [queries, keys], or tiles of them. None where there are none."""
        found = self.found
        if found.weights is not None:
            return as_array(found.weights[row][column])
        if found.top is not None:
            return scatter(as_array(found.top.keys[row][column]), as_array(found.top.weights[row][column]), len(self.keys))
        return None if found.pooled is None else as_array(found.pooled[row][column])

    def weights_of(self, row: int, column: int) -> Array | None:
        """Likewise, of a long sequence the largest of each tile."""
        weights = self.map_of(row, column)
        return None if weights is None else pool(weights)


def looks(
    result: Any, measure: str | None = None, *, group: str | None = None, layer: int | None = None, head: int | None = None
) -> list[Look]:
    """Each group of a result, and where to look first: at the head named, or at the sharpest. Raises `InputError`."""
    groups = {name: found for name, found in result.attention.items() if group in (None, name) and found.layers and found.heads}
    if not groups:
        raise InputError(f"there is no attention to show of {group or 'this'}; there is: {', '.join(result.attention) or 'none'}")
    return [look_at(result, name, found, measure, layer, head) for name, found in groups.items()]


def look_at(result: Any, name: str, found: Found, measure: str | None, layer: int | None, head: int | None) -> Look:
    """One of them."""
    shown = [each for each in found.diagnostics if each != "similarity"]
    if measure is not None and measure not in shown:
        raise InputError(f"{measure} was not measured; there is: {', '.join(shown) or 'none'}", ("measure",))
    own, target = result.tokens or (), getattr(result, "target_tokens", None)
    queries = own if name == "encoder" or target is None else target
    keys = own if name == "cross" else queries
    chosen = measure or ("entropy" if "entropy" in shown else next(iter(shown), None))
    row, column = sharpest(found)
    return Look(
        name,
        found,
        tuple(queries),
        tuple(keys),
        chosen,
        row if layer is None else place_of(layer, found.layers, "layer"),
        column if head is None else place_of(head, found.heads, "head"),
    )


def place_of(wanted: int, there: Sequence[int], what: str) -> int:
    """Where a layer or a head stands in the result. Raises `InputError`."""
    if wanted not in there:
        raise InputError(f"{what} {wanted} is not in this result; there are: {', '.join(map(str, there))}", (what,))
    return there.index(wanted)


def sharpest(found: Found) -> tuple[int, int]:
    """The head with the largest weights, less what rests on the first token, where heads go that find nothing to do."""
    if "max_weight" not in found.diagnostics:
        return 0, 0
    resting = [by_head(found.diagnostics[name]) for name in ("first", "special") if name in found.diagnostics]
    sharp = by_head(found.diagnostics["max_weight"]) * (1 - np.nan_to_num(np.max(resting, axis=0)) if resting else 1)
    row, column = np.unravel_index(np.argmax(np.nan_to_num(sharp)), sharp.shape)
    return int(row), int(column)


def as_array(value: Any) -> Array:
    """A tensor of any device and type, or an array, as an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def by_head(figures: Any) -> Array:
    """[L, H]: of figures a query, their mean."""
    array = as_array(figures)
    if array.ndim == 2:
        return array
    counted = ~np.isnan(array)
    return np.where(counted.any(-1), np.where(counted, array, 0).sum(-1) / np.maximum(counted.sum(-1), 1), np.nan)


def scatter(keys: Array, weights: Array, num_keys: int) -> Array:
    """The map that the top weights are of, with 0 elsewhere."""
    full = np.zeros((len(keys), max(num_keys, int(keys.max(initial=0)) + 1)), np.float32)
    np.put_along_axis(full, keys, weights, axis=1)
    return full


def pool(weights: Array, side: int = SIDE) -> Array:
    """The largest weight of each tile, so that no side is longer than a page shows."""
    for axis in (0, 1):
        length = weights.shape[axis]
        if length > side:
            weights = np.maximum.reduceat(weights, np.arange(side) * length // side, axis=axis)
    return weights


def span(figures: Array, measure: str) -> tuple[float, float]:
    """What the darkest and the brightest colour stand for."""
    if measure in SHARES:
        return 0.0, 1.0
    known = figures[~np.isnan(figures)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
