"""Keys and values of what a sequence has read so far, so that decoding a token costs one token."""

from jaxtyping import Float
from torch import Tensor

from kqv.config import Group


class Growing:
    """A tensor that grows along its first axis; its room doubles, so that copying costs a constant number of moves a token."""

    def __init__(self, first: Float[Tensor, "n G D"]) -> None:
        self._room, self.length = first, len(first)

    @property
    def content(self) -> Float[Tensor, "n G D"]:
        """What is kept, as a view."""
        return self._room[: self.length]

    def append(self, more: Float[Tensor, "n G D"]) -> None:
        """Put `more` at the end."""
        start, self.length = self.length, self.length + len(more)
        if self.length > len(self._room):
            room = self._room.new_empty((max(self.length, 2 * start), *more.shape[1:]))
            room[:start] = self._room[:start]
            self._room = room
        self._room[start : self.length] = more


class Cache:
    """One sequence's keys and values: those of its own tokens, which grow, and those of its source, which are read once."""

    def __init__(self) -> None:
        self._layers: dict[tuple[Group, int], tuple[Growing, Growing]] = {}

    @property
    def length(self) -> int:
        """How many tokens of the decoder were read."""
        return self.count("decoder", 0)

    def count(self, group: Group, layer: int) -> int:
        """How many keys a layer has."""
        kept = self._layers.get((group, layer))
        return 0 if kept is None else kept[0].length

    def extend(self, group: Group, layer: int, k: Float[Tensor, "n G D"], v: Float[Tensor, "n G D"]) -> None:
        """Keep the keys and values of further tokens."""
        kept = self._layers.get((group, layer))
        if kept is None:
            # Cloned, since what is given is a view of a whole batch's projections.
            self._layers[group, layer] = Growing(k.clone()), Growing(v.clone())
        else:
            kept[0].append(k)
            kept[1].append(v)

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens; the source too, where none is left."""
        if not length:
            self._layers.clear()
        for (group, _), kept in self._layers.items():
            if group == "decoder":
                for each in kept:
                    each.length = min(each.length, length)

    def read(self, group: Group, layer: int) -> tuple[Tensor, Tensor]:
        """All keys and all values of a layer, [m, G, D]."""
        k, v = self._layers[group, layer]
        return k.content, v.content
