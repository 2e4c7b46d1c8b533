"""Keys and values of what a sequence has read so far, so that decoding a token costs one token."""

import torch
from jaxtyping import Float, Int
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

    @property
    def address(self) -> int:
        """Where its room begins."""
        return self._room.data_ptr()

    @property
    def size(self) -> int:
        """How much there is room for."""
        return len(self._room)

    def reserve(self, count: int, dtype: torch.dtype) -> None:
        """Make room for `count` more, all of it of one type."""
        if self.length + count > len(self._room) or self._room.dtype != dtype:
            size = max(self.length + count, 2 * self.length)
            room = self._room.new_empty((size, *self._room.shape[1:]), dtype=dtype)
            room[: self.length] = self.content
            self._room = room

    def append(self, more: Float[Tensor, "n G D"]) -> None:
        """Put `more` at the end."""
        self.reserve(len(more), self._room.dtype)
        start, self.length = self.length, self.length + len(more)
        self._room[start : self.length] = more


class Cache:
    """One sequence's keys and values: those of its own tokens, which grow, and those of its source, which are read once."""

    def __init__(self) -> None:
        self._layers: dict[tuple[Group, int], tuple[Growing, Growing]] = {}
        self._opened: tuple[int, Int[Tensor, "2 L"]] | None = None  # how much each layer's room is sure to hold, and where it is

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
            first, second = (each.clone(memory_format=torch.contiguous_format) for each in (k, v))
            self._layers[group, layer] = Growing(first), Growing(second)
        else:
            kept[0].append(k)
            kept[1].append(v)
        self._opened = None

    def open(self) -> Int[Tensor, "2 L"]:
        """Where each layer's keys and values lie, [room, G, D] in float32, with room for one more token of the decoder."""
        if self._opened is None or self.length >= self._opened[0]:
            rooms = self._decoder()
            for room in rooms:
                room.reserve(1, torch.float32)
            places = torch.tensor([room.address for room in rooms]).view(-1, 2).mT.contiguous()
            self._opened = min(room.size for room in rooms), places
        return self._opened[1]

    def close(self) -> None:
        """Count what was put in where `open` had made room."""
        for each in self._decoder():
            each.length += 1

    def _decoder(self) -> list[Growing]:
        """Keys and values of each of the decoder's layers, in the order in which they were first read."""
        return [each for (group, _), kept in self._layers.items() if group == "decoder" for each in kept]

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens; the source too, where none is left."""
        if not length:
            self._layers.clear()
            self._opened = None
        for each in self._decoder():
            each.length = min(each.length, length)

    def read(self, group: Group, layer: int) -> tuple[Tensor, Tensor]:
        """All keys and all values of a layer, [m, G, D]."""
        k, v = self._layers[group, layer]
        return k.content, v.content
